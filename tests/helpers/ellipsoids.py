"""Clouds of one kind, for decoders to learn."""

from __future__ import annotations

import torch
from torch import nn


def ellipsoids(count=12, points=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    radii = 0.2 + torch.rand(count, 1, 3, generator=generator)
    return 3 + radii * nn.functional.normalize(torch.randn(count, points, 3, generator=generator), dim=-1)

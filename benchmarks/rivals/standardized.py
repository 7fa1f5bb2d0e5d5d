"""Flows of other libraries in the data's units, as ``pcf.fit`` trains them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardized(nn.Module):
    """A module that takes one centre and one scale from its training points, as our flow does."""

    loc: Tensor
    scale: Tensor

    def __init__(self, point_dim: int) -> None:
        super().__init__()
        self.point_dim = point_dim
        self.register_buffer("loc", torch.zeros(point_dim))
        self.register_buffer("scale", torch.ones(point_dim))
        self.normalized = False

    @torch.no_grad()
    def normalize(self, points: Tensor) -> None:
        """Take mean and standard deviation from training points."""
        self.loc.copy_(points.mean(0))
        self.scale.fill_((points - points.mean(0)).square().mean().sqrt())
        self.normalized = True

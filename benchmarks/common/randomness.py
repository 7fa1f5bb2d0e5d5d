"""Random numbers of which each purpose has its own."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A generator of the CPU for one purpose; the tables of the documentation were made with these."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def some_points(clouds: Tensor, num_points: int, generator: torch.Generator) -> Tensor:
    """Random points of each cloud, without replacement, shape `(S, num_points, D)` of `(S, N, D)`.

    Raises:
        ValueError: if a cloud does not have as many.
    """
    if clouds.shape[1] < num_points:
        raise ValueError(f"clouds of {clouds.shape[1]} points have no {num_points}: ask for fewer points")
    chosen = torch.rand(clouds.shape[:2], generator=generator).topk(num_points, -1).indices
    return clouds.take_along_dim(chosen.to(clouds.device).unsqueeze(-1), 1)

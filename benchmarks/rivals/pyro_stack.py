"""A rival: Pyro's own couplings over points, affine or splines, for ``pcf.fit``."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_coupling, permute, spline_coupling
from torch import Tensor, nn

from benchmarks.rivals.standardized import Standardized

COUPLINGS = {"affine": affine_coupling, "spline": spline_coupling}


class PyroStack(Standardized):
    """Pyro's own couplings with a cyclic permutation between them, in the units of the data.

    Args:
        point_dim: number of coordinates ``D``.
        num_couplings: number of couplings.
        hidden_dims: widths of the hidden layers of each.
        split_dim: how many coordinates a coupling keeps; by default half of them, as Pyro has it.
        coupling: "affine", or "spline", of eight bins within three standard deviations, as Pyro has it.
    """

    def __init__(
        self,
        point_dim: int = 3,
        num_couplings: int = 12,
        hidden_dims: Sequence[int] = (64, 64),
        split_dim: int | None = None,
        coupling: str = "affine",
    ) -> None:
        super().__init__(point_dim)
        parts: list[nn.Module] = []
        for layer in range(num_couplings):
            if layer:
                parts.append(permute(point_dim, torch.arange(point_dim).roll(1)))
            parts.append(COUPLINGS[coupling](point_dim, split_dim=split_dim, hidden_dims=list(hidden_dims)))
        self.parts = parts
        self.learned = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))

    def condition(self) -> dist.TransformedDistribution:
        """The density of a point in the data's units."""
        noise = dist.Normal(torch.zeros_like(self.loc), torch.ones_like(self.loc)).to_event(1)
        units = dist.transforms.AffineTransform(self.loc, self.scale, event_dim=1)
        return dist.TransformedDistribution(noise, [*self.parts, units])

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density in nats, shape ``(*batch,)``."""
        # Pyro's couplings return the inverse they cached under older weights for a tensor that they saw before.
        return self.condition().log_prob(points.clone())

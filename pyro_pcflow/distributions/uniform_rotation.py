"""Uniform random rotations, as quaternions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_pcflow.distributions.base import CompositeDistribution

__all__ = ["UniformRotation"]


class UniformRotation(CompositeDistribution):
    """A uniform random rotation, as the offset of its quaternion from a given one.

    The rotation is that of the quaternion `around + offset`, see `rotation_matrix`: its direction is uniform on the
    sphere, so that the rotation is uniform over the group (Haar measure), and its length, which has no meaning, is
    log-normal around 1. Standard normal quaternions have the same rotations, but their length varies so much more than
    a well known rotation that a sampler has to take many small steps.

    Args:
        around: unit quaternion where an offset of zero is, shape `(*batch, 4)`, or `(*batch, 2)` for the plane.
        length_scale: standard deviation of the logarithm of the length.

    Examples:
        >>> around = torch.tensor([1.0, 0.0, 0.0, 0.0])
        >>> quaternions = around + UniformRotation(around).sample((1000,))
        >>> bool((quaternions.norm(dim=-1).mean() - 1).abs() < 0.02)
        True
    """

    support = constraints.real_vector
    has_rsample = True

    def __init__(self, around: Tensor, length_scale: float = 0.1, *, validate_args: bool | None = None) -> None:
        self.around = around
        self.length_scale = length_scale
        self._length = dist.LogNormal(torch.zeros_like(around[..., 0]), length_scale)
        super().__init__(around.shape[:-1], around.shape[-1:], validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> UniformRotation:
        return UniformRotation(self.around.expand(*batch_shape, *self.event_shape), self.length_scale)

    def _made_of(self) -> dict[str, Any]:
        return {"around": self.around, "length_scale": self.length_scale}

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw offsets, shape `(*sample_shape, *batch_shape, 2 or 4)`."""
        length = self._length.rsample(torch.Size(sample_shape)).unsqueeze(-1)
        direction = torch.randn_like(length.expand(*length.shape[:-1], *self.event_shape))
        return length * direction / direction.norm(dim=-1, keepdim=True) - self.around

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of offsets of shape `(*batch, 2 or 4)`: that of the length, over the area of its sphere."""
        if self._validate_args:
            self._validate_sample(value)
        size = self.event_shape[0]
        length = (self.around + value).norm(dim=-1)
        log_area = math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2) + (size - 1) * length.log()
        return self._length.log_prob(length) - log_area

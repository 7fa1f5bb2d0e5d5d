"""The noise that a flow carries to data."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["ConditionalNormal", "StandardNormal"]


class StandardNormal(nn.Module):
    """Standard normal noise in `D` dimensions, whatever the context.

    Args:
        point_dim: number of coordinates `D`.
    """

    zero: Tensor

    def __init__(self, point_dim: int) -> None:
        super().__init__()
        # Follows the module's device and data type; no part of its state.
        self.register_buffer("zero", torch.zeros(point_dim), persistent=False)

    def condition(self, context: Tensor | None) -> dist.Independent:
        """Return the noise, `batch_shape ()` and `event_shape (D,)`."""
        # Expanded views of one number: nothing is allocated, and no argument is worth checking.
        one = torch.ones((), dtype=self.zero.dtype, device=self.zero.device).expand_as(self.zero)
        return dist.Normal(self.zero, one, validate_args=False).to_event(1)


class ConditionalNormal(nn.Module):
    """Independent normal noise whose mean and scale come from the context.

    Klokov, Boyer and Verbeek, Discrete point flow networks, ECCV 2020. The scale is `exp(tanh(s))` of a linear
    `s`, so it stays between `1 / e` and `e`; the first noise is standard normal.

    Args:
        point_dim: number of coordinates `D`.
        context_dim: size `C` of a context.
    """

    def __init__(self, point_dim: int, context_dim: int) -> None:
        super().__init__()
        self.point_dim = point_dim
        self.network = nn.Linear(context_dim, 2 * point_dim)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    def condition(self, context: Tensor | None) -> dist.Independent:
        """Return the noise under a context.

        Args:
            context: shape `(*batch, C)`.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (D,)`.
        """
        loc, log_scale = self.network(context).split(self.point_dim, -1)
        return dist.Normal(loc, log_scale.tanh().exp()).to_event(1)

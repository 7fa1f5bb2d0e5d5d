"""Base distributions of a flow: the noise that it carries to data."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_pcflow.distributions.pushforward import Pushforward
from pyro_pcflow.transforms import ConditionalPointTransform

__all__ = ["ConditionalNormal", "StandardNormal"]


class StandardNormal(nn.Module):
    """Standard normal base distribution in `D` dimensions, whatever the context.

    Args:
        point_dim: number of coordinates `D`.
    """

    zero: Tensor

    def __init__(self, point_dim: int) -> None:
        super().__init__()
        # Follows the module's device and data type; no part of its state.
        self.register_buffer("zero", torch.zeros(point_dim), persistent=False)

    def distribution(self, context: Tensor | None) -> dist.Independent:
        """Return the noise, `batch_shape ()` and `event_shape (D,)`."""
        # Expanded views of one number: nothing is allocated, and there is no argument to check.
        one = torch.ones((), dtype=self.zero.dtype, device=self.zero.device).expand_as(self.zero)
        return dist.Normal(self.zero, one, validate_args=False).to_event(1)


class ConditionalNormal(ConditionalPointTransform):
    """Normal base distribution whose mean and scale come from the context.

    Klokov, Boyer and Verbeek, Discrete point flow networks, ECCV 2020. The scale is `exp(tanh(s))`, with `s` linear in
    the context, so it stays between `1 / e` and `e`. A new module gives standard normal noise.

    It is a transform of standard normal noise, so that its network is evaluated when points are scored or sampled, and
    not by `condition`.

    Args:
        point_dim: number of coordinates `D`.
        context_dim: size `C` of a context.
    """

    def __init__(self, point_dim: int, context_dim: int) -> None:
        super().__init__(point_dim, context_dim)
        self.standard = StandardNormal(point_dim)
        self.network = nn.Linear(context_dim, 2 * point_dim)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    def distribution(self, context: Tensor | None) -> Pushforward:
        """Return the noise under a context.

        Args:
            context: shape `(*batch, C)`.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (D,)`.
        """
        assert context is not None  # as the flow made sure
        return Pushforward(self.standard.distribution(None), self.condition(context))

    def transform_and_log_det(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self._loc_and_log_scale(context)
        return torch.addcmul(loc, x, log_scale.exp()), log_scale.sum(-1).expand(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self._loc_and_log_scale(context)
        return (y - loc) * torch.exp(-log_scale), -log_scale.sum(-1).expand(y.shape[:-1])

    def _loc_and_log_scale(self, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.network(context).split(self.point_dim, -1)
        return loc, log_scale.tanh()

"""The distribution of noise that a point transform carries to data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions.base import PointDistribution
from pyro_pcflow.distributions.mixture import Mixture
from pyro_pcflow.transforms import ConditionedPointTransform, PointTransform

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MixturePushforward", "Pushforward"]


class Pushforward(PointDistribution, dist.TransformedDistribution):
    """Noise under one point transform, as `PointCloudFlow.condition` returns it.

    torch's own `log_prob` asks a transform for a value and then for its log-determinant. This one asks for both at
    once, so that it evaluates no network twice even where nothing may be cached, as under torch.compile.

    Args:
        noise: a distribution with `event_shape (D,)`.
        transform: carries noise to data.
        check: called with points before they are scored.
    """

    def __init__(
        self,
        noise: Distribution,
        transform: PointTransform | ConditionedPointTransform,
        check: Callable[[Tensor], None] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._check = check
        dist.TransformedDistribution.__init__(self, noise, [transform], validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> Self:
        return type(self)(self.base_dist.expand(batch_shape), self.transforms[0], self._check)

    def _made_of(self) -> dict[str, Any]:
        (transform,) = self.transforms
        if isinstance(transform, ConditionedPointTransform):
            name = type(transform.transform).__name__
            return {"noise": self.base_dist, "transform": name, "context": transform.context}
        return {"noise": self.base_dist, "transform": type(transform).__name__}

    def _check_shape(self, value: Tensor) -> None:
        super()._check_shape(value)
        if self._check is not None:
            self._check(value)
        self.transforms[0].inverse_shape(value.shape)

    def _log_prob(self, value: Tensor) -> Tensor:
        noise, log_det = self.transforms[0].cached_inverse(value)
        return self.base_dist.log_prob(noise) + log_det


class MixturePushforward(Pushforward, Mixture):
    """A mixture under one point transform: a mixture of its components' images."""

    def sample_with_labels(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            noise, labels = self.base_dist.sample_with_labels(sample_shape)
            return self.transforms[0](noise), labels

    def responsibilities(self, value: Tensor) -> Tensor:
        self._check_value(value)
        return self.base_dist.responsibilities(self.transforms[0].cached_inverse(value)[0])

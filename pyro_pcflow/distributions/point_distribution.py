"""Noise under one point transform."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_pcflow.transforms.base import check_points
from pyro_pcflow.transforms.cache import is_traced

__all__ = ["PointDistribution"]


class PointDistribution(dist.TransformedDistribution):
    """Noise under one point transform, as `PointCloudFlow.condition` returns it.

    torch's own `log_prob` asks a transform for a value and then for its log-determinant. This one asks for both at
    once, so that it evaluates no network twice even where nothing may be remembered, as under torch.compile.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of points in nats.

        Args:
            value: shape `(*batch, D)`, finite.

        Returns:
            Shape `(*batch,)`, broadcast with the batch shape of the distribution.

        Raises:
            TypeError: if the value is not a tensor.
            ValueError: if its shape does not fit, or, unless validation is off, if it is not finite.
        """
        (transform,) = self.transforms
        check_points(value, self.event_shape[0])
        transform.inverse_shape(value.shape)
        if self._validate_args and not is_traced(value):
            _check_finite(value)
            self._validate_sample(value)
        noise, log_det = transform.recall_or_invert(value)
        return self.base_dist.log_prob(noise) + log_det


def _check_finite(points: Tensor) -> None:
    # torch's own validation lets infinity pass.
    if not points.isfinite().all():
        raise ValueError(
            f"expected finite points, got a tensor of shape {tuple(points.shape)} with NaN or infinite coordinates: "
            "drop such points, or mark them as padding by the mask of a cloud"
        )

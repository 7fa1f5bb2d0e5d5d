"""Base classes of the distributions over points: validation, expansion and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from pyro_pcflow.ops.tracing import is_traced
from pyro_pcflow.transforms.checks import check_points

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CompositeDistribution", "PointDistribution", "check_point_distribution", "describe", "select_points"]


class CompositeDistribution(TorchDistribution):
    """A distribution that is made of others: subclasses say of which, and how they are expanded."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own spelling

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return the distribution with its batch shape broadcast to `batch_shape`."""
        expanded = self._expanded(torch.Size(batch_shape))
        if "_validate_args" in vars(self):  # set for this distribution alone
            expanded._validate_args = self._validate_args
        return expanded

    def _expanded(self, batch_shape: torch.Size) -> Self:
        raise NotImplementedError(f"{type(self).__name__} does not define _expanded")

    def _made_of(self) -> dict[str, Any]:
        """What the distribution is made of, by the names that are printed."""
        raise NotImplementedError(f"{type(self).__name__} does not define _made_of")

    def __repr__(self) -> str:
        parts = [*_shapes(self), *(f"{name}={describe(part)}" for name, part in self._made_of().items())]
        return f"{type(self).__name__}({', '.join(parts)})"


class PointDistribution(CompositeDistribution):
    """A distribution over points, `event_shape (D,)`, whose `log_prob` checks its argument first.

    Subclasses define `_log_prob`, which may rely on the shape of its argument, and on its values unless validation is
    off.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of points in nats.

        Args:
            value: shape `(*batch, D)`, finite; its batch shape broadcasts with that of the distribution.

        Returns:
            The shape of both batch shapes, broadcast.

        Raises:
            TypeError: if the value is not a tensor, or its data type is wider than that of a flow's weights.
            ValueError: if its shape does not fit, or, unless validation is off, if it is not finite.
        """
        self._check_value(value)
        return self._log_prob(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not define _log_prob")

    def _check_shape(self, value: Tensor) -> None:
        check_points(value, self.event_shape[0])

    def _check_value(self, value: Tensor) -> None:
        self._check_shape(value)
        if self._validate_args and not is_traced(value):
            _check_finite(value)
            self._validate_sample(value)


def check_point_distribution(point_distribution: Distribution) -> None:
    """Raise unless it is a distribution over points.

    Raises:
        TypeError: if it is not a distribution.
        ValueError: if its event shape is not `(D,)`.
    """
    if not isinstance(point_distribution, Distribution):
        raise TypeError(
            f"expected a point distribution, got {type(point_distribution).__name__}; a conditional flow becomes one "
            "by flow.condition(context)"
        )
    if len(point_distribution.event_shape) != 1:
        raise ValueError(
            "expected a distribution over points, of event shape (D,), got event shape "
            f"{tuple(point_distribution.event_shape)}; .to_event(1) declares the last dimension an event"
        )


def describe(part: Any) -> str:
    """One line about a part of a distribution: its shapes rather than its numbers."""
    if isinstance(part, CompositeDistribution):
        return repr(part)
    if isinstance(part, Distribution):
        inner = part
        while isinstance(inner, Independent):
            inner = inner.base_dist
        return f"{type(inner).__name__}({', '.join(_shapes(part))})"
    if isinstance(part, Tensor):
        return f"{part.item():.4g}" if part.dim() == 0 and not is_traced(part) else f"<shape {tuple(part.shape)}>"
    if isinstance(part, list):
        return f"[{', '.join(map(describe, part))}]"
    return part if isinstance(part, str) else repr(part)


def select_points(points: Tensor, mask: Tensor | None) -> Tensor:
    """The points that a mask of shape `(*batch,)` keeps, shape `(count, D)`; all of `(*batch, D)` without one."""
    if mask is None:
        return points.reshape(-1, points.shape[-1])
    if mask.dtype != torch.bool:
        raise TypeError(f"expected a mask of booleans, True at the points of a cloud, got {mask.dtype}")
    try:
        mask = mask.to(points.device).expand(points.shape[:-1])
    except RuntimeError as error:
        raise ValueError(
            f"expected a mask of shape {tuple(points.shape[:-1])}, one entry per point, got {tuple(mask.shape)}"
        ) from error
    return points[mask]


def _shapes(distribution: Distribution) -> list[str]:
    return [
        f"batch_shape={tuple(distribution.batch_shape)}",
        f"event_shape={tuple(distribution.event_shape)}",
    ]


def _check_finite(points: Tensor) -> None:
    # torch's own validation lets infinity pass.
    if not points.isfinite().all():
        raise ValueError(
            f"expected finite points, got a tensor of shape {tuple(points.shape)} with NaN or infinite coordinates: "
            "drop such points, or mark them as padding by the mask of a cloud"
        )

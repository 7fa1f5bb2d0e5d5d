"""A set of points as one event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from pyro_pcflow.distributions.base import CompositeDistribution, check_point_distribution
from pyro_pcflow.distributions.notebook import cloud_html

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PointCloud"]


class PointCloud(CompositeDistribution):
    """`num_points` independent samples of a point distribution, as one event of shape `(N, D)`.

    The log-density of a cloud is the sum over its points, so it does not depend on their order. With a mask,
    clouds of different sizes share one batch: entries where the mask is False are padding, which has no density
    and is zero in samples.

    Args:
        point_distribution: a distribution with `event_shape (D,)`, such as `flow.condition(context)`, a normal
            `.to_event(1)`, or a mixture.
        num_points: number of points `N`; may be left out when there is a mask.
        mask: booleans of shape `(*batch, N)`, True at the points of a cloud; broadcasts with the batch shape of
            `point_distribution`.

    Raises:
        TypeError: if `point_distribution` is not a distribution or the mask is not boolean.
        ValueError: if its event is not a point, `num_points` is missing or negative, or the mask does not fit.

    Examples:
        >>> import pyro.distributions as dist
        >>> point = dist.Normal(torch.zeros(4, 3), torch.ones(4, 3)).to_event(1)
        >>> clouds = PointCloud(point, num_points=100)
        >>> clouds.batch_shape, clouds.event_shape
        (torch.Size([4]), torch.Size([100, 3]))
        >>> clouds.log_prob(clouds.sample()).shape
        torch.Size([4])
    """

    def __init__(
        self,
        point_distribution: Distribution,
        num_points: int | None = None,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_point_distribution(point_distribution)
        self.num_points = _check_num_points(num_points, mask)
        self.point_distribution = point_distribution
        self.point_mask = mask
        batch_shape = point_distribution.batch_shape
        if mask is not None:
            try:
                batch_shape = torch.broadcast_shapes(batch_shape, mask.shape[:-1])
            except RuntimeError as error:
                raise ValueError(
                    f"a mask of shape {tuple(mask.shape)} does not fit clouds of batch shape {tuple(batch_shape)}: "
                    f"expected a shape that broadcasts to {(*batch_shape, self.num_points)}, one row per cloud"
                ) from error
        self._point_dim = point_distribution.event_shape[0]
        super().__init__(batch_shape, torch.Size((self.num_points, self._point_dim)), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether samples carry gradients, as those of the point distribution do."""
        return self.point_distribution.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """The support of a point, as an event of one more dimension."""
        return constraints.independent(self.point_distribution.support, 1)

    def _expanded(self, batch_shape: torch.Size) -> Self:
        mask = None if self.point_mask is None else self.point_mask.expand(*batch_shape, self.num_points)
        return type(self)(self.point_distribution.expand(batch_shape), self.num_points, mask)

    def _made_of(self) -> dict[str, Any]:
        parts = {"point_distribution": self.point_distribution}
        return parts if self.point_mask is None else {**parts, "mask": self.point_mask}

    def _repr_html_(self) -> str:
        point = self.point_distribution.expand(self.batch_shape)
        return cloud_html(repr(self), point, self.num_points, self.point_mask)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Sample clouds with gradients, shape `(*sample_shape, *batch_shape, N, D)`."""
        return self._draw(self._points().rsample, sample_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Sample clouds, shape `(*sample_shape, *batch_shape, N, D)`; padding is zero."""
        with torch.no_grad():
            return self._draw(self._points().sample, sample_shape)

    def _points(self) -> Distribution:
        return self.point_distribution.expand(self.batch_shape)

    def _draw(self, draw: Any, sample_shape: Sequence[int]) -> Tensor:
        # Points come first, so that what belongs to a cloud broadcasts over them without being repeated.
        clouds = draw(torch.Size((self.num_points, *sample_shape))).movedim(0, -2)
        if self.point_mask is not None:
            clouds = torch.where(self.point_mask.unsqueeze(-1), clouds, torch.zeros_like(clouds))
        return clouds

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of clouds in nats: the sum over their points.

        Args:
            value: shape `(*sample_shape, *batch_shape, N, D)`; padding may hold anything.

        Returns:
            Shape `(*sample_shape, *batch_shape)`.

        Raises:
            TypeError: if the value is not a tensor.
            ValueError: if the last two dimensions are not `(N, D)`, the others do not broadcast with the batch shape,
                or a point lies outside the support.
        """
        return self.log_prob_of_points(value).sum(-1)

    def log_prob_of_points(self, value: Tensor) -> Tensor:
        """The log-density of each point in nats, 0 of padding: shape `(*sample_shape, *batch_shape, N)`.

        Its sum over points is `log_prob`, which has the arguments and errors.
        """
        batch_shape = self._check_value(value)
        if value.numel() == 0 or 0 in batch_shape:
            return value.new_zeros(*batch_shape, self.num_points)
        if self.point_mask is not None:
            value = torch.where(self.point_mask.unsqueeze(-1), value, self._padding(value))
        # The leading dimension of points broadcasts against the contexts, which stay one per cloud.
        value = value.expand(*(1,) * (len(batch_shape) + 2 - value.dim()), *value.shape)
        log_prob = self.point_distribution.log_prob(value.movedim(-2, 0))
        if self.point_mask is not None:
            mask = self.point_mask.expand(*batch_shape, self.num_points).movedim(-1, 0)
            log_prob = torch.where(mask, log_prob, torch.zeros_like(log_prob))
        return log_prob.movedim(0, -1).expand(*batch_shape, self.num_points)

    def _check_value(self, value: Tensor) -> torch.Size:
        """The batch shape of the density of `value`, which must fit."""
        # Written out in both places: a string with the number of points would make it a constant of a compiled graph.
        if not isinstance(value, Tensor):
            raise TypeError(
                f"expected clouds as a torch.Tensor of shape (*batch, {self.num_points}, {self._point_dim}), got "
                f"{type(value).__name__}; torch.as_tensor makes one"
            )
        if value.dim() < 2 or value.shape[-2:] != self.event_shape:
            raise ValueError(
                f"expected clouds of shape (*batch, {self.num_points}, {self._point_dim}), got a tensor of shape "
                f"{tuple(value.shape)}: its last two dimensions must hold the num_points={self.num_points} points and "
                f"their {self._point_dim} coordinates"
            )
        try:
            return torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        except RuntimeError as error:
            raise ValueError(
                f"clouds of batch shape {tuple(value.shape[:-2])} do not broadcast with a distribution of batch shape "
                f"{tuple(self.batch_shape)}: expected one cloud per context"
            ) from error

    def _padding(self, value: Tensor) -> Tensor:
        """A point of the support to stand in for padding."""
        origin = value.new_zeros(self._point_dim)
        support = self.point_distribution.support
        return origin if support is None else transform_to(support)(origin)


def _check_num_points(num_points: int | None, mask: Tensor | None) -> int:
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        got = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(
            f"expected a mask of booleans, True at the points of a cloud, got {got}; "
            "torch.as_tensor(mask, dtype=torch.bool) makes one"
        )
    if mask is not None and mask.dim() < 1:
        raise ValueError("expected a mask of shape (*batch, num_points), got one of shape ()")
    if num_points is None:
        if mask is None:
            raise ValueError("num_points is missing: how many points does a cloud have?")
        return mask.shape[-1]
    if num_points != int(num_points):
        raise ValueError(f"num_points must be a whole number, got {num_points}")
    if num_points < 0:
        raise ValueError(f"num_points must not be negative, got {num_points}")
    if mask is not None and mask.shape[-1] != num_points:
        raise ValueError(
            f"expected a mask of shape (*batch, {num_points}), got {tuple(mask.shape)}: its last dimension must "
            "have one entry per point"
        )
    return int(num_points)


def sample_clouds(density: PointCloud, num_clouds: int) -> Tensor:
    """Sample clouds from one density, or one from each of a batch of `num_clouds`, without gradients: (S, N, D)."""
    if num_clouds < 0:
        raise ValueError(f"num_clouds must not be negative, got {num_clouds}")
    if density.batch_shape not in ((), (num_clouds,)):
        raise ValueError(
            f"expected one context for all of {num_clouds} clouds, shape (C,), or one per cloud, shape ({num_clouds}, "
            f"C), got contexts of batch shape {tuple(density.batch_shape)}"
        )
    with torch.no_grad():
        return density.sample(torch.Size(() if density.batch_shape else (num_clouds,)))

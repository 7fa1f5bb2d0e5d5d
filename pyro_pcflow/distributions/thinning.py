"""Points of which a sensor records only some: cut off, hidden, or seen from one side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_pcflow.distributions.mixture import PointMixture
from pyro_pcflow.distributions.point_cloud import check_point_distribution
from pyro_pcflow.distributions.quasi_random import quasi_draws

__all__ = ["HalfSpace", "ThinnedPoint", "one_sided"]

# A draw that is refused this often has a share that no density could be normalised by either.
MAX_ROUNDS = 10_000


@dataclass(frozen=True, eq=False)
class HalfSpace:
    """The probability that a sensor records a point, where it sees one side of a plane with a soft edge.

    `keep(x) = Phi((x . direction - offset) / softness)`, with `Phi` the distribution function of the normal.

    Args:
        direction: unit vector towards the sensor, shape `(*batch, D)`.
        offset: where the plane lies along it, in the data's units, shape `(*batch,)` or a number.
        softness: width of the edge, in the data's units, a positive number.

    Raises:
        ValueError: if the softness is not positive or the direction has no length 1.

    Examples:
        >>> front = HalfSpace(torch.tensor([0.0, 0.0, 1.0]), softness=0.1)
        >>> front(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])).exp().round(decimals=3).tolist()
        [1.0, 0.0]
    """

    direction: Tensor
    offset: Tensor | float = 0.0
    softness: float = 0.05

    def __post_init__(self) -> None:
        if not self.softness > 0:
            raise ValueError(f"expected a positive softness, got {self.softness}")
        if Distribution._validate_args and not ((self.direction.norm(dim=-1) - 1).abs() < 1e-3).all():
            raise ValueError(f"expected a direction of length 1, got {self.direction.tolist()}")

    @property
    def batch_shape(self) -> torch.Size:
        """The batch shape of direction and offset together."""
        return torch.broadcast_shapes(self.direction.shape[:-1], torch.as_tensor(self.offset).shape)

    def __call__(self, points: Tensor) -> Tensor:
        """The log-probability that points of shape `(*batch, D)` are recorded, shape `(*batch,)`."""
        height = torch.linalg.vecdot(points, self.direction) - self.offset
        return torch.special.log_ndtr(height / self.softness)


class ThinnedPoint(TorchDistribution):
    """A point of a distribution, given that a sensor recorded it.

    Each point is recorded with a probability of its own, as in the thinning of a point process (Daley and Vere-Jones,
    An Introduction to the Theory of Point Processes, 2003, section 11.3):

        p(x | recorded) = p_0(x) keep(x) / Z,        Z = E[keep(y)] with y from p_0

    Draws are exact, by rejection. `Z` is approximate: the mean over `num_draws` draws of `quasi_draws`, the same each
    time, so that the density is a smooth function of all parameters. An error of `Z` shifts the log-density of every
    point alike, that of a cloud `N` times: for clouds of thousands of points give more draws. For flows and the
    default of 4096 draws the error of `log Z` is about 4e-3 nats (root mean square). The components of a
    `PointMixture` are integrated one by one.

    Args:
        point_distribution: a distribution with `event_shape (D,)`.
        log_keep: log-probability that a point is recorded, from shape `(*batch, D)` to `(*batch,)`, at most 0. Its
            attribute `batch_shape`, if it has one, broadcasts with that of the points.
        num_draws: draws for the share `Z`, best a power of two.

    Raises:
        TypeError: if `point_distribution` is not a distribution, or its draws carry no gradients.
        ValueError: if its event is not a point or the batch shapes do not fit.

    Examples:
        >>> import pyro.distributions as dist
        >>> thing = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> seen = ThinnedPoint(thing, HalfSpace(torch.tensor([0.0, 0.0, 1.0])))
        >>> bool((seen.log_share().exp() - 0.5).abs() < 1e-3)
        True
        >>> bool((seen.sample((1000,))[:, 2] > -0.3).all())
        True
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own spelling

    def __init__(
        self,
        point_distribution: Distribution,
        log_keep: Callable[[Tensor], Tensor],
        num_draws: int = 4096,
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_point_distribution(point_distribution)
        if num_draws < 1:
            raise ValueError(f"expected at least one draw for the recorded share, got num_draws={num_draws}")
        self.point_distribution = point_distribution
        self.log_keep = log_keep
        self.num_draws = num_draws
        keep_shape = getattr(log_keep, "batch_shape", torch.Size())
        try:
            batch_shape = torch.broadcast_shapes(point_distribution.batch_shape, keep_shape)
        except RuntimeError as error:
            raise ValueError(
                f"points of batch shape {tuple(point_distribution.batch_shape)} do not broadcast with a sensor of "
                f"batch shape {tuple(keep_shape)}"
            ) from error
        super().__init__(batch_shape, point_distribution.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        """The support of the point distribution."""
        return self.point_distribution.support

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ThinnedPoint:
        """Return the distribution with its batch shape broadcast to `batch_shape`."""
        return ThinnedPoint(
            self.point_distribution.expand(torch.Size(batch_shape)),
            self.log_keep,
            self.num_draws,
            validate_args=self.__dict__.get("_validate_args"),
        )

    def complement(self) -> ThinnedPoint:
        """The distribution of the points that the sensor did not record."""
        return ThinnedPoint(self.point_distribution, _Complement(self.log_keep), self.num_draws)

    def log_share(self) -> Tensor:
        """`log Z`, the log-probability that a point is recorded, broadcasts with `batch_shape`."""
        return _log_share(self.point_distribution, self.log_keep, self.num_draws)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw recorded points, shape `(*sample_shape, *batch_shape, D)`.

        Raises:
            ValueError: if next to no point is recorded.
        """
        points = self.point_distribution.expand(self.batch_shape)
        with torch.no_grad():
            draws = points.sample(torch.Size(sample_shape))
            refused = self._refuse(draws)
            for _ in range(MAX_ROUNDS):
                if not refused.any():
                    return draws
                fresh = points.sample(torch.Size(sample_shape))
                draws = torch.where(refused.unsqueeze(-1), fresh, draws)
                refused = refused & self._refuse(draws)
        raise ValueError(
            f"after {MAX_ROUNDS} rounds {int(refused.sum())} draws were still not recorded: the sensor sees next to "
            f"nothing of the thing, log share {self.log_share().min().item():.3g}"
        )

    def _refuse(self, points: Tensor) -> Tensor:
        keep = self.log_keep(points)
        return torch.rand_like(keep).log() >= keep

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of recorded points in nats.

        Args:
            value: shape `(*sample_shape, *batch_shape, D)`.

        Returns:
            Shape `(*sample_shape, *batch_shape)`.
        """
        if self._validate_args:
            self._validate_sample(value)
        return self.point_distribution.log_prob(value) + self.log_keep(value) - self.log_share()


def one_sided(
    point_distribution: Distribution,
    direction: Tensor,
    offset: Tensor | float = 0.0,
    softness: float = 0.05,
    num_draws: int = 4096,
) -> ThinnedPoint:
    """The points of a thing that are seen from one side: a `ThinnedPoint` with a `HalfSpace`.

    The visible side is what lies beyond a plane that is perpendicular to the line of sight. That is right for a
    convex thing that is symmetric about the plane, and an approximation for any other, whose parts may hide each
    other. For a better sensor model, give `ThinnedPoint` its own `log_keep`.

    Args:
        point_distribution: a distribution with `event_shape (D,)`.
        direction: unit vector from the thing to the sensor, shape `(*batch, D)`.
        offset: where the plane lies along it, in the data's units.
        softness: width of the plane's edge, in the data's units.
        num_draws: draws for the share that is seen.

    Examples:
        >>> import pyro.distributions as dist
        >>> thing = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> seen = one_sided(thing, torch.tensor([0.0, 0.0, 1.0]))
        >>> bool((seen.complement().sample((1000,))[:, 2] < 0.3).all())
        True
    """
    return ThinnedPoint(point_distribution, HalfSpace(direction, offset, softness), num_draws)


@dataclass(frozen=True, eq=False)
class _Complement:
    log_keep: Callable[[Tensor], Tensor]

    @property
    def batch_shape(self) -> torch.Size:
        return getattr(self.log_keep, "batch_shape", torch.Size())

    def __call__(self, points: Tensor) -> Tensor:
        # log(1 - exp(x)), accurate at both ends (Maechler, Accurately computing log(1 - exp(-|a|)), 2012).
        keep = self.log_keep(points).clamp(max=-torch.finfo(points.dtype).tiny)
        small = keep < -math.log(2)
        return torch.where(
            small,
            torch.log1p(-torch.where(small, keep, -1.0).exp()),
            torch.log(-torch.expm1(torch.where(small, -1.0, keep))),
        )


def _log_share(points: Distribution, log_keep: Callable[[Tensor], Tensor], num_draws: int) -> Tensor:
    if isinstance(points, PointMixture):
        shares = torch.stack([_log_share(component, log_keep, num_draws) for component in points.components], -1)
        return (points.logits + shares).logsumexp(-1)
    keep = log_keep(quasi_draws(points, num_draws))
    return keep.logsumexp(0) - math.log(num_draws)

"""Thinned point distributions: a sensor records each point with a probability that depends on its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_pcflow.distributions.base import PointDistribution, check_point_distribution, describe
from pyro_pcflow.distributions.gaussian_mixture import as_gaussians, with_gaussians
from pyro_pcflow.distributions.mixture import PointMixture
from pyro_pcflow.distributions.quasi_random import quasi_monte_carlo

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NothingRecordedError", "SoftHalfSpace", "ThinnedPoint", "one_sided"]

# Where so many points are rejected for each one that is wanted, no density could be normalised either.
MOST_REJECTED = 10_000
# Points that are drawn at once where many are rejected.
LARGEST_DRAW = 2**16


class NothingRecordedError(ValueError):
    """A sensor sees next to nothing of an object, so that no recorded point can be drawn."""


@runtime_checkable
class HasNormalMean(Protocol):
    """A retention probability whose mean under a normal distribution is known."""

    def log_mean_under_normals(self, loc: Tensor, root: Tensor) -> Tensor:
        """The log-probability that a point is recorded: see `SoftHalfSpace.log_mean_under_normals`."""


@dataclass(frozen=True, eq=False, repr=False)
class SoftHalfSpace:
    """Retention probability of a sensor that sees one side of a plane with a soft edge.

    `r(x) = Phi((x . direction - offset) / softness)`, with `Phi` the distribution function of the standard normal.

    Args:
        direction: unit vector towards the sensor, shape `(*batch, D)`.
        offset: where the plane lies along it, in the data's units, shape `(*batch,)` or a number.
        softness: width of the edge, in the data's units, a positive number.

    Raises:
        ValueError: if the softness is not positive, or the length of the direction is not 1.

    Examples:
        >>> front = SoftHalfSpace(torch.tensor([0.0, 0.0, 1.0]), softness=0.1)
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

    def log_mean_under_normals(self, loc: Tensor, root: Tensor) -> Tensor:
        """The log-probability that a normally distributed point is recorded.

        With mean `m` and covariance `S` it is `log Phi((m . d - o) / sqrt(s^2 + d . S d))` (Rasmussen and Williams,
        Gaussian Processes for Machine Learning, 2006, section 3.9).

        Args:
            loc: means, shape `(*batch, D)`.
            root: roots `R` of the covariances `R R^T`, shape `(*batch, D, D)`.

        Returns:
            Shape `(*batch,)`.
        """
        width = (root * self.direction.unsqueeze(-1)).sum(-2)
        height = torch.linalg.vecdot(loc, self.direction) - self.offset
        return torch.special.log_ndtr(height / (self.softness**2 + width.square().sum(-1)).sqrt())

    def __repr__(self) -> str:
        parts = (f"{field.name}={describe(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(parts)})"


class ThinnedPoint(PointDistribution):
    """A point of a distribution, given that a sensor recorded it.

    Independent `r(x)`-thinning of a point process with retention probability `r` (Daley and Vere-Jones, An
    Introduction to the Theory of Point Processes, 2003, section 11.3):

        p(x | recorded) = p_0(x) r(x) / Z,        Z = E[r(y)] with y from p_0

    Samples are exact, by rejection. So is `Z` for Gaussians and mixtures of them, such as a flow whose base is a
    mixture without couplings, posed or not, if the sensor knows its mean under a normal distribution: a `SoftHalfSpace`
    does, and so does a `log_retention` of yours with a method `log_mean_under_normals(loc, root)`.

    Otherwise `Z` is approximate: the mean over `num_samples` quasi-Monte Carlo samples, the same each time, so that the
    density is a smooth function of all parameters. An error of `log Z` shifts the log-density of every point by the
    same amount, and that of a cloud by `N` times as much: raise `num_samples` for clouds of thousands of points. For
    flows and the default of 4096 samples the error of `log Z` is about 4e-3 nats (root mean square). The components of
    a `PointMixture` are integrated one by one.

    Args:
        point_distribution: a distribution with `event_shape (D,)`.
        log_retention: function of points of shape `(*batch, D)` that returns the log-probability that each is
            recorded, shape `(*batch,)`, at most 0. Its attribute `batch_shape`, if it has one, broadcasts with that of
            the points.
        num_samples: quasi-Monte Carlo samples for `Z`, best a power of two.

    Raises:
        TypeError: if `point_distribution` is not a distribution, or its samples carry no gradients.
        ValueError: if its event is not a point or the batch shapes do not fit.

    Examples:
        >>> import pyro.distributions as dist
        >>> point = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> seen = ThinnedPoint(point, SoftHalfSpace(torch.tensor([0.0, 0.0, 1.0])))
        >>> bool((seen.log_normalizer().exp() - 0.5).abs() < 1e-3)
        True
        >>> bool((seen.sample((1000,))[:, 2] > -0.3).all())
        True
    """

    def __init__(
        self,
        point_distribution: Distribution,
        log_retention: Callable[[Tensor], Tensor],
        num_samples: int = 4096,
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_point_distribution(point_distribution)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        self.point_distribution = point_distribution
        self.log_retention = log_retention
        self.num_samples = num_samples
        sensor_shape = getattr(log_retention, "batch_shape", torch.Size())
        try:
            batch_shape = torch.broadcast_shapes(point_distribution.batch_shape, sensor_shape)
        except RuntimeError as error:
            raise ValueError(
                f"points of batch shape {tuple(point_distribution.batch_shape)} do not broadcast with a sensor of "
                f"batch shape {tuple(sensor_shape)}"
            ) from error
        super().__init__(batch_shape, point_distribution.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        """The support of the point distribution."""
        return self.point_distribution.support

    def _expanded(self, batch_shape: torch.Size) -> Self:
        return type(self)(self.point_distribution.expand(batch_shape), self.log_retention, self.num_samples)

    def _made_of(self) -> dict[str, Any]:
        return {"point_distribution": self.point_distribution, "log_retention": self.log_retention}

    def complement(self) -> ThinnedPoint:
        """The distribution of the points that the sensor did not record."""
        complement = _NormalComplement if isinstance(self.log_retention, HasNormalMean) else _Complement
        return ThinnedPoint(self.point_distribution, complement(self.log_retention), self.num_samples)

    def log_normalizer(self) -> Tensor:
        """The log-probability `log Z` that a point is recorded, broadcasts with `batch_shape`."""
        return _log_normalizer(self.point_distribution, self.log_retention, self.num_samples)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Sample recorded points, shape `(*sample_shape, *batch_shape, D)`.

        Raises:
            NothingRecordedError: if next to no point is recorded.
        """
        points = self.point_distribution.expand(self.batch_shape)
        with torch.no_grad():
            samples = points.sample(torch.Size((math.prod(sample_shape),)))
            rejected = self._reject(samples)
            wanted = drawn = _most(rejected)
            left = MOST_REJECTED * wanted
            while wanted and left > 0:
                # Twice as many each time, so that of an object that is hardly seen few draws are enough.
                drawn = max(wanted, min(2 * drawn, LARGEST_DRAW // max(1, self.batch_shape.numel())))
                left -= drawn
                fresh = points.sample(torch.Size((drawn,)))
                samples, rejected = _replaced(samples, rejected, fresh, ~self._reject(fresh))
                wanted = _most(rejected)
        if wanted:
            raise NothingRecordedError(
                f"of {MOST_REJECTED} points for each sample hardly any were recorded: the sensor sees next to nothing "
                f"of the object, the log-probability of a point is {self.log_normalizer().min().item():.3g}"
            )
        return samples.unflatten(0, torch.Size(sample_shape)) if sample_shape else samples[0]

    def _reject(self, points: Tensor) -> Tensor:
        log_retention = self.log_retention(points)
        return torch.rand_like(log_retention).log() >= log_retention

    def _log_prob(self, value: Tensor) -> Tensor:
        # The density and its normalizer have the Gaussians in common.
        points = with_gaussians(self.point_distribution)
        log_normalizer = _log_normalizer(points, self.log_retention, self.num_samples)
        return points.log_prob(value) + self.log_retention(value) - log_normalizer


def one_sided(
    point_distribution: Distribution,
    direction: Tensor,
    offset: Tensor | float = 0.0,
    softness: float = 0.05,
    num_samples: int = 4096,
) -> ThinnedPoint:
    """A partial view: the points of an object that are visible from one side, by a `SoftHalfSpace`.

    The visible side is what lies beyond a plane that is perpendicular to the line of sight. That is right for a
    convex object that is symmetric about the plane, and an approximation for any other, whose parts may occlude each
    other. For a better sensor model, give `ThinnedPoint` a `log_retention` of your own.

    Args:
        point_distribution: a distribution with `event_shape (D,)`.
        direction: unit vector from the object to the sensor, shape `(*batch, D)`.
        offset: where the plane lies along it, in the data's units.
        softness: width of the plane's edge, in the data's units.
        num_samples: quasi-Monte Carlo samples for the probability that a point is visible.

    Examples:
        >>> import pyro.distributions as dist
        >>> point = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> seen = one_sided(point, torch.tensor([0.0, 0.0, 1.0]))
        >>> bool((seen.complement().sample((1000,))[:, 2] < 0.3).all())
        True
    """
    return ThinnedPoint(point_distribution, SoftHalfSpace(direction, offset, softness), num_samples)


@dataclass(frozen=True, eq=False)
class _Complement:
    log_retention: Callable[[Tensor], Tensor]

    @property
    def batch_shape(self) -> torch.Size:
        return getattr(self.log_retention, "batch_shape", torch.Size())

    def __call__(self, points: Tensor) -> Tensor:
        return _log_complement(self.log_retention(points))


class _NormalComplement(_Complement):
    """The complement of a sensor that is a `HasNormalMean`."""

    def log_mean_under_normals(self, loc: Tensor, root: Tensor) -> Tensor:
        assert isinstance(self.log_retention, HasNormalMean)
        return _log_complement(self.log_retention.log_mean_under_normals(loc, root))


def _log_complement(log_probability: Tensor) -> Tensor:
    """`log(1 - exp(x))`, accurate at both ends (Maechler, Accurately computing log(1 - exp(-|a|)), 2012)."""
    log_probability = log_probability.clamp(max=-torch.finfo(log_probability.dtype).tiny)
    small = log_probability < -math.log(2)
    return torch.where(
        small,
        torch.log1p(-torch.where(small, log_probability, -1.0).exp()),
        torch.log(-torch.expm1(torch.where(small, -1.0, log_probability))),
    )


def _log_normalizer(points: Distribution, log_retention: Callable[[Tensor], Tensor], num_samples: int) -> Tensor:
    if isinstance(points, PointMixture):
        parts = [_log_normalizer(component, log_retention, num_samples) for component in points.components]
        return (points.logits + torch.stack(parts, -1)).logsumexp(-1)
    if isinstance(log_retention, HasNormalMean) and (gaussians := as_gaussians(points)) is not None:
        log_weights, loc, root = gaussians
        log_means = log_retention.log_mean_under_normals(loc.movedim(-2, 0), root.movedim(-3, 0))
        return (log_weights.movedim(-1, 0) + log_means).logsumexp(0)
    samples, log_weights = quasi_monte_carlo(points, num_samples)
    return (log_retention(samples) + log_weights).logsumexp(0)


def _most(chosen: Tensor) -> int:
    """The largest number of chosen samples, shape `(count, *batch)`, over a batch."""
    return int(chosen.sum(0).max()) if chosen.numel() else 0


def _replaced(samples: Tensor, rejected: Tensor, fresh: Tensor, accepted: Tensor) -> tuple[Tensor, Tensor]:
    """Put accepted fresh points, in their order, in the places of rejected samples: these, and which are left.

    Args:
        samples: shape `(count, *batch, D)`.
        rejected: shape `(count, *batch)`.
        fresh: shape `(drawn, *batch, D)`.
        accepted: shape `(drawn, *batch)`.
    """
    order = accepted.sort(stable=True, dim=0, descending=True).indices
    rank = rejected.cumsum(0) - 1
    found = rejected & (rank < accepted.sum(0))
    places = order.gather(0, rank.clamp(0, len(fresh) - 1))
    chosen = fresh.gather(0, places.unsqueeze(-1).expand_as(samples))
    return torch.where(found.unsqueeze(-1), chosen, samples), rejected & ~found

"""Mixtures of point distributions, and the uniform background of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from pyro_pcflow.distributions.base import PointDistribution

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Mixture", "PointMixture", "coupled_labels", "with_background"]

_coupled: ContextVar[bool] = ContextVar("coupled", default=False)
# Random numbers that a race holds at once.
RACED_AT_ONCE = 2**24


@contextmanager
def coupled_labels() -> Iterator[None]:
    """Let mixtures of similar weights draw mostly the same components from the same random numbers.

    An exponential race decides: component `k` arrives at a time `E_k / w_k` with `E_k` exponential, and the first is
    drawn. Of two mixtures, the labels then differ with at most twice the probability at which they must. Drawing from
    cumulative weights is many times as fast, but shifts most labels.

    Examples:
        >>> import pyro.distributions as dist
        >>> parts = [dist.Normal(torch.full((3,), float(k)), 1.0).to_event(1) for k in range(3)]
        >>> def draw(weights):
        ...     torch.manual_seed(0)
        ...     with coupled_labels():
        ...         return PointMixture(torch.tensor(weights).log(), parts).sample_with_labels((1000,))[1]
        >>> bool((draw([0.30, 0.35, 0.35]) != draw([0.31, 0.35, 0.34])).float().mean() < 0.03)
        True
    """
    token = _coupled.set(True)
    try:
        yield
    finally:
        _coupled.reset(token)


class Mixture(PointDistribution):
    """A mixture of `K` components: subclasses define `sample_with_labels` and `_joint`."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Sample points, shape `(*sample_shape, *batch_shape, D)`."""
        return self.sample_with_labels(sample_shape)[0]

    def sample_with_labels(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Sample points together with the components that they come from.

        Args:
            sample_shape: as for `sample`.

        Returns:
            Points of shape `(*sample_shape, *batch_shape, D)`, and indices of components, without the last dimension.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define sample_with_labels")

    def responsibilities(self, value: Tensor) -> Tensor:
        """The posterior probability of each component given a point, such as unsupervised parts of a cloud.

        Args:
            value: shape `(*sample_shape, *batch_shape, D)`.

        Returns:
            Shape `(*sample_shape, *batch_shape, K)`; sums to 1 over the last dimension.
        """
        self._check_value(value)
        return self._joint(value).softmax(-1)

    def _log_prob(self, value: Tensor) -> Tensor:
        return self._joint(value).logsumexp(-1)

    def _joint(self, value: Tensor) -> Tensor:
        """The log-density of a point and a component, shape `(*batch, K)`."""
        raise NotImplementedError(f"{type(self).__name__} does not define _joint")

    def _draw_labels(self, logits: Tensor, sample_shape: Sequence[int]) -> Tensor:
        shape = torch.Size((*sample_shape, *self.batch_shape))
        # Categorical cannot draw an empty sample.
        if not shape.numel():
            return torch.zeros(shape, dtype=torch.long, device=logits.device)
        logits = logits.expand(*self.batch_shape, logits.shape[-1])
        if _coupled.get():
            return _race(logits.softmax(-1), shape)
        return Categorical(logits=logits).sample(torch.Size(sample_shape))


def _race(weights: Tensor, shape: torch.Size) -> Tensor:
    """Labels of a shape that the weights, `(*batch, K)`, broadcast to; see `coupled_labels`."""
    if not shape:
        return _race(weights, torch.Size((1,))).squeeze(0)
    winners = []
    weights = weights.expand(*shape, weights.shape[-1])
    for some in weights.split(max(1, RACED_AT_ONCE // max(1, weights[0].numel()))):
        times = torch.empty(some.shape, dtype=weights.dtype, device=weights.device).exponential_()
        winners.append((times / some).argmin(-1))
    return torch.cat(winners)


class PointMixture(Mixture):
    """Mixture of `K` point distributions, which may be of different kinds.

    `log p(x) = log sum_k w_k p_k(x)`, exact, by log-sum-exp. torch's `MixtureSameFamily` needs the components in one
    batched distribution; here each is an object of its own, such as a flow and a uniform background.

    Args:
        logits: logarithms of the weights up to a constant, shape `(*batch, K)`.
        components: `K` distributions with `event_shape (D,)`; batch shapes broadcast. The first one's support is
            that of the mixture: where another one is narrower, it must return `-inf` outside instead of raising.

    Raises:
        TypeError: if a component is not a distribution.
        ValueError: if there are no components, their events differ, or the logits do not fit.

    Examples:
        >>> import pyro.distributions as dist
        >>> near, far = (dist.Normal(torch.full((3,), loc), 1.0).to_event(1) for loc in (0.0, 9.0))
        >>> mixture = PointMixture(torch.tensor([0.9, 0.1]).log(), [near, far])
        >>> mixture.responsibilities(torch.zeros(3)).round(decimals=3).tolist()
        [1.0, 0.0]
    """

    def __init__(
        self, logits: Tensor, components: Sequence[Distribution], *, validate_args: bool | None = None
    ) -> None:
        self.components = list(components)
        for component in self.components:
            if not isinstance(component, Distribution):
                raise TypeError(f"expected point distributions as components, got {type(component).__name__}")
        # Under torch.jit a size can be a tensor, and equal tensors are not one entry of a set.
        events = {tuple(int(size) for size in component.event_shape) for component in self.components}
        if len(events) != 1 or len(next(iter(events))) != 1:
            raise ValueError(
                f"expected at least one component, all of one event shape (D,), got {len(self.components)} with the "
                f"event shapes {sorted(events)}"
            )
        if logits.dim() < 1 or logits.shape[-1] != len(self.components):
            raise ValueError(
                f"expected logits of shape (*batch, {len(self.components)}), one per component, got "
                f"{tuple(logits.shape)}"
            )
        self.logits = logits.log_softmax(-1)
        shapes = [logits.shape[:-1], *(component.batch_shape for component in self.components)]
        try:
            batch_shape = torch.broadcast_shapes(*shapes)
        except RuntimeError as error:
            raise ValueError(
                f"the batch shapes of logits and components do not broadcast: {', '.join(map(str, map(tuple, shapes)))}"
            ) from error
        super().__init__(batch_shape, self.components[0].event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        """The support of the first component."""
        return self.components[0].support

    def _expanded(self, batch_shape: torch.Size) -> Self:
        return type(self)(
            self.logits.expand(*batch_shape, len(self.components)),
            [component.expand(batch_shape) for component in self.components],
        )

    def _made_of(self) -> dict[str, Any]:
        return {"components": self.components}

    def sample_with_labels(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            labels = self._draw_labels(self.logits, sample_shape)
            points = torch.stack(
                [component.expand(self.batch_shape).sample(torch.Size(sample_shape)) for component in self.components],
                -1,
            )
            chosen = labels[..., None, None].expand(*points.shape[:-1], 1)
            return points.gather(-1, chosen).squeeze(-1), labels

    def _joint(self, value: Tensor) -> Tensor:
        log_probs = torch.broadcast_tensors(*(component.log_prob(value) for component in self.components))
        return torch.stack(log_probs, -1) + self.logits


def with_background(
    point_distribution: Distribution, outlier_probability: Tensor | float, low: Tensor, high: Tensor
) -> PointMixture:
    """Uniform outlier (contamination) model: mix a point distribution with a uniform density over a box.

    `p(x) = (1 - w) p_0(x) + w U(x; low, high)` with `w = outlier_probability`, exact. A robust observation model of a
    scan: the outlier probability may be a latent. `responsibilities(x)[..., 1]` is the posterior probability that a
    point is an outlier.

    Args:
        point_distribution: a distribution with `event_shape (D,)`.
        outlier_probability: probability that a point is an outlier, in (0, 1), a number or shape `(*batch,)`.
        low: corner of the box, shape `(D,)` or `(*batch, D)`.
        high: the opposite corner. Outside the closed box the background has no density; that of a scan is
            `scan.amin(0), scan.amax(0)`.

    Returns:
        A `PointMixture` of two components: the point distribution, then the background.

    Raises:
        ValueError: if the box is empty, or the outlier probability not in (0, 1).

    Examples:
        >>> point = dist.Normal(torch.zeros(3), 0.1).to_event(1)
        >>> scan = with_background(point, 0.05, low=torch.full((3,), -1.0), high=torch.ones(3))
        >>> scan.responsibilities(torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9]]))[:, 1].round(decimals=2).tolist()
        [0.0, 1.0]
    """
    outlier = torch.as_tensor(outlier_probability, dtype=low.dtype, device=low.device)
    if Distribution._validate_args:
        if not (low < high).all():
            raise ValueError(f"expected low < high in every coordinate, got {low.tolist()} and {high.tolist()}")
        if not ((outlier > 0) & (outlier < 1)).all():
            raise ValueError(f"expected an outlier probability in (0, 1), got {outlier.tolist()}")
    # Outside its box the background has the density 0, which is no error. torch leaves the upper faces out of it, but
    # a box that was read off a scan has points there, which are outliers more often than not.
    above = torch.nextafter(high, torch.full_like(high, torch.inf))
    background = dist.Independent(dist.Uniform(low, above, validate_args=False), 1, validate_args=False)
    logits = torch.stack([torch.log1p(-outlier), outlier.log()], -1)
    return PointMixture(logits, [point_distribution, background])

"""Mixture of Gaussians with full covariances, whose density is one product of matrices."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution, constraints

from pyro_pcflow.distributions.mixture import Mixture
from pyro_pcflow.ops.log_sum_exp import log_sum_exp_of_product
from pyro_pcflow.transforms.base import Bijection
from pyro_pcflow.transforms.grouping import Groups

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GaussianMixture", "Gaussians", "as_gaussians", "convolved", "count_gaussians", "matrices", "with_gaussians"]


# Responsibilities that `statistics` holds at once: they stay in the cache of a core.
STATISTICS_AT_ONCE = 2**17


class Gaussians(NamedTuple):
    """The parameters of a mixture: `inverse_scale_tril[k] @ (x - loc[k])` is standard normal for the k-th Gaussian.

    Attributes:
        logits: logarithms of the weights up to a constant, shape `(*batch, K)`.
        loc: means, shape `(*batch, K, D)`.
        inverse_scale_tril: inverses of the Cholesky factors of the covariances, lower triangular with a positive
            diagonal, shape `(*batch, K, D, D)`.
    """

    logits: Tensor
    loc: Tensor
    inverse_scale_tril: Tensor


class GaussianMixture(Mixture):
    """Mixture of `K` Gaussians with full covariances.

    The log-density of a component is linear in the products of a point's coordinates, so that those of all points under
    all components are one product of matrices. It is taken in float64, in which the terms cancel without loss; only
    the exponentials have the data type of the points. Memory does not grow with `K` times the number of points.

    Samples carry no gradients, `has_rsample` is False: which component a point comes from is a discrete choice.

    Args:
        gaussians: called for the parameters when points are scored or sampled, so that a density never disagrees with
            the weights that they are made of.
        context_shape: batch shape of the parameters.
        num_components: number of Gaussians `K`.
        point_dim: number of coordinates `D`.
        batch_shape: of the distribution; that of the parameters by default.

    Examples:
        >>> loc = torch.tensor([[0.0, 0.0], [20.0, 20.0]])
        >>> gaussians = Gaussians(torch.zeros(2), loc, torch.eye(2).expand(2, 2, 2))
        >>> mixture = GaussianMixture(lambda: gaussians, torch.Size(), num_components=2, point_dim=2)
        >>> mixture.log_prob(torch.zeros(100, 2)).shape, mixture.responsibilities(torch.zeros(2)).tolist()
        (torch.Size([100]), [1.0, 0.0])
    """

    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        gaussians: Callable[[], Gaussians],
        context_shape: torch.Size,
        *,
        num_components: int,
        point_dim: int,
        batch_shape: torch.Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.gaussians = gaussians
        self.context_shape = context_shape
        self.num_components = num_components
        shape = context_shape if batch_shape is None else batch_shape
        super().__init__(shape, torch.Size((point_dim,)), validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> Self:
        return type(self)(
            self.gaussians,
            self.context_shape,
            num_components=self.num_components,
            point_dim=self.event_shape[0],
            batch_shape=batch_shape,
        )

    def _made_of(self) -> dict[str, Any]:
        return {"num_components": self.num_components}

    def _log_prob(self, value: Tensor) -> Tensor:
        groups, rows, columns = self._factors(value)
        log_prob = groups.scatter(log_sum_exp_of_product(rows, columns, value.dtype)).to(value.dtype)
        return log_prob.expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def _joint(self, value: Tensor) -> Tensor:
        groups, rows, columns = self._factors(value)
        joint = groups.scatter(torch.matmul(rows, columns)).to(value.dtype)
        return joint.expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), self.num_components)

    def statistics(self, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What each Gaussian explains of some points, and how these lie to it: the scores of its weight and its mean.

        Args:
            value: points, shape `(N, *batch_shape, D)`, with `batch_shape` that of the parameters.
            mask: True at points, shape `(N, *batch_shape)`; all of them by default.

        Returns:
            The sums over points of the responsibilities, shape `(*batch_shape, K)`; the sums of responsibility times
            standardised distance from the mean, `inverse_scale_tril @ (x - loc)`, shape `(*batch_shape, K, D)`; and the
            weights, shape `(*batch_shape, K)`.
        """
        logits, loc, factor = self.gaussians()
        points = torch.cat([value, torch.ones_like(value[..., :1])], -1)
        if mask is not None:
            points = points.where(mask.unsqueeze(-1), 0.0)
        groups, rows, columns = self._factors(points[..., :-1])
        points = groups.gather(points)
        at_once = max(1, STATISTICS_AT_ONCE // max(1, rows.shape[1] * columns.shape[-1]))
        pieces = zip(rows.split(at_once), columns.split(at_once), points.split(at_once), strict=True)
        sums = torch.cat([(row @ column).to(value.dtype).softmax(-1).mT @ some for row, column, some in pieces])
        sums = sums.reshape(*self.context_shape, *sums.shape[1:])
        counts = sums[..., -1]
        offsets = factor @ (sums[..., :-1] - counts.unsqueeze(-1) * loc).unsqueeze(-1)
        return counts, offsets.squeeze(-1), logits.softmax(-1)

    def _factors(self, value: Tensor) -> tuple[Groups, Tensor, Tensor]:
        """Two matrices per context whose product holds `log w_k N(x_n; k)`."""
        value = value.expand(*torch.broadcast_shapes(value.shape[:-1], self.context_shape), value.shape[-1])
        groups = Groups(value.shape[:-1], self.context_shape)
        gaussians, points = self.gaussians(), groups.gather(value.double())
        if gaussians.loc.dtype == torch.float64:
            # Means may be map coordinates, whose squares would not cancel.
            centre = gaussians.loc.detach().mean(-2)
            points = points - centre.expand(*self.context_shape, -1).reshape(groups.count, 1, centre.shape[-1])
            gaussians = gaussians._replace(loc=gaussians.loc - centre.unsqueeze(-2))
        columns = self._coefficients(gaussians)
        columns = columns.reshape(groups.count, *columns.shape[-2:])
        return groups, _monomials(points), columns

    def _coefficients(self, gaussians: Gaussians) -> Tensor:
        """What the monomials of a point are multiplied by, shape `(*context_batch, Q, K)`."""
        logits, loc, factor = (part.double() for part in gaussians)
        means, rows, dim = loc.unbind(-1), _entries(factor), loc.shape[-1]
        whitened = [_sum(rows[i][j] * means[j] for j in range(i + 1)) for i in range(dim)]
        # Either half of the symmetric matrix.
        quadratic = [
            (-0.5 if i == j else -1.0) * _sum(rows[k][i] * rows[k][j] for k in range(j, dim))
            for i in range(dim)
            for j in range(i, dim)
        ]
        linear = [_sum(rows[i][j] * whitened[i] for i in range(j, dim)) for j in range(dim)]
        constant = (
            logits.log_softmax(-1)
            + _sum(rows[i][i].log() for i in range(dim))
            - 0.5 * (dim * math.log(2 * math.pi) + _sum(part.square() for part in whitened))
        )
        return torch.stack([*quadratic, *linear, constant], -2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Raise: samples carry no gradients."""
        raise NotImplementedError(
            "samples of a mixture of Gaussians carry no gradients (has_rsample is False), since the choice of a "
            "component is discrete: call sample()"
        )

    def sample_with_labels(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        _, points, labels = self.sample_with_noise(sample_shape)
        return points, labels

    def sample_with_noise(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """Sample standard normal noise, the points that components make of it, and the labels of these."""
        with torch.no_grad():
            logits, loc, factor = self.gaussians()
            labels = self._draw_labels(logits, sample_shape)
            # Numbers of components among those of all contexts.
            first = torch.arange(self.context_shape.numel(), device=loc.device) * self.num_components
            rows = labels + first.reshape(self.context_shape)
            identity = torch.eye(self.event_shape[0], dtype=loc.dtype, device=loc.device)
            scale_tril = torch.linalg.solve_triangular(factor, identity, upper=False).flatten(0, -3)[rows]
            loc = loc.flatten(0, -2)[rows]
            noise = torch.randn_like(loc)
            return noise, loc + (scale_tril * noise.unsqueeze(-2)).sum(-1), labels

    def stratified(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Points of every component, with its weight, differentiable in the parameters.

        Args:
            noise: standard normal, shape `(M, K, D)`.

        Returns:
            Points of shape `(M * K, *batch_shape, D)`, and logarithms of weights that sum to 1, without the last
            dimension.
        """
        logits, loc, factor = self.gaussians()
        loc, factor = loc.movedim(-2, 0), factor.movedim(-3, 0)
        noise = noise.to(loc).reshape(*noise.shape[:2], *(1,) * len(self.context_shape), -1)
        points = loc + torch.linalg.solve_triangular(factor, noise.unsqueeze(-1), upper=False).squeeze(-1)
        log_weights = logits.log_softmax(-1).movedim(-1, 0) - math.log(len(noise))
        points = points.expand(*noise.shape[:2], *self.batch_shape, -1)
        return points.flatten(0, 1), log_weights.expand(points.shape[:-1]).flatten(0, 1)


def as_gaussians(distribution: Distribution) -> tuple[Tensor, Tensor, Tensor] | None:
    """The Gaussians that a distribution is a mixture of, where it is one: itself, or under affine transforms.

    Args:
        distribution: a distribution with `event_shape (D,)`.

    Returns:
        Logarithms of the weights, which sum to 1, shape `(*batch, K)`; means, `(*batch, K, D)`; and roots `R` of the
        covariances `R R^T`, `(*batch, K, D, D)`. `batch` broadcasts to the batch shape. None for other distributions.

    Examples:
        >>> import pyro.distributions as dist
        >>> log_weights, loc, root = as_gaussians(dist.Normal(torch.zeros(5, 3), 2.0).to_event(1))
        >>> log_weights.shape, loc.shape, root.shape
        (torch.Size([5, 1]), torch.Size([5, 1, 3]), torch.Size([5, 1, 3, 3]))
    """
    if not count_gaussians(distribution):
        return None
    if isinstance(distribution, GaussianMixture):
        logits, loc, factor = distribution.gaussians()
        return logits.log_softmax(-1), loc, _inverse_of_lower_triangular(factor)
    if isinstance(distribution, TransformedDistribution):
        gaussians = as_gaussians(distribution.base_dist)
        assert gaussians is not None  # or the transformed one would be none
        return _transformed(*gaussians, [part for part in distribution.transforms if isinstance(part, Bijection)])
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    assert isinstance(distribution, Normal)  # as was counted
    loc = distribution.loc.unsqueeze(-2)
    return torch.zeros_like(loc[..., 0]), loc, torch.diag_embed(distribution.scale.unsqueeze(-2))


def count_gaussians(distribution: Distribution) -> int:
    """The number of Gaussians that `as_gaussians` names, 0 if it names none; no parameter is evaluated."""
    if isinstance(distribution, GaussianMixture):
        return distribution.num_components
    if isinstance(distribution, TransformedDistribution):
        affine = all(isinstance(part, Bijection) and part.is_affine for part in distribution.transforms)
        return count_gaussians(distribution.base_dist) if affine else 0
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return int(isinstance(distribution, Normal) and distribution.loc.dim() > 0)


def convolved(distribution: Distribution, scale: Tensor, context_shape: torch.Size) -> Gaussians:
    """The Gaussians of a distribution, convolved with a round one: the covariances `S` become `S + scale^2 I`.

    Args:
        distribution: one with Gaussians, see `count_gaussians`.
        scale: standard deviation of the round Gaussian, in the data's units, shape `(*batch,)`.
        context_shape: what the batch shapes of both broadcast to.
    """
    gaussians = as_gaussians(distribution)
    assert gaussians is not None
    log_weights, loc, root = gaussians
    wide = root.double()
    variance = scale.double().square()[..., None, None, None]
    covariance = wide @ wide.mT + variance * torch.eye(loc.shape[-1], dtype=torch.float64, device=loc.device)
    factor = _inverse_of_lower_triangular(_cholesky(covariance)).to(root)
    return Gaussians(
        log_weights.expand(*context_shape, -1),
        loc.expand(*context_shape, -1, -1),
        factor.expand(*context_shape, -1, -1, -1),
    )


def with_gaussians(distribution: Distribution) -> Distribution:
    """The same distribution with the parameters of its Gaussians evaluated once, for several uses of them."""
    if isinstance(distribution, GaussianMixture):
        known = distribution.gaussians()
        return GaussianMixture(
            lambda: known,
            distribution.context_shape,
            num_components=distribution.num_components,
            point_dim=distribution.event_shape[0],
            batch_shape=distribution.batch_shape,
            validate_args=False,
        )
    if isinstance(distribution, TransformedDistribution):
        twin = copy.copy(distribution)
        twin.base_dist = with_gaussians(distribution.base_dist)
        return twin
    return distribution


def matrices(entries: Sequence[Sequence[Tensor]]) -> Tensor:
    """Matrices, shape `(*batch, I, J)`, of their entries, rows first, that are each of shape `(*batch,)`.

    Entry by entry is the fastest way with many small matrices, and with the numbers of an entry side by side, as here.
    """
    flat = torch.stack([entry for row in entries for entry in row])
    return flat.unflatten(0, (len(entries), -1)).movedim((0, 1), (-2, -1))


def _entries(matrix: Tensor) -> list[tuple[Tensor, ...]]:
    return [row.unbind(-1) for row in matrix.unbind(-2)]


def _inverse_of_lower_triangular(matrix: Tensor) -> Tensor:
    """By forward substitution."""
    zero = torch.zeros_like(matrix[..., 0, 0])
    found: list[list[Tensor]] = []
    for i, row in enumerate(_entries(matrix)):
        scale = row[i].reciprocal()
        below = [-scale * _sum(row[k] * found[k][j] for k in range(j, i)) for j in range(i)]
        found.append([*below, scale, *[zero] * (len(row) - 1 - i)])
    return matrices(found)


def _cholesky(matrix: Tensor) -> Tensor:
    """Lower triangular root of positive definite matrices."""
    zero = torch.zeros_like(matrix[..., 0, 0])
    found: list[list[Tensor]] = []
    for i, given in enumerate(_entries(matrix)):
        row: list[Tensor] = []
        for j in range(i):
            rest = given[j] - sum((row[k] * found[j][k] for k in range(j)), zero)
            row.append(rest / found[j][j])
        row.append((given[i] - sum((part.square() for part in row), zero)).sqrt())
        found.append([*row, *[zero] * (len(given) - 1 - i)])
    return matrices(found)


def _transformed(
    log_weights: Tensor, loc: Tensor, root: Tensor, transforms: Sequence[Bijection]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians under affine transforms, of which images of the origin and of the unit vectors tell all."""
    dim = loc.shape[-1]
    corners = torch.cat([loc.new_zeros(1, dim), torch.eye(dim, dtype=loc.dtype, device=loc.device)])
    corners = corners.reshape(dim + 1, *(1,) * (loc.dim() - 2), dim)
    for transform in transforms:
        corners = transform.transform_and_log_det(corners)[0]
    origin = corners[0]
    matrix = (corners[1:] - origin).movedim(0, -1).unsqueeze(-3)
    moved = _product(matrix, loc.unsqueeze(-1)).squeeze(-1)
    return log_weights, moved + origin.unsqueeze(-2), _product(matrix, root)


def _product(left: Tensor, right: Tensor) -> Tensor:
    others = _entries(right)
    columns = range(right.shape[-1])
    return matrices(
        [
            [_sum(part * other[j] for part, other in zip(row, others, strict=True)) for j in columns]
            for row in _entries(left)
        ]
    )


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)


def _monomials(points: Tensor) -> Tensor:
    """Products of two coordinates, coordinates, and 1: shape `(*batch, Q)`."""
    i, j = torch.triu_indices(points.shape[-1], points.shape[-1], device=points.device)
    return torch.cat([points[..., i] * points[..., j], points, torch.ones_like(points[..., :1])], -1)

"""Base distributions of a flow: the noise that it carries to data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice, pairwise

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture, Gaussians, matrices
from pyro_pcflow.distributions.pushforward import Pushforward
from pyro_pcflow.ops.kmeans import kmeans
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.transforms import ConditionalPointTransform

__all__ = ["ConditionalNormal", "MixtureOfGaussians", "StandardNormal"]

# Upper bound of a Gaussian's widths, in the flow's units, where `max_width` sets no lower one.
MAX_WIDTH = 100.0
# How much faster than its mean the weight, the widths and the slopes of a Gaussian learn: at a rate at which means move
# by a part of a width per step, these would hardly change.
PACE = 5.0
# Logarithm of the weight of a Gaussian that is not used: nothing in any data type.
LOG_UNUSED = -1e3
# Exponent of the share of Gaussians that are used if there is a share of the points for all, by trials on scans: of
# fewer points each stands for more, as the noise that suits them leaves gaps.
FEWER = 1.5
# Points per cluster that k-means looks at, and the least number of points.
POINTS_PER_CLUSTER, MIN_POINTS = 50, 10_000


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

    @property
    def is_affine(self) -> bool:
        """True: it carries a Gaussian to a Gaussian, under any context."""
        return True

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


class MixtureOfGaussians(nn.Module):
    """Mixture of Gaussians with full covariances as base distribution, the same for every context or written by it.

    The covariance of each Gaussian is given by its modified Cholesky decomposition (Pourahmadi, Joint mean-covariance
    models with applications to longitudinal data, Biometrika 1999): the width of a coordinate given the ones before it,
    and the slopes of its mean in them. Any real parameters make a covariance. Each such width lies between `min_width`
    and the lower of `max_width` and `min_width + 100`, smoothly bounded, so that no density exceeds that of a round
    Gaussian of width `min_width`. With steep slopes a coordinate is wider than that: a finite `max_width` also bounds
    what the ones before it give it, so that none is wider than `sqrt(2) * max_width`.

    With a context, a network of the context is added to the free parameters, evaluated once per cloud.

    Args:
        point_dim: number of coordinates `D`.
        context_dim: size `C` of a context, 0 for none.
        num_components: number of Gaussians `K`, at least 1.
        points_per_component: points for each Gaussian that `start` needs to put all to use, at least 1.
        min_width: floor of the widths, in units of the standard deviation of the data.
        max_width: bound of the widths, and of those that slopes make, in the same units; infinity leaves the slopes
            free.
        hidden_dims: widths of the hidden layers of the network of the context.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        point_dim: int,
        context_dim: int = 0,
        *,
        num_components: int = 128,
        points_per_component: int = 1,
        min_width: float = 1e-3,
        max_width: float = math.inf,
        hidden_dims: Sequence[int] = (256,),
    ) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components must be at least 1, got {num_components}")
        if points_per_component < 1:
            raise ValueError(f"points_per_component must be at least 1, got {points_per_component}")
        if not 0 < min_width < MAX_WIDTH:
            raise ValueError(f"min_width must lie between 0 and {MAX_WIDTH:g}, got {min_width}")
        if not max_width > min_width:
            raise ValueError(f"max_width must exceed min_width, which is {min_width:g}, got {max_width}")
        self.point_dim = point_dim
        self.num_components = num_components
        self.points_per_component = points_per_component
        self.min_width = min_width
        self.max_width = max_width
        sizes = [1, point_dim, point_dim, point_dim * (point_dim - 1) // 2]
        self.logits, self.loc, self.raw_width, self.slopes = (
            nn.Parameter(torch.zeros(num_components, size)) for size in sizes
        )
        # Together about standard normal, and apart: equal components would stay equal.
        nn.init.normal_(self.loc, std=0.8)
        nn.init.constant_(self.raw_width, math.log(0.6) / PACE)
        self.network = _network([context_dim, *hidden_dims, num_components * sum(sizes)]) if context_dim else None
        self._sizes = sizes

    @property
    def _most(self) -> float:
        """How much wider than `min_width` a coordinate may be given the ones before it."""
        return min(MAX_WIDTH, self.max_width - self.min_width)

    def distribution(self, context: Tensor | None) -> GaussianMixture:
        """Return the noise under a context.

        Args:
            context: shape `(*batch, C)`; None without context.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (D,)`.
        """
        return GaussianMixture(
            partial(self.gaussians, context),
            torch.Size() if context is None else context.shape[:-1],
            num_components=self.num_components,
            point_dim=self.point_dim,
            validate_args=False,
        )

    def gaussians(self, context: Tensor | None) -> Gaussians:
        """The parameters of the mixture under a context."""
        parts = torch.cat([self.logits, self.loc, self.raw_width, self.slopes], -1)
        if self.network is not None:
            assert context is not None  # as the flow made sure
            parts = parts + self.network(context).unflatten(-1, parts.shape)
        # The numbers of a kind side by side: see `matrices`.
        logits, loc, raw_width, slopes = parts.movedim(-1, 0).contiguous().split(self._sizes)
        slopes = -PACE * slopes
        most = self._most
        width = self.min_width + most * torch.sigmoid(PACE * raw_width - math.log(most))
        if self.max_width < math.inf:
            slopes = _bounded(slopes, width, self.max_width)
        # Written out of place, as vmap needs it.
        precision, zero, left = width.reciprocal(), torch.zeros_like(width[0]), iter(slopes)
        factor = [
            [*(slope * own for slope in islice(left, i)), own, *[zero] * (len(width) - 1 - i)]
            for i, own in enumerate(precision)
        ]
        return Gaussians(PACE * logits[0], loc.movedim(0, -1), matrices(factor))

    @torch.no_grad()
    def start(self, points: Tensor) -> None:
        """Start the free parameters from clusters of points, found by k-means.

        Weights, means and covariances become those of the clusters; to the covariances 0.3 times the mean variance
        within clusters is added, since few points, or points without noise, fill no volume. If there are fewer points
        than `points_per_component` for each Gaussian, some keep a weight of zero, where no gradient reaches them: a
        share `s` of the points starts `s ** 1.5` of them. The state of torch's generators stays as it is.

        Args:
            points: shape `(N, D)`, in the flow's units.
        """
        generator, dim = seeded_generator(0, "mixture of Gaussians"), self.point_dim
        count = self.num_components
        if self.points_per_component > 1:
            share = len(points) / (self.points_per_component * count)
            count = max(1, int(count * min(1.0, share**FEWER)))
        points = points.detach().cpu().double()
        wanted = max(MIN_POINTS, POINTS_PER_CLUSTER * count)
        if len(points) > wanted:
            points = points[torch.randperm(len(points), generator=generator)[:wanted]]
        # Fewer points than clusters are taken several times, each time a little elsewhere.
        points = points.repeat(-(-count // len(points)), 1)
        points = points + self.min_width * torch.randn(points.shape, generator=generator, dtype=points.dtype)
        loc, labels = kmeans(points, count, generator)
        offsets = points - loc[labels]
        products = (offsets.unsqueeze(-1) * offsets.unsqueeze(-2)).flatten(1)
        sizes = torch.bincount(labels, minlength=count).double()
        scatter = torch.zeros(count, dim * dim, dtype=points.dtype).index_add_(0, labels, products)
        variance = offsets.square().mean() + self.min_width**2
        scatter = scatter.unflatten(1, (dim, dim)) + variance * torch.eye(dim, dtype=points.dtype)
        covariance = scatter / (sizes + 1)[:, None, None] + 0.3 * variance * torch.eye(dim, dtype=points.dtype)
        scale_tril = torch.linalg.cholesky(covariance)
        width = scale_tril.diagonal(dim1=-2, dim2=-1)
        inverse = torch.linalg.solve_triangular(scale_tril / width.unsqueeze(-2), torch.eye(dim).double(), upper=False)
        i, j = torch.tril_indices(dim, dim, -1)
        self.logits.fill_(LOG_UNUSED / PACE)
        self.logits[:count] = (sizes + 1).log().unsqueeze(-1).to(self.logits) / PACE
        self.loc[:count] = loc.to(self.loc)
        self.raw_width[:count] = _raw_width(width, self.min_width, self._most).to(self.loc) / PACE
        self.slopes[:count] = -inverse[:, i, j].to(self.loc) / PACE


def _bounded(slopes: Tensor, width: Tensor, max_width: float) -> Tensor:
    """Slopes by which the coordinates before it give none a standard deviation of more than `max_width`.

    Args:
        slopes: shape `(D * (D - 1) / 2, *batch)`, row by row.
        width: widths of the coordinates given those before, shape `(D, *batch)`.
        max_width: the bound.
    """
    rows, total = [], width[:1].square()
    for row in slopes.split(list(range(1, len(width)))):
        # Cauchy and Schwarz: whatever the correlations of the coordinates before.
        variance = len(row) * (row.square() * total).sum(0)
        share = (1 + variance / max_width**2).reciprocal()
        rows.append(row * share.sqrt())
        added = width[len(row)].square() + variance * share
        total = torch.cat([total, added.unsqueeze(0)])
    return torch.cat(rows)


def _raw_width(width: Tensor, min_width: float, most: float) -> Tensor:
    """The parameter of a width, or of one a little above the floor or below the bound."""
    share = ((width - min_width).clamp(min=0.1 * min_width) / most).clamp(max=0.99)
    return share.logit() + math.log(most)


def _network(dims: Sequence[int]) -> nn.Sequential:
    linear = [nn.Linear(before, after) for before, after in pairwise(dims)]
    # A new network hardly changes the free parameters.
    nn.init.normal_(linear[-1].weight, std=1e-3)
    nn.init.zeros_(linear[-1].bias)
    return nn.Sequential(*(layer for hidden in linear[:-1] for layer in (hidden, nn.SiLU())), linear[-1])

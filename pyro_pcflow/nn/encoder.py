"""Networks that read a whole cloud, whatever the order and the number of its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.network import ACTIVATIONS, autocast, fourier_features

__all__ = ["CloudEncoder"]

# What the largest values that an expected maximum leaves out may weigh.
TAIL = 1e-3
# Points that are read at once where no gradient is asked for: of a cloud, which bounds the memory, and of several
# clouds, whose layers then stay in the cache of a core.
POINTS_AT_ONCE = 2**16
POINTS_IN_CACHE = 2**11


class CloudEncoder(nn.Module):
    """A permutation-invariant network from a cloud, of any number of points, to several vectors.

    One network is applied to every point, the maximum over the points is taken of each of its outputs, and another
    network reads these maxima (Qi et al., PointNet, CVPR 2017, section 4.2, without its transformations of the input;
    Zaheer et al., Deep Sets, NeurIPS 2017). A cloud without points has maxima of zero.

    The more points a cloud has, the larger are its maxima, and a network that was trained on clouds of one size reads
    those of larger ones wrong. So it takes the maximum over `pooled_points` points, and of a larger cloud the mean of
    the maxima over all its parts of so many points, which vary less: a U-statistic (Hoeffding, A class of statistics
    with asymptotically normal distribution, Annals of Mathematical Statistics 1948).

    Args:
        point_dim: number of coordinates `D` of a point.
        output_dims: sizes of the vectors.
        point_dims: widths of the network that is applied to every point, at least one.
        hidden_dims: widths of the hidden layers that follow the maximum.
        context_dim: size `C` of a context that is read beside the maxima, 0 for none.
        activation: see `Conditioner`.
        num_frequencies: Fourier features of the points, see `fourier_features`.
        pooled_points: number of points of a maximum, at least 1; None for all points of a cloud, however many.

    Raises:
        ValueError: if a size is out of range, or the name is not known.

    Examples:
        >>> encoder = CloudEncoder(3, [8, 8])
        >>> clouds, mask = torch.randn(5, 100, 3), torch.rand(5, 100) < 0.5
        >>> loc, log_scale = encoder(clouds, mask)
        >>> loc.shape
        torch.Size([5, 8])
    """

    hidden_dtype: torch.dtype | None = None  # see pyro_pcflow.ops.network.autocast

    def __init__(
        self,
        point_dim: int,
        output_dims: Sequence[int],
        *,
        point_dims: Sequence[int] = (64, 128),
        hidden_dims: Sequence[int] = (256,),
        context_dim: int = 0,
        activation: str = "relu",
        num_frequencies: int = 0,
        pooled_points: int | None = None,
    ) -> None:
        super().__init__()
        sizes = [point_dim, *output_dims, *point_dims, *hidden_dims]
        if not output_dims or not point_dims or min(sizes) < 1 or context_dim < 0:
            raise ValueError(
                f"an encoder needs positive sizes, got point_dim={point_dim}, output_dims={list(output_dims)}, "
                f"point_dims={list(point_dims)}, hidden_dims={list(hidden_dims)} and context_dim={context_dim}"
            )
        if num_frequencies < 0:
            raise ValueError(f"num_frequencies must not be negative, got {num_frequencies}")
        if pooled_points is not None and pooled_points < 1:
            raise ValueError(f"pooled_points must be at least 1, or None for all points, got {pooled_points}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.point_dim = point_dim
        self.num_features = point_dims[-1]
        self.context_dim = context_dim
        self.output_dims = list(output_dims)
        self.activation = activation
        self.num_frequencies = num_frequencies
        self.pooled_points = pooled_points
        cloud_dims = [point_dims[-1] + context_dim, *hidden_dims]
        self.points = nn.ModuleList(
            nn.Linear(*pair) for pair in pairwise([point_dim * (1 + 2 * num_frequencies), *point_dims])
        )
        self.cloud = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(cloud_dims))
        self.output = nn.Linear(cloud_dims[-1], sum(output_dims))

    @property
    def config(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {
            "point_dim": self.point_dim,
            "output_dims": self.output_dims,
            "point_dims": [layer.out_features for layer in self.points],
            "hidden_dims": [layer.out_features for layer in self.cloud],
            "context_dim": self.context_dim,
            "activation": self.activation,
            "num_frequencies": self.num_frequencies,
            "pooled_points": self.pooled_points,
        }

    def forward(self, clouds: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Read clouds.

        Args:
            clouds: shape `(*batch, N, D)`; what the mask leaves out may hold anything.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            context: shape `(*batch, C)`; None if `C` is 0.

        Returns:
            One tensor of shape `(*batch, size)` for every output size.
        """
        activation = ACTIVATIONS[self.activation]
        hidden = self._maxima(clouds, mask).to(clouds.dtype)
        if mask is not None:
            hidden = torch.where(mask.any(-1, keepdim=True), hidden, torch.zeros_like(hidden))
        if context is not None:
            hidden = torch.cat([hidden, context.expand(*hidden.shape[:-1], -1)], -1)
        for layer in self.cloud:
            hidden = activation(layer(hidden))
        return self.output(hidden).split(self.output_dims, -1)

    def _maxima(self, clouds: Tensor, mask: Tensor | None) -> Tensor:
        """The maximum of each output over points, shape `(*batch, size)`; anything where the mask has none."""
        if mask is not None:
            clouds = torch.where(mask.unsqueeze(-1), clouds, torch.zeros_like(clouds))
        num_points = clouds.shape[-2]
        if num_points == 0:
            return clouds.new_zeros(*clouds.shape[:-2], self.num_features)
        weights = None
        if self.pooled_points is not None and num_points > self.pooled_points:
            sizes = torch.tensor(num_points, device=clouds.device) if mask is None else mask.sum(-1)
            weights = _weights_of_largest(sizes, num_points, self.pooled_points).to(clouds.dtype)
        count = 1 if weights is None else weights.shape[-1]
        if not torch.is_grad_enabled():
            pieces = clouds.split(POINTS_AT_ONCE, -2)
            masks = [None] * len(pieces) if mask is None else mask.split(POINTS_AT_ONCE, -1)
            largest = [_largest(self._features(*piece), count) for piece in zip(pieces, masks, strict=True)]
            values = largest[0] if len(largest) == 1 else _largest(torch.cat(largest, -2), count)
        elif weights is None and num_points > self.num_features:
            # Only points that hold a maximum have a gradient: the backward pass reads these alone.
            values = _largest(self._features(self._maximal_points(clouds, mask), None), 1)
        else:
            values = _largest(self._features(clouds, mask), count)
        if weights is None:
            return values.squeeze(-2)
        # Values that do not count may be minus infinity.
        counts = weights.unsqueeze(-1) > 0
        return (weights.unsqueeze(-1) * values.to(weights).where(counts, 0.0)).sum(-2)

    def _maximal_points(self, clouds: Tensor, mask: Tensor | None) -> Tensor:
        """For each output, a point where it is largest, shape `(*batch, size, D)`."""
        batch = clouds.shape[:-2]
        with torch.no_grad():
            at_once = max(1, POINTS_IN_CACHE // clouds.shape[-2])
            pieces = clouds.reshape(-1, *clouds.shape[-2:]).split(at_once)
            masks = (
                [None] * len(pieces)
                if mask is None
                else mask.expand(clouds.shape[:-1]).reshape(-1, mask.shape[-1]).split(at_once)
            )
            rows = [self._features(*piece).max(-2).indices for piece in zip(pieces, masks, strict=True)]
            indices = torch.cat(rows).reshape(*batch, -1, 1)
        return clouds.gather(-2, indices.expand(*indices.shape[:-1], clouds.shape[-1]))

    def _features(self, clouds: Tensor, mask: Tensor | None) -> Tensor:
        """The outputs at every point, shape `(*batch, N, size)`: minus infinity outside of the mask."""
        activation = ACTIVATIONS[self.activation]
        hidden = fourier_features(clouds, self.num_frequencies)
        with autocast(self.hidden_dtype, clouds.device):
            for layer in self.points:
                hidden = activation(layer(hidden))
        return hidden if mask is None else hidden.masked_fill(~mask.unsqueeze(-1), -torch.inf)


def _largest(values: Tensor, count: int) -> Tensor:
    """The largest of values over points, `(*batch, N, size)`, in descending order: `(*batch, min(count, N), size)`."""
    if count == 1:
        return values.amax(-2, keepdim=True)
    # Many times as fast in contiguous rows.
    return values.mT.contiguous().topk(min(count, values.shape[-2])).values.mT


def _weights_of_largest(sizes: Tensor, most: int, part: int) -> Tensor:
    """The share of the parts of `part` points, of a cloud of `N`, whose maximum is its j-th largest value.

    It is `binomial(N - j, part - 1) / binomial(N, part)`. All of it is the largest's if `N <= part`.

    Args:
        sizes: numbers of points `N`, shape `(*batch,)`.
        most: at least the largest of them, and more than `part`.
        part: number of points of a part.

    Returns:
        Shape `(*batch, J)`, which sum to 1: of the first `J`, beside which the others are negligible.
    """
    kept = most - part + 1
    if part > 1:
        kept = min(kept, math.ceil(math.log(TAIL) / math.log1p(-part / most)))
    sizes = sizes.clamp(min=part).double().unsqueeze(-1)
    ranks = torch.arange(1, kept, dtype=torch.float64, device=sizes.device)
    ratios = (sizes - part - ranks + 1).clamp(min=0) / (sizes - ranks).clamp(min=1)
    weights = torch.cat([torch.ones_like(sizes), ratios.cumprod(-1)], -1)
    return weights / weights.sum(-1, keepdim=True)

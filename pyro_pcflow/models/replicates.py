"""What densities would have made, compared with what was observed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import PointCloud
from pyro_pcflow.ops.random import seeded

__all__ = ["DRAWN_POINTS", "TAIL", "log_distance_ratio", "unexplained", "warn_of_latents"]

# Points that are drawn of each density, and observed ones that replicates are compared with.
DRAWN_POINTS, COMPARED_POINTS = 64, 200
# Share of a density's own points that lie lower than the rest of its points are counted from.
TAIL = 0.01
# What a reconstruction is doubted from: so large a share of points that it does not explain, or points of it that are
# twice as far from those that were observed as they should be; and how many times fewer points than an encoder pools.
MOST_MISSED, FARTHEST, FEWER = 0.5, math.log(2), 8


def unexplained(densities: Sequence[Distribution], points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of points that some densities would hardly have made: whose density is below that of 99% of their own.

    Gelman, Meng and Stern, Posterior predictive assessment of model fitness via realized discrepancies, Statistica
    Sinica 1996.

    Args:
        densities: of a point, with `batch_shape (*batch,)`.
        points: shape `(*batch, N, D)`.
        mask: True at points, shape `(*batch, N)`.

    Returns:
        For all densities together, as a mixture, and for each alone, mean over them, shape `(*batch,)` each: 1% where
        they made the points.
    """
    batch = points.shape[:-2]
    drawn = torch.stack([density.expand(batch).sample(torch.Size((DRAWN_POINTS,))) for density in densities])
    places = drawn.flatten(0, 1)  # (K * P, *batch, D)
    of_drawn = torch.stack([density.log_prob(places) for density in densities])  # (K, K * P, *batch)
    of_points = torch.stack([density.log_prob(points.movedim(-2, 0)) for density in densities])  # (K, N, *batch)
    together = of_points.logsumexp(0) < of_drawn.logsumexp(0).quantile(TAIL, dim=0)
    own = of_drawn.unflatten(1, drawn.shape[:2]).diagonal(dim1=0, dim2=1).movedim(-1, 0)  # (K, P, *batch)
    alone = of_points < own.quantile(TAIL, dim=1, keepdim=True)
    count = mask.sum(-1).clamp(min=1)
    of_all = (together.movedim(0, -1) & mask).sum(-1) / count
    of_each = (alone.movedim(1, -1) & mask).sum(-1) / count
    return of_all, of_each.mean(0)


def log_distance_ratio(densities: Sequence[Distribution], points: Tensor, mask: Tensor) -> Tensor:
    """How far the nearest observed points are from replicates, over how far those of other replicates are, as a log.

    Arguments as of `unexplained`, of at least two densities.

    Returns:
        Shape `(*batch,)`, about 0 where the densities made the points.
    """
    # As many points of either: the nearest of more points is nearer.
    some, chosen = _some(points, mask)
    clouds = [PointCloud(density, mask=chosen).expand(chosen.shape[:-1]).sample() for density in densities]
    ratios = []
    for cloud, other in zip(clouds, [*clouds[1:], clouds[0]], strict=True):
        ratios.append((_nearest(cloud, some, chosen) / _nearest(cloud, other, chosen)).log())
    return torch.stack(ratios).mean(0).nan_to_num(nan=0.0)


def _nearest(points: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Mean distance of the points of clouds to the nearest of others, shape `(*batch,)`."""
    distances = torch.cdist(points, others).masked_fill(~mask.unsqueeze(-2), torch.inf).amin(-1)
    return torch.where(mask, distances, 0.0).sum(-1) / mask.sum(-1)


def warn_of_latents(density: Distribution, clouds: Tensor, mask: Tensor | None, most_points: int | None) -> None:
    """Warn in one sentence of clouds that are not like what their latents stand for, or that have few points.

    The caller's generators of random numbers stay as they were.

    Args:
        density: of a point given the latents that were found, with `batch_shape (*batch,)`.
        clouds: shape `(*batch, N, D)`.
        mask: True at points, shape `(*batch, N)`; all of them by default.
        most_points: how many points the encoder reads at once; None for any number.
    """
    if mask is None:
        mask = torch.ones(clouds.shape[:-1], dtype=torch.bool, device=clouds.device)
    count = mask.sum(-1)
    if not mask.any():
        return
    with torch.no_grad(), seeded(0, clouds.device):
        some, chosen = _some(clouds, mask)
        _, missed = unexplained([density], some, chosen)
        far = log_distance_ratio([density, density], some, chosen)
    # Two standard errors of a share, and of the logarithm of a ratio of two mean distances to the nearest on a surface,
    # each of which deviates by half of itself.
    error = 2 * chosen.sum(-1).clamp(min=1).rsqrt()
    most = MOST_MISSED + (MOST_MISSED * (1 - MOST_MISSED)) ** 0.5 * error
    unlike = (missed > most) | (far > FARTHEST + 0.5 * 2**0.5 * error)
    few = torch.zeros_like(unlike) if most_points is None else count < most_points / FEWER
    for doubtful, reason in (
        (unlike, "are not like the shapes that were found: a part of a shape, other units, or another kind of object"),
        (few, f"have far fewer points than the encoder learned from, {most_points}"),
    ):
        number = int((doubtful & (count > 0)).sum())
        if number:
            warnings.warn(
                f"latents may be wrong: {number} of {count.numel()} clouds {reason}; for partial clouds use "
                "pcf.complete, and check=False turns this off",
                UserWarning,
                stacklevel=4,
            )


def _some(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """At most so many points of each cloud as are compared, and where they are points."""
    keys = torch.where(mask, torch.rand_like(points[..., 0]), -1.0).topk(min(COMPARED_POINTS, mask.shape[-1]), -1)
    some = points.gather(-2, keys.indices.unsqueeze(-1).expand(*keys.indices.shape, points.shape[-1]))
    chosen = keys.values >= 0
    # What is padding may be anything.
    return torch.where(chosen.unsqueeze(-1), some, 0.0), chosen

"""How thick training makes a surface: whether points lie on one, and how much noise suits their spacing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import logsumexp
from torch import Tensor

from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.ops.spacing import nearest_distances

__all__ = ["automatic_noise", "lies_on_a_surface", "spacing", "warn_of_a_surface"]

# Widths that are tried, as shares of the median distance to the nearest point. Below the first, a flow on a surface
# begins to memorise points; beyond the last, two neighbours are one.
SHARES = 0.15 * np.sqrt(2.0) ** np.arange(-3, 11)
# Enough for a median within some percent.
POINTS_FOR_SPACING, QUERIES = 2**20, 2000
# Of the held-out likelihood: points that are scored, at most a tenth of a cloud at a time, and kernels near each of
# them, as none further away counts. Scores of 300 points would choose now one width and now its double.
SCORED, PARTS, KERNELS = 3000, 10, 32
# Of a neighbourhood in a volume, the variance along its thinnest axis is rarely this small a share of the mean over
# axes (once in a thousand, in two and three dimensions), and on surfaces and scans it often is.
FLAT = 0.005
FLAT_NEIGHBOURHOODS = 0.02
POINTS_FOR_FLATNESS, NEIGHBOURHOODS = 2**14, 1000
# Where fewer points are, their neighbourhoods are too large to tell.
FEWEST = 100


def automatic_noise(clouds: Sequence[Tensor]) -> float:
    """The standard deviation that `noise="auto"` stands for, from the points alone.

    The median distance to the nearest point gives a range; within it, that width is taken under which other points of
    the same clouds, not thickened, are most likely. Training with noise is a density estimate with that kernel, whose
    likelihood could be computed; but a flow continues a surface between points, which such a kernel cannot, and wants a
    width that is several times smaller. So the likelihood is that of a density that does so, manifold Parzen windows
    (Vincent and Bengio, "Manifold Parzen Windows", 2002): one Gaussian per point, of the covariance of its `D + 1`
    nearest neighbours, plus the width.

    Args:
        clouds: points of shape (N, D) each.

    Raises:
        ValueError: if no two points of a cloud differ.
    """
    distance = spacing(clouds)
    if distance is None:
        raise ValueError('noise="auto" takes its width from the distances of points, and no two of them differ')
    widths = distance * SHARES
    scores = np.zeros(len(widths))
    for cloud in clouds:
        scores += _held_out_log_likelihood(cloud, widths, max(1, SCORED // len(clouds)))
    # Three digits, so that other machines and versions choose the same.
    return float(f"{widths[scores.argmax()]:.3g}")


def _held_out_log_likelihood(cloud: Tensor, widths: Any, count: int) -> Any:
    """Of some points of a cloud, under manifold Parzen windows at the others, summed, for each width; 0 without any.

    Points are held out in turns, until `count` have been.
    """
    points = np.unique(_some(cloud, POINTS_FOR_SPACING, "points for the spacing"), axis=0)
    parts = max(PARTS, len(points) // count)
    totals = np.zeros(len(widths))
    # `unique` has sorted them.
    for part in range(min(parts, math.ceil(count * parts / max(1, len(points))))):
        held_out = np.arange(len(points)) % parts == part
        totals += _log_likelihood(points[held_out], points[~held_out], widths)
    return totals


def _log_likelihood(scored: Any, points: Any, widths: Any) -> Any:
    """Of points under manifold Parzen windows at others, for each width, summed over the points that are scored."""
    dim = points.shape[1]
    if len(points) < dim + 2:
        return np.zeros(len(widths))
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    _, kernels = tree.query(scored, k=min(KERNELS, len(points)))
    used, place = np.unique(kernels, return_inverse=True)
    _, neighbours = tree.query(points[used], k=dim + 2)
    offsets = points[neighbours[:, 1:]] - points[used][:, None]
    variances, axes = np.linalg.eigh(offsets.transpose(0, 2, 1) @ offsets / (dim + 1))
    place = place.reshape(kernels.shape)
    squares = np.einsum("qkd,qkde->qke", scored[:, None] - points[kernels], axes[place]) ** 2
    totals = []
    for width in widths:
        widened = variances[place] + width**2
        totals.append(logsumexp(-0.5 * (squares / widened + np.log(widened)).sum(-1), axis=-1).sum())
    return np.array(totals)


def spacing(clouds: Sequence[Tensor]) -> float | None:
    """The median distance of a point to the nearest other one of its cloud, of those that differ.

    Args:
        clouds: points of shape (N, D) each.

    Examples:
        >>> import torch
        >>> spacing([torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])])
        5.0
    """
    some = [_some(cloud, POINTS_FOR_SPACING, "points for the spacing") for cloud in clouds]
    found = np.concatenate([nearest_distances(points, max(1, len(points) * len(clouds) // QUERIES)) for points in some])
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else None


def lies_on_a_surface(clouds: Sequence[Tensor]) -> bool:
    """Whether points lie on a surface or a curve, as far as their spacing can tell.

    By principal components of the nearest neighbours of some points, in units in which the whole cloud is round: on a
    surface many of these neighbourhoods are flat. A surface that is thickened by half the spacing of its points, or
    more, counts as a volume.

    Args:
        clouds: points of shape (N, D) each.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> volume = torch.randn(1000, 3)
        >>> lies_on_a_surface([volume]), lies_on_a_surface([volume / volume.norm(dim=-1, keepdim=True)])
        (False, True)
    """
    flat = [_flat_neighbourhoods(cloud, NEIGHBOURHOODS // len(clouds)) for cloud in clouds]
    shares = np.concatenate(flat) if flat else np.empty(0)
    return len(shares) > 0 and float(shares.mean()) > FLAT_NEIGHBOURHOODS


def warn_of_a_surface(clouds: Sequence[Tensor]) -> None:
    """Warn if a density of such points has no upper bound; Python's filters show it once."""
    if lies_on_a_surface(clouds):
        warnings.warn(
            "the points lie on a surface, or on a curve, and are trained on without noise: a surface has no volume, so "
            'that their density has no upper bound, and a score grows for as long as you train. Give noise="auto" '
            "(on the command line --noise auto), or a standard deviation in the data's units",
            UserWarning,
            stacklevel=2,
        )


def _flat_neighbourhoods(cloud: Tensor, count: int) -> Any:
    """For some neighbourhoods of a cloud, whether they are flat; none where there are too few points to tell."""
    points = np.unique(_some(cloud, POINTS_FOR_FLATNESS, "points for the flatness"), axis=0)
    dim = points.shape[1]
    if dim < 2 or len(points) < FEWEST:
        return np.empty(0, dtype=bool)
    points -= points.mean(0)
    variances, axes = np.linalg.eigh(points.T @ points / len(points))
    if variances[0] <= 1e-12 * variances[-1]:
        return np.ones(1, dtype=bool)
    points = points @ (axes / np.sqrt(variances))
    # `unique` has sorted them.
    queries = points[:: max(1, len(points) // max(1, count))]
    _, neighbours = cKDTree(points).query(queries, k=2 * dim + 2)
    near = points[neighbours]
    near -= near.mean(1, keepdims=True)
    variances = np.linalg.eigvalsh(near.transpose(0, 2, 1) @ near)
    return variances[:, 0] < FLAT * variances.mean(1)


def _some(cloud: Tensor, most: int, purpose: str) -> Any:
    """At most so many points of a cloud, in float64."""
    if len(cloud) > most:
        chosen = torch.randperm(len(cloud), generator=seeded_generator(0, purpose))[:most]
        cloud = cloud[chosen.to(cloud.device)]
    return cloud.detach().cpu().double().numpy().copy()

"""How far apart neighbouring points are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.ops.random import seeded_generator

__all__ = ["nearest_distances", "point_spacing"]

# Enough for a median within some percent, in a fraction of a second.
MOST_POINTS, QUERIES = 2**18, 500
# Neighbours among which one is looked for that is no copy of the point.
NEIGHBOURS = 8


def point_spacing(points: Tensor) -> float:
    """The median distance of a point to the nearest other one that is not at the same place.

    Of more than `MOST_POINTS` points some are looked at, and their distances are corrected by how distances shrink from
    a quarter of these to all of them: by the square root of the number on a surface, by its cube root in a volume.

    Args:
        points: shape `(N, D)`, finite.

    Returns:
        The distance; 0 where no two points differ.

    Raises:
        ValueError: if the points are of another shape.

    Examples:
        >>> point_spacing(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
        5.0
    """
    if points.dim() != 2:
        raise ValueError(f"expected points of shape (N, D), got {tuple(points.shape)}")
    count = len(points)
    if count <= MOST_POINTS:
        return _median_distance(_exact(points))
    chosen = torch.randperm(count, generator=seeded_generator(0, "point spacing"))[:MOST_POINTS]
    some = _exact(points[chosen.to(points.device)])
    distance = _median_distance(some)
    if distance == 0:
        return 0.0
    # Four times as many points are no nearer than in a volume of all dimensions, and no farther than on a curve.
    growth = min(max(_median_distance(some[: MOST_POINTS // 4]) / distance, 4 ** (1 / points.shape[1])), 4.0)
    return distance * growth ** -math.log(count / MOST_POINTS, 4)


def _exact(points: Tensor) -> Any:
    return points.detach().cpu().double().numpy()


def _median_distance(points: Any) -> float:
    found = nearest_distances(points, max(1, len(points) // QUERIES))
    if not np.isfinite(found).all():
        # Many points at one place hide their neighbours.
        points = np.unique(points, axis=0)
        found = nearest_distances(points, max(1, len(points) // QUERIES))
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else 0.0


def nearest_distances(points: Any, step: int) -> Any:
    """Distances of some points to the nearest other one that is not at the same place.

    Args:
        points: an array of shape `(N, D)`.
        step: every how many of the points is looked at.

    Returns:
        An array; infinite where all neighbours that were looked at are at the same place.
    """
    if len(points) < 2:
        return np.empty(0)
    from scipy.spatial import cKDTree

    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    nearest, _ = tree.query(points[::step], k=np.arange(2, NEIGHBOURS + 2))
    return np.where(nearest > 0, nearest, np.inf).min(-1)

"""Points that lie astray: far from all others, as dust, reflections and slips of a sensor do."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["find_strays", "robust_half_extent", "warn_of_strays"]

# Neighbours whose mean distance counts, as in the usual filter.
_NEIGHBOURS = 8
# The median of absolute deviations times this is a normal's standard deviation.
_PER_DEVIATION = 1.4826
# A grid has no spread at all, and the end of a line is not astray, whose neighbours are 1.8 times as far on average.
_LEAST_SPREAD = 0.2
# Of a bounding box without strays this share of points may lie outside on each side.
_SHARE_OUTSIDE = 0.001
# A box, or a standard deviation, that so few points stretch by this factor is theirs alone.
_STRETCHED = 1.5
# Of fewer points each counts.
_FEWEST = 10
_POINTS_AT_ONCE = 1 << 16


def find_strays(points: NDArray[np.generic], deviations: float) -> NDArray[np.bool_]:
    """Which points lie farther from their neighbours than is usual: statistical outlier removal.

    The mean distance of each point to its eight nearest others is compared with those of all points on a logarithmic
    scale, by median and median absolute deviation, which one far point cannot move; R. B. Rusu et al., "Towards 3D
    Point Cloud Based Object Maps", 2008, take mean and standard deviation of the distances themselves.

    Args:
        points: (N, D), finite.
        deviations: how many standard deviations above the median a distance is too far; 3 to 6 are usual.

    Returns:
        (N,), True at strays; none where there are no more points than neighbours.

    Raises:
        ValueError: `deviations` that is not positive.

    Examples:
        >>> grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)
        >>> find_strays(np.concatenate([grid, [[50, 0, 0]]]), 5).nonzero()[0].tolist()
        [125]
    """
    from scipy.spatial import cKDTree

    if not deviations > 0:
        raise ValueError(f"expected a positive number of standard deviations for outliers, got {deviations}")
    if len(points) <= _NEIGHBOURS + 1:
        return np.zeros(len(points), dtype=bool)
    exact = np.asarray(points, dtype=np.float64)
    exact = exact - np.median(exact, axis=0)
    distances, _ = cKDTree(exact).query(exact, _NEIGHBOURS + 1)
    means = distances[:, 1:].mean(axis=1)
    positive = means > 0
    if not positive.any():
        return np.zeros(len(points), dtype=bool)
    logs = np.log(means, where=positive, out=np.full(len(means), -math.inf))
    centre = np.median(logs[positive])
    spread = _PER_DEVIATION * np.median(np.abs(logs[positive] - centre))
    return logs > centre + deviations * max(float(spread), _LEAST_SPREAD)


def robust_half_extent(points: NDArray[np.generic]) -> float:
    """Half extent of the bounding box, unless a few points alone make it large.

    Args:
        points: (N, D), finite, at least one.

    Returns:
        Half of the box's longest side; where a thousandth of the points at either end of an axis makes that larger by
        half or more, that of the box without them.

    Examples:
        >>> line = np.linspace(-1, 1, 2001)[:, None] * [1.0, 0.0]
        >>> robust_half_extent(line), round(robust_half_extent(np.concatenate([line, [[1000.0, 0.0]]])), 2)
        (1.0, 1.0)
    """
    exact = np.asarray(points, dtype=np.float64)
    whole = float(np.ptp(exact, axis=0).max() / 2)
    low, high = np.quantile(exact, [_SHARE_OUTSIDE, 1 - _SHARE_OUTSIDE], axis=0)
    inner = float((high - low).max() / 2)
    return inner if whole > _STRETCHED * inner > 0 else whole


def warn_of_strays(points: Tensor) -> None:
    """Warn if a thousandth of the points, or a single one, decides the standard deviation that becomes the unit.

    Args:
        points: shape `(*batch, D)`, finite, in the data's units.
    """
    flat = points.detach().reshape(-1, points.shape[-1])
    if len(flat) < _FEWEST:
        return
    centre = flat[:: max(1, len(flat) // _POINTS_AT_ONCE)].median(0).values
    # Piece by piece, so that the memory needed is little beside that of the points.
    distances = torch.cat([(part - centre).square().sum(-1) for part in flat.split(_POINTS_AT_ONCE)])
    far = distances.topk(max(1, round(_SHARE_OUTSIDE * len(flat)))).indices
    total = torch.stack([(part - centre).sum(0, dtype=torch.float64) for part in flat.split(_POINTS_AT_ONCE)]).sum(0)
    squares, outside = distances.sum(dtype=torch.float64), distances[far].sum(dtype=torch.float64)
    whole = _deviation(len(flat), total, squares)
    inner = _deviation(len(flat) - len(far), total - (flat[far] - centre).double().sum(0), squares - outside)
    if whole > _STRETCHED * inner > 0:
        astray = int((distances > (_STRETCHED * whole) ** 2).sum())
        warnings.warn(
            f"{astray} of {len(flat)} points lie so far from the others that they decide the units: the standard "
            f"deviation is {whole:.3g} with them, and {inner:.3g} without the farthest {len(far)}. If these are slips "
            "of a sensor, leave them out: outliers=5 of load_scans and load_clouds, --outliers 5 on the command line",
            UserWarning,
            stacklevel=2,
        )


def _deviation(count: int, total: Tensor, squares: Tensor) -> float:
    """The standard deviation of so many points by their sum (D,) and the sum of all squares."""
    variance = squares / count - (total / count).square().sum()
    return math.sqrt(max(float(variance), 0.0) / len(total))

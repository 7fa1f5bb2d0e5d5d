"""The one projection of this room, and what a picture has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyro_pcflow.plotting.arrays import Array, Points, as_array, check_points

_AXES = {"x": 0, "y": 1, "z": 2}


def view_matrix(elev: float, azim: float, up: str = "y") -> Array:
    """Return the rotation from coordinates to what a camera sees.

    At `elev = azim = 0` the camera looks at the front: along z where y is up, along x where z is up (as
    Matplotlib does), along y where x is up. A growing `azim` takes the camera to its right around the upright axis.

    Args:
        elev: degrees above the horizon.
        azim: degrees around the upright axis.
        up: the axis that stands upright: "x", "y" or "z", or "-x", "-y", "-z".

    Returns:
        (3, 3), orthonormal with determinant 1; its rows point to the right, up, and towards the viewer.

    Raises:
        ValueError: another `up`, or angles that are not finite.

    Examples:
        >>> bool((view_matrix(0.0, 0.0) == np.eye(3)).all())
        True
    """
    sign, axis = (-1.0, up[1:]) if up.startswith("-") else (1.0, up)
    if axis not in _AXES:
        raise ValueError(f'up: expected "x", "y" or "z", or one of these after a minus sign, got {up!r}')
    if not np.isfinite([elev, azim]).all():
        raise ValueError(f"elev and azim: expected finite degrees, got {elev} and {azim}")
    upright = np.eye(3)[_AXES[axis]] * sign
    front = np.eye(3)[(_AXES[axis] + 1) % 3]
    right = np.cross(upright, front)
    e, a = np.deg2rad(elev), np.deg2rad(azim)
    towards = np.cos(e) * (np.cos(a) * front + np.sin(a) * right) + np.sin(e) * upright
    across = np.cos(a) * right - np.sin(a) * front
    return np.stack([across, np.cross(towards, across), towards])


def project(points: Points, *, elev: float = 18.0, azim: float = 35.0, up: str = "y") -> Array:
    """Project points as every picture of this package does: orthographically, lengths kept.

    Args:
        points: (..., N, D). Of more than three coordinates, the first three count; points of two stay flat.
        elev: degrees above the horizon.
        azim: degrees around the upright axis.
        up: the axis that stands upright.

    Returns:
        (..., N, 3) float64: to the right, up, and towards the viewer, in the units of the points.

    Raises:
        TypeError: not numbers.
        ValueError: no points, a wrong rank, points that are not finite, or another `up`.

    Examples:
        >>> project(np.array([[0.0, 1.0, 0.0]]), elev=0.0, azim=40.0).round(6).tolist()
        [[0.0, 1.0, 0.0]]
    """
    checked = check_points(as_array(points, "points"), "points", ranks=(2, 3))
    return turn(checked, view_matrix(elev, azim, up))


def turn(points: Array, matrix: Array) -> Array:
    """Apply a view to checked points; flat points stay as they are.

    Args:
        points: (..., N, 2) or (..., N, 3).
        matrix: (3, 3), from `view_matrix`.

    Returns:
        (..., N, 3).

    Examples:
        >>> turn(np.array([[1.0, 2.0]]), view_matrix(30.0, 30.0)).tolist()
        [[1.0, 2.0, 0.0]]
    """
    if points.shape[-1] == 2:
        return np.concatenate([points, np.zeros_like(points[..., :1])], -1)
    return points @ matrix.T


@dataclass(frozen=True)
class Frame:
    """A box of what a picture shows, in the coordinates of the viewer.

    Attributes:
        center: (3,).
        half: (3,), half of the width, of the height and of the depth.

    Examples:
        >>> Frame(np.zeros(3), np.ones(3)).padded(0.5, 0.5, margin=0.0).half.tolist()
        [1.5, 1.5, 1.0]
    """

    center: Array
    half: Array

    def padded(self, across: float, along: float, margin: float = 0.04) -> Frame:
        """Return a box with a margin: a share of its longer side, and what dots at the border reach beyond it."""
        extra = margin * self.half[:2].max()
        return Frame(self.center, self.half + np.array([across + extra, along + extra, 0.0]))

    def shaped(self, aspect: float) -> Frame:
        """Return the smallest box of this width-to-height ratio around this one."""
        width, height, depth = self.half
        half = np.array([max(width, height * aspect), max(height, width / aspect), depth])
        return Frame(self.center, half)

    @property
    def aspect(self) -> float:
        """Width over height."""
        return float(self.half[0] / self.half[1])


def frame_around(views: Sequence[Array], *, tail: float = 0.01, slack: float = 0.35) -> Frame:
    """A box around clouds that outliers do not enlarge much.

    Each side lies at the outermost point, but no farther than `slack` widths from the box of all but the share
    `tail` of the points: one stray sample must not shrink the shape to a dot. What lies beyond is not drawn.

    Args:
        views: clouds of projected points, each (N, 3).
        tail: the fraction of points that count as outliers, at each side.
        slack: how far outliers may widen the box.

    Returns:
        The box around all clouds; never of size zero.

    Examples:
        >>> frame_around([np.array([[0.0, 0.0, 0.0], [4.0, 2.0, 0.0]])]).half[:2].tolist()
        [2.0, 1.0]
    """
    lows, highs = [], []
    for view in views:
        low, high = np.quantile(view, [tail, 1 - tail], axis=0)
        reach = slack * (high - low)
        lows.append(np.maximum(view.min(0), low - reach))
        highs.append(np.minimum(view.max(0), high + reach))
    low, high = np.min(lows, 0), np.max(highs, 0)
    half = (high - low) / 2
    center = (high + low) / 2
    scale = half.max()
    floor = 1e-6 * max(1.0, float(np.abs(center).max())) if scale == 0 else 1e-3 * scale
    return Frame(center, np.maximum(half, floor))

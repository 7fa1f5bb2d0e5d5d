"""Polygons cut into triangles, all of them at once; concave ones by their ears."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_strips", "triangulate"]

_MOST_CORNERS = 100_000
# The work on concave polygons grows with the square of their corners, beside what each corner of each polygon costs
# and each step of a group of them: relative figures, as measured. This much takes some ten seconds.
_MOST_WORK = 300_000_000
_CORNER, _STEP = 80, 18_000
# Polygons whose sizes differ by less are cut together.
_GROUP = 1.25
# Corners that are looked at together.
_BLOCK = 1 << 18
# A reflex corner that takes less than this share of a polygon's area is one of rounding.
_SLIGHT = 1e-9


def triangulate(
    counts: NDArray[np.int64], corners: NDArray[np.int64], vertices: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Cut polygons into triangles that cover just them, in their order and with their orientation.

    Convex polygons become fans; concave ones are cut ear by ear, in the plane of their Newell normal. A polygon that
    crosses itself has no one surface, and becomes some triangles of its corners.

    Args:
        counts: (P,), how many corners each polygon has; fewer than three have no area, and are left out.
        corners: (sum of counts,), indices of vertices, polygon after polygon.
        vertices: (V, 3).

    Returns:
        (F, 3).

    Raises:
        ValueError: a corner that is no vertex, or too many corners: of one polygon, or of concave ones together.

    Examples:
        >>> square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> triangulate(np.array([4]), np.arange(4), square).tolist()
        [[0, 1, 2], [0, 2, 3]]
        >>> arrow = np.array([[0.0, 0, 0], [2, 1, 0], [0, 2, 0], [1, 1, 0]])
        >>> triangulate(np.array([4]), np.arange(4), arrow).tolist()
        [[1, 2, 3], [1, 3, 0]]
    """
    if len(corners) and (corners.min() < 0 or corners.max() >= len(vertices)):
        raise ValueError(f"a face refers to a vertex outside 0 to {len(vertices) - 1}")
    if len(counts) and counts.min() == counts.max() == 3:
        return corners.reshape(-1, 3)
    if len(counts) and counts.max() > _MOST_CORNERS:
        raise ValueError(f"a face of {counts.max()} corners, export triangles")
    starts = np.cumsum(counts) - counts
    sizes = np.maximum(counts - 2, 0)
    places = np.cumsum(sizes) - sizes
    faces = np.empty((int(sizes.sum()), 3), np.int64)
    left = []
    with np.errstate(all="ignore"):
        for count, polygons in _by_size(counts):
            triangles, concave = _fans(corners[starts[polygons, None] + np.arange(count)], vertices)
            faces[places[polygons, None] + np.arange(count - 2)] = triangles
            left.append(polygons[concave])
        for polygons in _groups(np.concatenate([np.zeros(0, np.int64), *left]), counts):
            last = counts[polygons, None] - 1
            # The last corner stands in for those that a polygon has less than the largest of its group.
            own = corners[starts[polygons, None] + np.minimum(np.arange(last.max() + 1), last)]
            triangles = _without_repeats(_clip_ears(own, vertices))
            kept = np.arange(last.max() - 1) < last - 1
            faces[(places[polygons, None] + np.arange(last.max() - 1))[kept]] = triangles[kept]
    return faces


def _by_size(counts: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    if not len(counts):
        return
    order = np.argsort(counts, kind="stable")
    sizes, first = np.unique(counts[order], return_index=True)
    for size, start, stop in zip(sizes.tolist(), first, [*first[1:], len(order)], strict=True):
        if size > 2:
            block = max(1, _BLOCK // size)
            for begin in range(start, stop, block):
                yield size, order[begin : min(begin + block, stop)]


def _groups(polygons: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Concave polygons of about the same size, if all of them together are not too much work."""
    sizes = counts[polygons]
    keys = np.ceil(np.log(sizes) / np.log(_GROUP))
    groups = []
    work = 0
    for key in np.unique(keys):
        own = polygons[keys == key]
        most = int(counts[own].max())
        block = max(1, _BLOCK // most)
        groups += [own[start : start + block] for start in range(0, len(own), block)]
        work += most * (len(own) * (most + _CORNER) + -(-len(own) // block) * _STEP)
    if work > _MOST_WORK:
        raise ValueError(f"{len(polygons)} concave faces of as many as {sizes.max()} corners, export triangles")
    yield from groups


def _without_repeats(triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles (K, T, 3) with those of a corner twice behind all others."""
    repeats = (triangles == np.roll(triangles, 1, axis=2)).any(axis=2)
    order = np.argsort(repeats, axis=1, kind="stable")
    return np.take_along_axis(triangles, order[:, :, None], axis=1)


def _fans(own: NDArray[np.int64], vertices: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Fans of polygons of one size, (K, n - 2, 3), and which polygons they do not cover."""
    count = own.shape[1]
    if count == 3:
        return own[:, None], np.zeros(len(own), bool)
    concave = ~_fan_covers(vertices[own])
    if count == 4 and concave.any():
        # A quadrilateral has two diagonals, and one of them is inside.
        own = own.copy()
        own[concave] = np.roll(own[concave], -1, axis=1)
        concave[:] = False
    middle = np.arange(1, count - 1)
    return np.stack(np.broadcast_arrays(own[:, :1], own[:, middle], own[:, middle + 1]), axis=-1), concave


def _fan_covers(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    spokes = points[:, 1:] - points[:, :1]
    areas = np.cross(spokes[:, :-1], spokes[:, 1:])
    normal = areas.sum(axis=1, keepdims=True)
    shares = (areas * normal).sum(axis=2)
    total = shares.sum(axis=1, keepdims=True)
    # What is not finite is refused later on, by name.
    return (shares >= -_SLIGHT * total).all(axis=1) | ~np.isfinite(total[:, 0])


def _flatten(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Polygons (K, n, 3) seen along the axis next to their normals, (K, n, 2), anticlockwise."""
    flat = points - points[:, :1]
    flat /= np.abs(flat).max(axis=(1, 2), keepdims=True)
    normal = np.cross(flat[:, 1:-1], flat[:, 2:]).sum(axis=1)
    axis = np.abs(normal).argmax(axis=1)
    kept = np.array([[1, 2], [2, 0], [0, 1]])[axis]
    upwards = np.take_along_axis(normal, axis[:, None], axis=1)[:, 0] >= 0
    kept[~upwards] = kept[~upwards, ::-1]
    return np.take_along_axis(flat, kept[:, None, :], axis=2)


def _turn(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the area of the triangles a, b, c: positive if anticlockwise."""
    ab, ac = b - a, c - a
    return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]


def _clip_ears(own: NDArray[np.int64], vertices: NDArray[np.floating]) -> NDArray[np.int64]:
    """Cut one ear after the other off polygons of one size: (K, n - 2, 3).

    Each step cuts one corner off each polygon, and looks at its two neighbours anew.
    """
    flat = _flatten(np.asarray(vertices, np.float64)[own])
    polygons, total = own.shape
    rows = np.arange(polygons)
    slight = _SLIGHT * np.abs(_turn(flat[:, :1], flat[:, :-1], flat[:, 1:]).sum(axis=1))
    ring = _Ring(own, flat, slight)
    triangles = np.empty((polygons, total - 2, 3), np.int64)
    for step in range(total - 2):
        if 2 * (total - step) <= ring.own.shape[1]:
            ring = _Ring(*ring.rest(total - step), slight)
        corner = ring.best()
        before, after = ring.before[rows, corner], ring.after[rows, corner]
        triangles[:, step] = np.stack([ring.own[rows, i] for i in (before, corner, after)], axis=1)
        ring.cut(corner, before, after)
    return triangles


class _Ring:
    """What is left of polygons (K, n): the corners that are still there, and which of them are ears."""

    def __init__(self, own: NDArray[np.int64], flat: NDArray[np.float64], slight: NDArray[np.float64]) -> None:
        polygons, count = own.shape
        self.own, self.flat, self.slight = own, flat, slight
        self.x, self.y = np.ascontiguousarray(flat[..., 0]), np.ascontiguousarray(flat[..., 1])
        self.rows = np.arange(polygons)
        self.there = np.ones((polygons, count), bool)
        self.after = np.tile(np.roll(np.arange(count), -1), (polygons, 1))
        self.before = np.tile(np.roll(np.arange(count), 1), (polygons, 1))
        self.turns = _turn(np.roll(flat, 1, axis=1), flat, np.roll(flat, -1, axis=1))
        self.reflex = self.turns <= slight[:, None]
        self.ears = np.zeros((polygons, count), bool)
        for corner in range(count):
            self._look(np.full(polygons, corner))

    def best(self) -> NDArray[np.int64]:
        """An ear of each polygon; where rounding or crossing edges leave none, a corner that turns the right way."""
        choice = self.ears.argmax(axis=1)
        none = ~self.ears[self.rows, choice]
        if none.any():
            choice[none] = np.where(self.there[none], self.turns[none], -np.inf).argmax(axis=1)
        return choice

    def cut(self, corner: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        rows = self.rows
        self.there[rows, corner] = self.reflex[rows, corner] = self.ears[rows, corner] = False
        self.after[rows, before], self.before[rows, after] = after, before
        for changed in (before, after):
            a, c = self.before[rows, changed], self.after[rows, changed]
            turn = _turn(self.flat[rows, a], self.flat[rows, changed], self.flat[rows, c])
            self.turns[rows, changed] = turn
            self.reflex[rows, changed] = turn <= self.slight
        for changed in (before, after):
            self._look(changed)

    def rest(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return self.own[self.there].reshape(-1, count), self.flat[self.there].reshape(len(self.own), count, 2)

    def _look(self, corner: NDArray[np.int64]) -> None:
        """Whether a corner of each polygon is an ear: no other corner lies within its triangle."""
        rows = self.rows
        turn = self.turns[rows, corner]
        # A corner on a straight edge, or at the tip of a spike, can go at once.
        straight = np.abs(turn) <= self.slight * _SLIGHT
        self.ears[rows, corner] = straight
        if not (turn > 0).any():
            return
        triangle = np.stack([self.flat[rows, i] for i in (self.before[rows, corner], corner, self.after[rows, corner])])
        (left, low), (right, high) = triangle.min(axis=0).T, triangle.max(axis=0).T
        # Whatever reaches into a triangle does so with a reflex corner.
        near = self.reflex & (self.x >= left[:, None]) & (self.x <= right[:, None])
        near &= (self.y >= low[:, None]) & (self.y <= high[:, None])
        polygon, other = np.nonzero(near)
        point = self.flat[polygon, other]
        inside = np.ones(len(point), bool)
        for begin, end in ((0, 1), (1, 2), (2, 0)):
            a, b = triangle[begin, polygon], triangle[end, polygon]
            # Holes are bridged by corners that stand there twice.
            inside &= (_turn(a, b, point) >= 0) & (point != a).any(axis=1)
        blocked = np.bincount(polygon[inside], minlength=len(rows)) > 0
        self.ears[rows, corner] = straight | ((turn > 0) & ~blocked)


def cut_strips(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of strips: each corner makes one with the two before it, every second one turned round.

    Args:
        corners: (C,), indices of vertices; a negative one ends a strip.

    Returns:
        (F, 3).

    Examples:
        >>> cut_strips(np.array([0, 1, 2, 3, -1, 4, 5, 6])).tolist()
        [[0, 1, 2], [2, 1, 3], [4, 5, 6]]
    """
    if len(corners) < 3:
        return np.empty((0, 3), np.int64)
    index = np.arange(len(corners))
    starts = np.maximum.accumulate(np.where(corners < 0, index + 1, 0))
    triangles = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    odd = (index[:-2] - starts[:-2]) % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    return triangles[(triangles >= 0).all(axis=1)]

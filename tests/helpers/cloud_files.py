"""Files of clouds, written as a user would."""

from __future__ import annotations

import numpy as np


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def save(folder, name, array):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def numbered(num_points, dim=3, start=0):
    return np.arange(start, start + num_points * dim, dtype=np.float64).reshape(num_points, dim)


def cells(points, vertices, faces):
    """Index of the face that each point lies on, and of the quarter of that face."""
    index = np.full(len(points), -1)
    for number, (a, b, c) in enumerate(vertices[faces]):
        solution = np.linalg.lstsq(np.stack([b - a, c - a], axis=1), (points - a).T, rcond=None)[0]
        weights = np.stack([1 - solution.sum(axis=0), *solution], axis=1)
        rebuilt = weights @ np.stack([a, b, c])
        on_face = (np.abs(rebuilt - points).max(axis=1) < 1e-5) & (weights > -1e-5).all(axis=1)
        quarter = np.where(weights.max(axis=1) > 0.5, weights.argmax(axis=1), 3)
        index[on_face] = 4 * number + quarter[on_face]
    return index

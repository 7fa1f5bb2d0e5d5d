"""Sampling of points from surfaces and clouds: pure functions of arrays and a seed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """A triangle mesh: `vertices` (V, 3) float64 and `faces` (F, 3) int64."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]


@dataclass(frozen=True)
class CloudArray:
    """Clouds of one size, `points` (S, N, D), of any real type; perhaps still on disk.

    `splits` (S,), words, are their splits where the file says them.
    """

    points: NDArray[np.generic]
    splits: NDArray[np.str_] | None = None


def derive_seed(seed: int, name: str, index: int) -> int:
    """Seed of one cloud, which depends on nothing but the user's seed and the cloud's own name.

    Args:
        seed: the user's seed.
        name: name of the file, relative to the folder that is read.
        index: position of the cloud in its file.

    Returns:
        An integer in [0, 2^64), the same on every machine.

    Examples:
        >>> derive_seed(0, "a.npy", 0) == derive_seed(0, "a.npy", 0)
        True
        >>> derive_seed(0, "a.npy", 0) == derive_seed(0, "b.npy", 0)
        False
    """
    key = f"{seed}\0{index}\0".encode() + os.fsencode(name)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def choose_points(points: NDArray[np.generic], num_points: int, seed: int) -> NDArray[np.generic]:
    """Take `num_points` of the given points: a random subset, or all of them and random repeats.

    Args:
        points: (N, D), N at least 1.
        num_points: how many to return.
        seed: seed of the choice.

    Returns:
        (num_points, D); the points themselves, in order, when there are just as many.

    Examples:
        >>> choose_points(np.arange(6.0).reshape(3, 2), 5, seed=0).shape
        (5, 2)
    """
    count = len(points)
    if count == num_points:
        return points
    rng = np.random.default_rng(seed)
    if count > num_points:
        return points[rng.choice(count, num_points, replace=False)]
    repeats = rng.integers(count, size=num_points - count)
    return points[np.concatenate([np.arange(count), repeats])]


def sample_surface(surface: Surface, num_points: int, seed: int) -> NDArray[np.float64]:
    """Draw points uniformly by area.

    Args:
        surface: a mesh of positive area.
        num_points: how many to draw.
        seed: seed of the draw.

    Returns:
        (num_points, 3).

    Examples:
        >>> triangle = Surface(np.eye(3), np.array([[0, 1, 2]]))
        >>> bool(np.allclose(sample_surface(triangle, 4, seed=0).sum(1), 1))
        True
    """
    import trimesh

    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    return np.asarray(trimesh.sample.sample_surface(mesh, num_points, seed=seed)[0])


def has_area(surface: Surface) -> bool:
    """Whether a mesh has any area, up to rounding.

    Args:
        surface: the mesh.

    Returns:
        False where every triangle is a line or a point.

    Examples:
        >>> has_area(Surface(np.eye(3), np.array([[0, 1, 1]])))
        False
    """
    used = surface.vertices[surface.faces]
    edges = used[:, 1:] - used[:, :1]
    doubled = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1).sum()
    extent = np.ptp(used.reshape(-1, 3), axis=0).max()
    # Rounding alone gives collinear corners an area near 1e-16 of the squared extent.
    return bool(doubled > 1e-12 * extent**2)


def half_extent(clouds: Tensor) -> float:
    """Half extent of the bounding box of all points: half of its longest side, the usual unit of `noise`.

    Args:
        clouds: (*batch, D), in any units.

    Raises:
        ValueError: no points.

    Examples:
        >>> import torch
        >>> half_extent(torch.tensor([[0.0, 0.0, 0.0], [1.0, 4.0, 2.0]]))
        2.0
    """
    points = clouds.reshape(-1, clouds.shape[-1])
    if not len(points):
        raise ValueError("no points: the bounding box of nothing has no extent")
    return float((points.amax(0) - points.amin(0)).max() / 2)

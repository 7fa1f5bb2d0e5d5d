"""Sampling of points from surfaces and clouds: pure functions of arrays and a seed."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_pcflow.data.shapes import Surface


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


def choose_rows(count: int, num_points: int, seed: int) -> NDArray[np.int64]:
    """Numbers of `num_points` of so many points: a random subset, or all of them and random repeats.

    Args:
        count: how many points there are, at least 1.
        num_points: how many to take.
        seed: seed of the choice.

    Returns:
        (num_points,); in order when there are just as many.

    Examples:
        >>> choose_rows(3, 5, seed=0)[:3].tolist()
        [0, 1, 2]
    """
    if count == num_points:
        return np.arange(count)
    rng = np.random.default_rng(seed)
    if count > num_points:
        return rng.choice(count, num_points, replace=False)
    return np.concatenate([np.arange(count), rng.integers(count, size=num_points - count)])


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

"""The density of a thickened surface, which no model can beat."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

import pyro_pcflow as pcf
from benchmarks.common.meshes import Shape


def exact_log_prob(points: np.ndarray, surface: np.ndarray, noise: float) -> np.ndarray:
    """Log-density of points of a surface to which Gaussian noise is added, in nats.

    Args:
        points: shape `(N, D)`.
        surface: independent points of the surface, shape `(M, D)`: many for every square of the noise's width.
        noise: standard deviation.
    """
    tree, dim = cKDTree(surface), surface.shape[1]
    sums = []
    for piece in np.array_split(points, max(1, len(points) // 200)):
        near = cKDTree(piece).sparse_distance_matrix(tree, 6 * noise, output_type="ndarray")
        sums.append(np.bincount(near["i"], np.exp(-0.5 * (near["v"] / noise) ** 2), len(piece)))
    with np.errstate(divide="ignore"):  # a point far from the surface has a density of zero
        return np.log(np.concatenate(sums) / len(surface)) - dim / 2 * math.log(2 * math.pi * noise**2)


def true_scores(path: Path, shape: Shape, num_points: int = 3_000_000) -> np.ndarray:
    """Log-densities of a mesh's test points under the true density, from so many points of its surface."""
    surface = (pcf.data.load_clouds(path, num_points, seed=1)[0] - shape.center) / shape.unit
    return exact_log_prob(shape.test.double().numpy(), surface.double().numpy(), shape.noise)

"""The true density of a thickened surface against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from benchmarks.common.meshes import load_shape
from benchmarks.common.true_density import exact_log_prob, true_scores

NOISE = 0.05


def test_a_square_in_space():
    # Far from its edges, the density of a thickened square is that of the noise across it, over its area.
    generator = np.random.default_rng(0)
    surface = np.concatenate([generator.uniform(-1, 1, (400_000, 2)), np.zeros((400_000, 1))], 1)
    points = np.concatenate([generator.uniform(-0.5, 0.5, (300, 2)), NOISE * generator.standard_normal((300, 1))], 1)
    across = -0.5 * (points[:, 2] / NOISE) ** 2 - math.log(NOISE * math.sqrt(2 * math.pi))
    scores = exact_log_prob(points, surface, NOISE)
    assert scores == pytest.approx(across - math.log(4.0), abs=0.15)
    assert scores.mean() == pytest.approx((across - math.log(4.0)).mean(), abs=0.01)


def test_a_far_point_has_no_density():
    surface = np.zeros((10, 3))
    scores = exact_log_prob(np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]), surface, NOISE)
    assert scores[0] == pytest.approx(-1.5 * math.log(2 * math.pi * NOISE**2))
    assert scores[1] == -math.inf


def test_a_mesh_is_scored_in_the_units_of_its_shape(tmp_path):
    path = tmp_path / "box.obj"
    trimesh.creation.box((6.0, 6.0, 6.0)).export(path)
    shape = load_shape(path, num_points=10, noise=NOISE, num_scored=500)
    scores = true_scores(path, shape, num_points=200_000)
    # Points of a cube of half extent 1, whose surface is 24: as of a plane, but for what is lost beyond the edges.
    plane = -math.log(24) - 0.5 * math.log(2 * math.pi * NOISE**2) - 0.5
    assert torch.from_numpy(scores).median() == pytest.approx(plane + 0.5 - 0.5 * 0.455, abs=0.1)

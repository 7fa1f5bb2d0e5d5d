"""The true density against closed forms, and the table."""

import math

import numpy as np
import pytest

import pyro_pcflow as pcf
from benchmarks import density
from benchmarks.density import exact_log_prob

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


@pytest.mark.slow
def test_the_table(command):
    lines = command(density, pcf.data.example_path("spot"), "--seconds", 0.5, "--seeds", 2).out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("| spot | ")
    assert lines[-1].count("|") == lines[0].count("|")

"""Points astray are found, and points of a surface, a grid or a line are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pyro_pcflow.data.strays import find_strays, robust_half_extent, warn_of_strays


def sphere(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("far", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("offset", [0.0, 4e6])
def test_far_points_are_found_and_no_others(far, offset):
    points = sphere(2000) + offset
    astray = offset + (1 + far) * sphere(5, seed=1)
    found = find_strays(np.concatenate([points, astray]), 6)
    assert found[2000:].all()
    # A uniform sample has some wide gaps, and a normal tail beyond 6 deviations has none.
    assert found[:2000].sum() <= 2


@pytest.mark.parametrize("shape", ["grid", "line", "copies", "few"])
def test_regular_points_are_not_astray(shape):
    points = {
        "grid": np.stack(np.meshgrid(*[np.arange(8.0)] * 3), -1).reshape(-1, 3),
        "line": np.linspace(0, 1, 500)[:, None] * [1.0, 2.0, 3.0],
        "copies": np.zeros((50, 3)),
        "few": sphere(9),
    }[shape]
    assert not find_strays(points, 5).any()


@pytest.mark.parametrize("deviations", [0, -1.0, float("nan")])
def test_a_positive_number_of_deviations(deviations):
    with pytest.raises(ValueError, match="expected a positive number of standard deviations"):
        find_strays(sphere(50), deviations)


def test_the_half_extent_without_the_points_that_alone_stretch_it():
    points = sphere(5000)
    whole = np.ptp(points, axis=0).max() / 2
    assert robust_half_extent(points) == pytest.approx(whole, rel=1e-12)
    stretched = np.concatenate([points, [[300.0, 0, 0], [0, -70.0, 0]]])
    assert robust_half_extent(stretched) == pytest.approx(whole, rel=0.01)
    # A long thin part of a shape is none: it has many points.
    antenna = np.linspace(0, 10, 500)[:, None] * [0.0, 0, 1]
    assert robust_half_extent(np.concatenate([points, antenna])) == pytest.approx(5.5, rel=0.01)
    assert robust_half_extent(np.zeros((4, 3))) == 0


@pytest.mark.parametrize("count", [10, 300, 20_000])
def test_points_that_decide_the_units_are_warned_of(count):
    points = torch.from_numpy(sphere(count))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_strays(points)
        warn_of_strays(4e6 + points)
        warn_of_strays(torch.distributions.StudentT(5.0).sample((count, 3)).mul(0.1))
    points[3] = 1e4
    with pytest.warns(UserWarning, match=f"1 of {count} points lie so far from the others"):
        warn_of_strays(points.view(2, count // 2, 3))

"""Simulation-based calibration, small: the whole is `python -m benchmarks.calibration`."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pyro import poutine
from scipy.stats import binom

from benchmarks.calibration import Calibration, calibrate, calibrate_by_grid, context_model, draw, pose_model

FAST = {"draws": 99, "warmup": 50, "seed": 0, "max_tree_depth": 4}
# A pose is harder to walk through than a context.
THOROUGH = {**FAST, "warmup": 100, "max_tree_depth": 6}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("make_model", "options"),
    [
        pytest.param(partial(context_model, num_points=10), FAST, id="context"),
        pytest.param(partial(pose_model, num_points=20), THOROUGH, id="pose", marks=pytest.mark.exhaustive),
    ],
)
def test_ranks_are_uniform_and_intervals_cover(make_model, options, tmp_path):
    results = calibrate(make_model, 100, **options)
    # What 99.9% of right samplers keep to with so few clouds; the whole has the narrower bounds.
    low, high = binom.ppf([0.0005, 0.9995], 100, 0.9) / 100
    for result in results:
        assert len(result.ranks) == 100
        assert result.p_value > 0.01, result.name
        assert low <= result.coverage <= high, result.name
        assert result.effective > 50
    draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.exhaustive
def test_a_wrong_posterior_is_found_out():
    """The same clouds under a model that believes each point four times."""

    def make_model(num_clouds):
        right = context_model(num_clouds, num_points=10)

        def model(clouds=None):
            return right() if clouds is None else poutine.scale(right, scale=4.0)(clouds)

        return model

    results = calibrate(make_model, 100, **FAST)
    assert max(result.p_value for result in results) < 1e-3
    assert max(result.coverage for result in results) < 0.8


@pytest.mark.slow
def test_scale_is_calibrated_without_a_sampler():
    """Many clouds, exact ranks: a log-determinant that forgets a part of the scale would show."""
    exact = calibrate_by_grid(500, seed=1)
    assert exact.p_value > 0.01
    low, high = binom.ppf([0.001, 0.999], 500, 0.9) / 500
    assert low <= exact.coverage <= high


def test_statistics_of_ranks_by_hand():
    even = Calibration("even", torch.arange(100).repeat(2), 100.0)
    assert even.counts == [20] * 10
    assert even.p_value == pytest.approx(1.0)
    assert even.coverage == pytest.approx(0.9)
    low = Calibration("low", torch.zeros(50, dtype=torch.long), 100.0)
    assert low.counts == [50] + [0] * 9
    assert low.p_value < 1e-10
    assert low.coverage == 0

"""Simulation-based calibration."""

from __future__ import annotations

import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_pcflow.infer import Calibration, simulation_based_calibration

# Two latents that are normal, seen through their sum and difference with noise: the posterior is normal.
MIX = torch.tensor([[1.0, 1.0], [0.3, -0.2]])


def model():
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(MIX @ loc, 0.5).to_event(1))


def posterior(data, *, width=1.0, shift=0.0, correlated=True):
    precision = torch.eye(2) + MIX.T @ MIX / 0.25
    covariance = torch.linalg.inv(precision)
    mean = covariance @ MIX.T @ data["x"] / 0.25
    scale = covariance if correlated else covariance.diagonal().diag()
    return {"loc": dist.MultivariateNormal(mean + shift, width**2 * scale).sample((60,))}


def calibrate(infer, **options):
    return simulation_based_calibration(
        model, infer, observed=["x"], **{"num_datasets": 200, "progress": False, **options}
    )


def test_the_exact_posterior_is_calibrated():
    result = calibrate(posterior)
    assert set(result.ranks) == {"loc[0]", "loc[1]", "log prior", "log likelihood", "tarp"}
    assert result.num_draws == 60
    assert result.num_datasets == 200
    assert min(result.p_values.values()) > 0.01
    # Four standard deviations of a share of 200.
    for name, shares in result.coverage().items():
        for level, share in shares.items():
            assert abs(share - level) < 4 * (level * (1 - level) / 200) ** 0.5, name


@pytest.mark.parametrize(
    ("fault", "seen_by"),
    [
        ({"width": 0.6}, "loc[0]"),
        pytest.param({"width": 1.6}, "loc[1]", marks=pytest.mark.exhaustive),
        pytest.param({"shift": 0.3}, "loc[0]", marks=pytest.mark.exhaustive),
        # Both coordinates are right, and only together wrong.
        ({"correlated": False}, "log likelihood"),
    ],
)
def test_a_wrong_posterior_is_found(fault, seen_by):
    result = calibrate(lambda data: posterior(data, **fault))
    assert result.p_values[seen_by] < 1e-3
    if "correlated" in fault:
        assert min(result.p_values[name] for name in ("loc[0]", "loc[1]")) > 1e-3


def test_p_values_are_uniform_if_all_is_right():
    generator = np.random.default_rng(3)
    p_values = [Calibration({"x": generator.integers(0, 21, 50)}, num_draws=20).p_values["x"] for _ in range(400)]
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p_values) <= level)
        assert share < level + 4 * (level * (1 - level) / 400) ** 0.5


@pytest.mark.exhaustive
def test_ties_are_broken_at_random():
    """Of a discrete quantity that draws and truth share, every rank is as likely."""
    result = calibrate(posterior, quantities={"sign": lambda latents, data: torch.zeros(())})
    assert result.p_values["sign"] > 0.01


def test_quantities_of_ones_own_and_several_numbers():
    result = calibrate(
        posterior, num_datasets=5, num_draws=20, quantities={"both": lambda latents, data: latents["loc"] * data["x"]}
    )
    assert set(result.ranks) == {"both[0]", "both[1]", "log prior", "log likelihood", "tarp"}
    assert result.num_draws == 20


def test_a_run_is_resumed_and_repeated(tmp_path):
    out = tmp_path / "ranks.jsonl"
    whole = calibrate(posterior, num_datasets=8)
    calibrate(posterior, num_datasets=3, out=out)
    with out.open("a") as file:
        file.write('{"seed": 0, "obs')  # as if it had been stopped
    text = out.read_text().splitlines(keepends=True)
    out.write_text("".join(text[:3]))
    calls = []
    resumed = calibrate(lambda data: calls.append(1) or posterior(data), num_datasets=8, out=out)
    assert len(calls) == 5
    for name, ranks in whole.ranks.items():
        assert np.array_equal(ranks, resumed.ranks[name])
    with pytest.raises(ValueError, match="seed=0"):
        calibrate(posterior, num_datasets=8, out=out, seed=1)
    out.write_text(json.dumps({"something": "else"}) + "\n")
    with pytest.raises(ValueError, match="name another file"):
        calibrate(posterior, num_datasets=8, out=out)


def test_several_processes_find_the_same():
    one, two = (calibrate(posterior, num_datasets=6, num_processes=count) for count in (1, 2))
    for name, ranks in one.ranks.items():
        assert np.array_equal(ranks, two.ranks[name])


def test_table_and_figure(tmp_path):
    result = calibrate(posterior, num_datasets=20)
    table = result.table(levels=(0.5, 0.9))
    assert table.splitlines()[0] == "| quantity | 50% | 90% | p |"
    assert len(table.splitlines()) == 2 + len(result.ranks)
    figure = result.plot()
    figure.savefig(tmp_path / "bands.png")
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == list(result.ranks)


def test_wrong_use():
    with pytest.raises(ValueError, match="no site y to observe"):
        simulation_based_calibration(model, posterior, observed=["y"], num_datasets=2, progress=False)
    with pytest.raises(ValueError, match="none of which is a latent"):
        calibrate(lambda data: {"scale": torch.ones(5)}, num_datasets=2)
    with pytest.raises(ValueError, match="fewer than num_draws=100"):
        calibrate(posterior, num_datasets=2, num_draws=100)
    with pytest.raises(ValueError, match="at least 1"):
        calibrate(posterior, num_datasets=0)
    counts = iter([5, 6])
    with pytest.raises(ValueError, match="different numbers of draws"):
        calibrate(lambda data: {"loc": torch.randn(next(counts), 2)}, num_datasets=2)

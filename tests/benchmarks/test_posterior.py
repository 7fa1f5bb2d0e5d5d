"""Scores and regions of posteriors that are known, the clouds that sensors see, and the table."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from benchmarks import posterior
from benchmarks.common.hidden_points import LEVELS, score_hidden
from benchmarks.common.sensors import VIEWS, make_sensor

UP = torch.tensor([0.0, 0.0, 1.0])


class Balls:
    """Clouds around latents, with a standard normal prior and a width of a half."""

    latent_dim = 3

    class decoder:
        condition = staticmethod(lambda context: dist.Normal(context, 0.5).to_event(1))

    def decoder_context(self, latents):
        return latents


def test_a_posterior_that_is_right_covers_what_it_says():
    """Latents of which truth and draws are alike; narrower ones cover less, and score less than a flat one."""
    torch.manual_seed(0)
    truth = torch.randn(60, 3)
    middle = truth + 0.3 * torch.randn(60, 3)
    clouds = (truth.unsqueeze(1) + 0.5 * torch.randn(60, 600, 3)).float()
    sensor = make_sensor("half", clouds, UP)
    recorded = sensor.records(clouds)
    # The posterior of a normal truth given its noisy middle.
    variance = 1 / (1 + 1 / 0.09)
    right = variance / 0.09 * middle + math.sqrt(variance) * torch.randn(64, 60, 3)
    sure = middle + torch.tensor([0.8, 0.0, 0.0]) + 0.02 * torch.randn(64, 60, 3)
    found, wrong = (score_hidden(Balls(), draws, sensor, clouds, recorded) for draws in (right, sure))
    some = (~recorded).any(1)
    levels = torch.tensor(LEVELS)
    for shares in (found.regions[some], found.intervals[some]):
        error = shares.std(0) / math.sqrt(len(shares))
        assert ((shares.mean(0) - levels).abs() < 4 * error + 0.03).all()
    assert wrong.regions[some, LEVELS.index(0.9)].mean() < 0.8
    assert wrong.score[some].mean() < found.score[some].mean() - 0.3


@pytest.mark.parametrize("view", VIEWS)
def test_problems(view):
    torch.manual_seed(0)
    clouds = torch.randn(4, 500, 3)
    problem = posterior.make_problem(clouds, view, 40, UP)
    assert problem.partial.shape == (4, 40, 3)
    of_cloud = (problem.partial.unsqueeze(2) == clouds.unsqueeze(1)).all(-1).any(-1) & problem.mask
    strange = (problem.mask & ~of_cloud).sum() / problem.mask.sum()
    # Four standard errors of a share of at least 80 points.
    outliers = 1.0 if VIEWS[view].noise else VIEWS[view].outliers
    assert abs(strange - outliers) <= 4 * (outliers / 80) ** 0.5
    assert (problem.observe is not None) == view.startswith("half")
    assert len(problem.first(2).partial) == 2


def a_row(method, score, **more):
    regions = [[0.5] * len(LEVELS)] * 2
    place = {"category": "body", "view": "half", "points": 100, "whose": "held-out", "method": method}
    return {**place, "seconds": 1.0, "score": score, "regions": regions, "intervals": regions, **more}


def test_table_and_figure(tmp_path):
    rows = [a_row("prior", [1.0, 2.0]), a_row("default", [1.5, 3.5], r_hat=1.02)]
    lines = posterior.table(rows).splitlines()
    assert "| default | +1.00 ± 0.50 | +0.50 | 0.50 | 0.50 | 0.50 | 1.02 | 1.00 |" in lines[-1]
    posterior.draw(rows, tmp_path / "coverage.png")
    assert (tmp_path / "coverage.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:what was found may be wrong")
def test_a_run_goes_on_where_it_ended(tmp_path, monkeypatch, capsys):
    """Of a category that is not shipped, with everything small; a second run has nothing left to do."""
    path, out = tmp_path / "face.npz", tmp_path / "run"
    points = torch.randn(12, 300, 3).numpy()
    np.savez(path, points=points, split=np.array(["train"] * 6 + ["val"] * 3 + ["test"] * 3))
    small = {"latent_dim": 2, "decoder": {"base": "mixture", "num_components": 2, "num_couplings": 0}}
    made = pcf.PointCloudVAE(3, **small)
    monkeypatch.setattr(pcf, "PointCloudVAE", lambda point_dim: made)
    monkeypatch.setattr(posterior, "NUM_DRAWS", 4)
    monkeypatch.setattr(posterior, "OWN_POINTS", 300)
    calibrated = []
    monkeypatch.setattr(pcf.infer, "calibrate_temper", lambda completer, clouds: calibrated.append(len(clouds)))
    command = f"posterior {path} --out {out} --views half --points 30 --methods prior default --clouds 2 --seconds 0.5"
    monkeypatch.setattr(sys, "argv", command.split())
    posterior.main()
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["whose"], row["method"]) for row in rows] == [
        (whose, method) for whose in ("held-out", "own") for method in ("prior", "default")
    ]
    assert calibrated == [3]
    capsys.readouterr()
    posterior.main()
    assert len((out / "rows.jsonl").read_text().splitlines()) == 4
    assert capsys.readouterr().out.count("| face |") == 4
    assert calibrated == [3]


def test_a_score_is_of_64_draws(monkeypatch):
    """One of more draws is the mean over sets of them."""
    torch.manual_seed(0)
    clouds, draws = torch.randn(3, 400, 3), torch.randn(128, 3, 3)
    sensor = make_sensor("half", clouds, UP)
    recorded = sensor.records(clouds)

    def score(latents):
        # The same hidden points each time; shares of a sensor are estimated at random.
        torch.manual_seed(1)
        return score_hidden(Balls(), latents, sensor, clouds, recorded).score

    found, parts = score(draws), torch.stack([score(draws[:64]), score(draws[64:])]).mean(0)
    assert (found - parts).abs().max() < 0.1 * found.abs().max()
    monkeypatch.setattr("benchmarks.common.hidden_points.DRAWS_OF_SCORE", 128)
    # All of them together score more, by Jensen's inequality.
    assert (found < score(draws)).all()

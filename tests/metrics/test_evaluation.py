"""Evaluation of samples: what is compared with what, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.metrics import (
    Grid,
    coverage,
    emd,
    evaluate,
    jensen_shannon,
    log_likelihood,
    minimum_matching_distance,
    one_nearest_neighbour,
    pairwise,
    permutation_interval,
    spread,
)
from pyro_pcflow.metrics.nearest_matchings import random_pairs

KEYS = ["1-nna-cd", "1-nna-cd-ref", "1-nna-cd-smp", "cov-cd", "mmd-cd", "spread-cd", "jsd"]


def clouds(count, num_points=30, seed=0, dim=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    place = torch.randn(count, 1, dim, generator=generator, dtype=dtype)
    return place + 0.3 * torch.randn(count, num_points, dim, generator=generator, dtype=dtype)


def test_promised_keys_and_their_values():
    samples, references = clouds(12, seed=1), clouds(12, seed=2)
    report = evaluate(samples, references)
    assert list(report) == KEYS
    own, theirs, cross = pairwise(samples), pairwise(references), pairwise(samples, references)
    accuracies = one_nearest_neighbour(own, theirs, cross)
    assert tuple(report[key] for key in KEYS[:3]) == accuracies
    assert report["cov-cd"] == coverage(cross)
    assert report["mmd-cd"] == minimum_matching_distance(cross)
    assert report["spread-cd"] == spread(own, theirs)
    assert report["jsd"] == jensen_shannon(samples, references)
    assert report.failed == (0,)
    assert set(report.null) == set(KEYS[:3])
    assert math.isnan(report.std("jsd"))
    torch.testing.assert_close(report.neighbours.distances, cross)


def test_arrays_and_mixed_precision():
    samples, references = clouds(5, seed=1), clouds(5, seed=2, dtype=torch.float64)
    report = evaluate(samples.numpy(), references.numpy())
    assert report == evaluate(samples, references)
    assert report["mmd-cd"] == pytest.approx(evaluate(samples.double(), references)["mmd-cd"], rel=1e-12)


def test_exact_matchings_are_fewer_and_only_the_spread_is_of_some_pairs():
    samples, references, train = (clouds(12, 20, seed=seed) for seed in (1, 2, 3))
    whole = evaluate(samples, references, train=train, distances=["emd"], spread_pairs=None)
    within = pairwise(samples, distance="emd"), pairwise(references, distance="emd")
    assert whole["spread-emd"] == spread(*within)
    assert "spread_pairs" not in whole.protocol.distances["emd"]
    for pairs, few in ((66, False), (65, True), (5, True)):
        report = evaluate(samples, references, train=train, distances=["emd"], spread_pairs=pairs, seed=0)
        for key in whole:
            assert report[key] == whole[key] or key == "spread-emd"
            assert report.train[key] == whole.train[key] or key == "spread-emd"
        assert report.null == whole.null
        assert (report["spread-emd"] != pytest.approx(whole["spread-emd"], rel=1e-12)) == few
        assert report.protocol.distances["emd"].get("spread_pairs") == (pairs if few else None)
    chosen = random_pairs(12, 5, 0)
    assert report["spread-emd"] == pytest.approx(float(within[0][chosen].mean() / within[1][chosen].mean()), rel=1e-12)
    assert not torch.equal(report.neighbours.distances, whole.neighbours.distances)
    with pytest.raises(ValueError, match="spread_pairs: expected at least 1, or None"):
        evaluate(samples, references, spread_pairs=0)


def test_several_distances_with_options():
    samples, references = clouds(4, 10, seed=1), clouds(4, 10, seed=2)
    distances = {"emd": ("emd", {}), "emd-squared": ("emd", {"cost": "squared"}), "cd": ("chamfer", {})}
    report = evaluate(samples, references, distances=distances)
    expected = emd(samples.unsqueeze(1), references).amin(0).mean().item()
    assert report["mmd-emd"] == pytest.approx(expected, rel=1e-5)
    assert report["mmd-emd-squared"] != report["mmd-emd"]
    assert {"1-nna-emd-ref", "cov-emd-squared", "1-nna-cd"} <= set(report)
    # All options are in the protocol, those at their defaults too.
    assert report.protocol.distances == {
        "emd": {"distance": "emd", "cost": "euclidean"},
        "emd-squared": {"distance": "emd", "cost": "squared"},
        "cd": {"distance": "chamfer", "convention": "squared_sum"},
    }
    assert evaluate(samples, references, distances=["chamfer", "emd"])["mmd-emd"] == report["mmd-emd"]


def test_draws_of_a_function_have_seeds_of_their_own():
    asked = []

    def draw(num_clouds, num_points):
        asked.append((num_clouds, num_points))
        return torch.randn(num_clouds, num_points, 3)

    references = clouds(6)
    state = torch.get_rng_state()
    report = evaluate(draw, references, draws=3, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert asked == [(6, 30)] * 3
    assert report.protocol.seeds == (7, 8, 9)
    assert len(set(report.draws["mmd-cd"])) == 3
    assert report["mmd-cd"] == pytest.approx(np.mean(report.draws["mmd-cd"]))
    assert report.std("mmd-cd") == pytest.approx(np.std(report.draws["mmd-cd"], ddof=1))
    # The draw of seed 8 is the same by itself.
    assert evaluate(draw, references, seed=8).draws["mmd-cd"] == report.draws["mmd-cd"][1:2]


def test_grid_and_permutations_are_as_given():
    samples, references = clouds(8, seed=1), clouds(8, seed=2)
    matrices = pairwise(samples), pairwise(references), pairwise(samples, references)
    grid = Grid(5, (-2.0,) * 3, (3.0,) * 3)
    report = evaluate(samples, references, grid=grid, permutations=40, seed=3)
    assert report["jsd"] == jensen_shannon(samples, references, grid=grid)
    assert report.protocol.grid == {"resolution": 5, "low": [-2.0] * 3, "high": [3.0] * 3}
    assert tuple(report.null.values()) == permutation_interval(*matrices, permutations=40, seed=3)
    assert report.protocol.permutations == 40
    assert evaluate(samples, references, grid=5)["jsd"] == jensen_shannon(samples, references, grid=5)
    # Each option by itself makes a difference here.
    for other in (5, Grid(28, (-2.0,) * 3, (3.0,) * 3)):
        assert evaluate(samples, references, grid=other)["jsd"] != report["jsd"]
    for other in ({"permutations": 40}, {"seed": 3}):
        assert evaluate(samples, references, **other).null != report.null


def test_training_set_in_place_of_the_samples():
    samples, references, train = clouds(6, seed=1), clouds(6, seed=2), clouds(6, seed=3)
    report = evaluate(samples, references, train=train)
    as_samples = evaluate(train, references)
    assert report.train == as_samples.draws
    assert report.draws == evaluate(samples, references).draws
    several = evaluate(torch.stack([samples, samples]), references, train=clouds(20, seed=3))
    assert len(several.train["jsd"]) == 2
    assert several.train["mmd-cd"][0] != several.train["mmd-cd"][1]
    assert several.train_sha256 != report.train_sha256


def test_samples_whose_distances_overflow_fail():
    samples = clouds(6, seed=1)
    samples = samples.double()
    samples[4] = -1e200
    samples[1] = 1e200
    report = evaluate(samples, clouds(6))
    assert report.failed == (2,)
    assert report["1-nna-cd-smp"] >= 2 / 6


def test_a_sample_that_fails_in_one_distance_has_failed():
    samples = clouds(6, seed=1)
    samples[2] = 1e25  # its square has no place in float32, in which the approximate matching is; trees take float64
    distances = {"pvd": ("approximate_emd", {"variant": "pvd"}), "cd": ("chamfer", {})}
    for order in (distances, dict(reversed(distances.items()))):
        assert evaluate(samples, clouds(6), distances=order).failed == (1,)
    assert evaluate(samples, clouds(6)).failed == (0,)


def test_all_samples_failed():
    report = evaluate(torch.full((4, 9, 2), torch.nan), clouds(4, 9, dim=2))
    assert report.failed == (4,)
    assert [report[key] for key in ("1-nna-cd", "cov-cd", "mmd-cd", "jsd")] == [1, 0, math.inf, pytest.approx(1)]
    assert math.isnan(report.null["1-nna-cd"].mean)
    assert report.from_json(report.to_json())["mmd-cd"] == math.inf
    assert "too few samples" in report.to_markdown()


def test_likelihood_goes_into_the_report():
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    references = clouds(6)
    likelihood = log_likelihood(flow, references, units="metres")
    report = evaluate(lambda s, n: flow.cloud(num_points=n).sample((s,)), references, likelihood=likelihood)
    assert report.likelihood.nats_per_point == likelihood.nats_per_point
    assert "nats per point (exact), with coordinates in metres" in report.to_markdown()


def test_progress_is_shown_if_asked_for(capsys):
    evaluate(clouds(4, 9, seed=1), clouds(4, 9), progress=True)
    shown = capsys.readouterr().err
    assert shown.count("10/10") == 2  # within each set
    assert "16/16" in shown
    evaluate(clouds(4, 9, seed=1), clouds(4, 9))
    assert capsys.readouterr().err == ""


def test_interrupted_evaluations_continue(tmp_path, monkeypatch):
    samples, references = clouds(6, seed=1), clouds(6, seed=2)
    expected = evaluate(samples, references)
    assert evaluate(samples, references, path=tmp_path) == expected
    from pyro_pcflow.metrics.neighbour_search import NearestRows

    # All rows are on disk: nothing is computed anew.
    monkeypatch.setattr(NearestRows, "__call__", None)
    assert evaluate(samples, references, path=tmp_path) == expected


@pytest.mark.slow
def test_halves_of_one_kind_are_alike_and_two_kinds_are_not():
    bodies = pcf.data.load_example("body", num_points=128)[torch.randperm(300)]
    report = evaluate(bodies[:100], bodies[100:200], data="body")
    for key, band in report.null.items():
        assert band.low <= report[key] <= band.high, key
        assert band.mean == pytest.approx(0.5, abs=0.02)
    chairs = pcf.data.load_example("chair", num_points=128)
    # Of 40 clouds, one may be wrong: the example is too small for 99%.
    assert evaluate(bodies[:20], chairs)["1-nna-cd"] >= 39 / 40
    lying = bodies[:60, :, [1, 0, 2]]
    assert evaluate(lying, bodies[60:120])["1-nna-cd"] > 0.99


NAN = torch.full((4, 9, 3), torch.nan)


@pytest.mark.parametrize(
    ("samples", "references", "options", "error", "words"),
    [
        (clouds(4, 9, dim=2), clouds(4, 9), {}, ValueError, "one dimension"),
        (
            clouds(4, 9),
            clouds(4, 9),
            {"train": clouds(4, 9, dim=2)},
            ValueError,
            "train and references: expected points",
        ),
        (clouds(0, 9), clouds(4, 9), {}, ValueError, "samples: there is no point in it"),
        (clouds(4, 9), clouds(4, 0), {}, ValueError, "references: there is no point in it"),
        (clouds(1, 9), clouds(1, 9), {}, ValueError, "references: expected at least two clouds"),
        (clouds(1, 9), clouds(4, 9), {}, ValueError, "samples: expected at least 4 clouds, got 1"),
        (clouds(4, 9), clouds(4, 9), {"num_clouds": 1}, ValueError, "num_clouds: expected at least two"),
        (clouds(9, 9), clouds(4, 9), {"num_clouds": 5}, ValueError, "references: expected at least 5 clouds, got 4"),
        (clouds(7, 9), clouds(4, 9), {"draws": 2}, ValueError, "samples: expected at least 8 clouds, got 7"),
        (clouds(4, 9), clouds(4, 8), {}, ValueError, "num_points=8"),
        (clouds(4, 9), clouds(4, 8), {"num_points": 9}, ValueError, "references: expected at least 9 points"),
        (clouds(4, 9), clouds(4, 9), {"num_points": 0}, ValueError, "num_points: expected at least 1"),
        (clouds(4, 9), clouds(4, 9), {"train": clouds(3, 9)}, ValueError, "train: expected at least 4 clouds, got 3"),
        (clouds(4, 9), clouds(4, 9), {"train": NAN}, ValueError, "train: 4 of 4 clouds"),
        (clouds(4, 9), clouds(4, 9), {"train": [[0.0]]}, TypeError, "train: expected a tensor or an array"),
        (clouds(4, 9), clouds(4, 9), {"permutations": 0}, ValueError, "permutations: expected at least 1"),
        (clouds(4, 9), NAN, {}, ValueError, "references: 4 of 4 clouds have coordinates that are not finite"),
        (clouds(4, 9), clouds(4, 9), {"distances": "chamfer"}, TypeError, "sequence of names"),
        (clouds(4, 9), clouds(4, 9), {"distances": []}, ValueError, "at least one of 'chamfer'"),
        (clouds(4, 9), clouds(4, 9), {"distances": ["l2"]}, ValueError, "distances: expected one of"),
        (clouds(4, 9), clouds(4, 9), {"distances": {"x": ("emd", {"p": 1})}}, ValueError, "no option 'p'"),
        (clouds(4, 9), clouds(4, 9), {"normalization": "unit"}, ValueError, "normalization: expected one of"),
        (clouds(4, 9), torch.ones(4, 9, 3), {"normalization": "per_cloud"}, ValueError, "have no scale"),
        (clouds(4, 9), clouds(4, 9), {"draws": 0}, ValueError, "draws: expected at least 1"),
        (
            torch.zeros(2, 4, 9, 3),
            clouds(4, 9),
            {"draws": 3},
            ValueError,
            "shape .* are 2 draws, got 3",
        ),
        (torch.zeros(4, 9, 3, dtype=torch.int64), clouds(4, 9), {}, TypeError, "float32 or float64, got torch.int64"),
        ([[0.0]], clouds(4, 9), {}, TypeError, "a tensor, an array or a function, got list"),
        (torch.zeros(4, 9), clouds(4, 9), {}, ValueError, r"expected shape \(S, N, D\) or \(draws, S, N, D\)"),
        (lambda s, n: torch.zeros(s, n + 1, 3), clouds(4, 9), {}, ValueError, "the function to return 4 clouds of 9"),
    ],
)
def test_errors(samples, references, options, error, words):
    with pytest.raises(error, match=words):
        evaluate(samples, references, **options)

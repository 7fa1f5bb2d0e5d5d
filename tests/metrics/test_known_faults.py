"""Faults that published evaluations have had: each check passes with ours, and fails with one broken in that way."""

from __future__ import annotations

import types

import pytest
import torch

from pyro_pcflow.metrics import evaluate


def around(places, num_points=20, spread=0.05, seed=0):
    """Clouds at given places, (S, D) to (S, N, D)."""
    noise = torch.randn(len(places), num_points, places.shape[-1], generator=torch.Generator().manual_seed(seed))
    return places.unsqueeze(1) + spread * noise


def normal_places(count, seed):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def shells(count, seed):
    """Ellipsoids of different sides, (S, 60, 3)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, 60, 3, generator=generator), dim=-1)
    return points * (0.8 + 0.4 * torch.rand(count, 1, 3, generator=generator))


def check_arguments(evaluate):
    """Samples around one of many references: nearly nothing is covered, though each sample is near to a reference."""
    places = 10 * normal_places(20, seed=1)
    report = evaluate(around(places[:1].expand(20, 3), seed=2), around(places, seed=3))
    assert report["cov-cd"] == pytest.approx(1 / 20)
    assert report["mmd-cd"] > 1


def swapped(samples, references):
    return evaluate(references, samples)


def check_failures(evaluate):
    """Half of the samples are NaN: they are counted, and no number becomes better by them."""
    references, good = (around(normal_places(20, seed)) for seed in (1, 2))
    samples = good.clone()
    samples[::2, 0] = torch.nan
    before, after = evaluate(good, references), evaluate(samples, references)
    assert before.failed == (0,)
    assert after.failed == (10,)
    assert after["cov-cd"] <= 0.5
    assert after["mmd-cd"] >= before["mmd-cd"]
    assert after["1-nna-cd-smp"] >= 0.5
    assert after["jsd"] >= before["jsd"]


def zeros_for_nan(samples, references):
    return evaluate(samples.nan_to_num(0.0), references)


def without_nan(samples, references):
    kept = samples[samples.isfinite().all(-1).all(-1)]
    return evaluate(kept, references[: len(kept)])


def copies_for_nan(samples, references):
    kept = samples[samples.isfinite().all(-1).all(-1)]
    return evaluate(kept.repeat(2, 1, 1)[: len(samples)], references)


def check_normalization(evaluate):
    """Good shapes of a wrong size, or at a wrong place, are not good samples."""
    references, samples = (shells(30, seed) for seed in (1, 2))
    assert evaluate(samples, references)["1-nna-cd"] < 0.75
    assert evaluate(1.5 * samples, references)["1-nna-cd"] > 0.95
    assert evaluate(samples + 2, references)["1-nna-cd"] > 0.95


def normalized_by_cloud(samples, references):
    return evaluate(samples, references, normalization="per_cloud")


def normalized_by_set(samples, references):
    samples, references = ((clouds - clouds.mean((0, 1))) / clouds.std() for clouds in (samples, references))
    return evaluate(samples, references)


def check_halves(evaluate):
    """Samples in the middle between references: a perfect mean of two halves that are as bad as can be."""
    references = around(torch.eye(12))
    report = evaluate(around(torch.full((12, 12), 1 / 12), seed=1), references)
    assert report["1-nna-cd"] == 0.5
    assert report["1-nna-cd-ref"] == 0
    assert report["1-nna-cd-smp"] == 1
    assert all(f"| 1-NNA {key} | {value} |" in report.to_markdown() for key, value in HALVES.items())


HALVES = {"cd": "50.0%", "cd-ref": "0.0%", "cd-smp": "100.0%"}


class MeanOnly(dict):
    """A report that knows the mean, and answers with it whatever half is asked for."""

    def __init__(self, report):
        super().__init__(report)
        self.update(dict.fromkeys(["1-nna-cd-ref", "1-nna-cd-smp"], report["1-nna-cd"]))
        self.to_markdown = types.MethodType(lambda self: f"| 1-NNA cd | {self['1-nna-cd']:.1%} |", self)


def mean_only(samples, references):
    return MeanOnly(evaluate(samples, references))


def exchanged_halves(samples, references):
    report = evaluate(samples, references)
    draws = dict(report.draws)
    draws["1-nna-cd-ref"], draws["1-nna-cd-smp"] = draws["1-nna-cd-smp"], draws["1-nna-cd-ref"]
    return type(report)(report.name, report.protocol, draws, report.failed)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (check_arguments, swapped),
        (check_failures, zeros_for_nan),
        (check_failures, without_nan),
        (check_failures, copies_for_nan),
        (check_normalization, normalized_by_cloud),
        (check_normalization, normalized_by_set),
        (check_halves, mean_only),
        (check_halves, exchanged_halves),
    ],
)
def test_known_fault(check, broken):
    check(evaluate)
    with pytest.raises(AssertionError):
        check(broken)

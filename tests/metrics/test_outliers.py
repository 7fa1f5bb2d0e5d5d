"""AUROC of outliers and of clouds of another kind, against counting pairs and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from pyro_pcflow.metrics import (
    auroc,
    gaussian_complexity,
    log_likelihood,
    out_of_distribution_auroc,
    outlier_auroc,
)


@settings(max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_auroc_counts_pairs(positives, negatives):
    expected = sum((a > b) + 0.5 * (a == b) for a in positives for b in negatives) / len(positives) / len(negatives)
    scores = torch.tensor(positives).double(), torch.tensor(negatives).double()
    assert auroc(*scores) == pytest.approx(expected, abs=1e-12)
    assert auroc(*reversed(scores)) == pytest.approx(1 - expected, abs=1e-12)


def test_infinite_scores_have_a_rank():
    assert auroc(torch.tensor([torch.inf, 0.0]), torch.tensor([-torch.inf, 0.0])) == 0.875


def test_outliers_are_the_unlikely_ones():
    normal = MultivariateNormal(torch.zeros(3), torch.eye(3))
    clouds = torch.randn(4, 100, 3)
    is_outlier = torch.zeros(4, 100, dtype=torch.bool)
    is_outlier[:, :10] = True
    clouds[is_outlier] += 20
    log_density = normal.log_prob(clouds)
    assert outlier_auroc(log_density, is_outlier) == 1
    assert outlier_auroc(-log_density, is_outlier) == 0


def test_complexity_against_the_likelihood_of_the_fitted_gaussian():
    clouds = torch.randn(6, 40, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 5
    for cloud, value in zip(clouds, gaussian_complexity(clouds), strict=True):
        fitted = MultivariateNormal(cloud.mean(0), cloud.T.cov(correction=0))
        assert value.item() == pytest.approx(-fitted.log_prob(cloud).mean().item(), abs=1e-10)


def test_correction_mends_what_simple_strangers_spoil():
    """A broad model of anisotropic clouds finds small round ones more likely than its own kind."""
    torch.manual_seed(0)
    density = MultivariateNormal(torch.zeros(2), torch.diag(torch.tensor([4.0, 1.0])))
    own = torch.randn(50, 200, 2) * torch.tensor([2.0, 1.0])
    simple = 0.1 * torch.randn(50, 200, 2)
    inside, outside = (log_likelihood(density, clouds).per_point for clouds in (own, simple))
    result = out_of_distribution_auroc(
        inside,
        outside,
        inside_complexity=gaussian_complexity(own),
        outside_complexity=gaussian_complexity(simple),
    )
    assert result == (0, 1, "gaussian complexity")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: auroc(torch.zeros(0), torch.zeros(1)), "positives: there are no scores"),
        (lambda: auroc(torch.zeros(1), torch.tensor([0.0, torch.nan])), "negatives: 1 of 2 scores are NaN"),
        (lambda: outlier_auroc(torch.zeros(3), torch.zeros(3)), "expected booleans"),
        (lambda: outlier_auroc(torch.zeros(3), torch.ones(3, dtype=torch.bool)), "outliers and others, got 3 of 3"),
        (lambda: out_of_distribution_auroc(torch.zeros(2), torch.zeros(2), inside_complexity=torch.zeros(2)), "both"),
        (
            lambda: out_of_distribution_auroc(
                *[torch.zeros(2)] * 2, inside_complexity=torch.zeros(2), outside_complexity=torch.zeros(3)
            ),
            r"got \(2,\) and \(3,\)",
        ),
        (lambda: gaussian_complexity(torch.randn(3, 3)), "more points than D"),
        (lambda: gaussian_complexity(torch.randn(2, 9, 3) * torch.tensor([1.0, 1.0, 0.0])), "2 of 2 are flat"),
        (lambda: gaussian_complexity(torch.full((9, 2), torch.nan)), "not finite"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_correction_subtracts_the_complexity_of_each_cloud():
    torch.manual_seed(0)
    inside, outside, of_inside, of_outside = torch.randn(4, 30).double().unbind()
    result = out_of_distribution_auroc(
        inside, outside, inside_complexity=of_inside, outside_complexity=of_outside, correction="zip"
    )
    expected = [
        [(-q > -p) + 0.0 for p in inside for q in outside],
        [
            (-q - b > -p - a) + 0.0
            for p, a in zip(inside, of_inside, strict=True)
            for q, b in zip(outside, of_outside, strict=True)
        ],
    ]
    assert result == (pytest.approx(sum(expected[0]) / 900), pytest.approx(sum(expected[1]) / 900), "zip")

"""1-NNA against loops in plain Python, its interval by brute force, and faults that evaluations have had."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.brute_force import knn_accuracies, matrices, two_sets
from pyro_pcflow.metrics import one_nearest_neighbour, permutation_interval


@settings(max_examples=60)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10_000), st.booleans())
def test_against_loops(num_samples, num_references, seed, ties):
    distances = matrices(*two_sets(num_samples, num_references, seed, ties))
    assert one_nearest_neighbour(*distances) == pytest.approx(knn_accuracies(*distances), abs=1e-12)


def test_order_plays_no_part_with_ties_and_copies():
    samples = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    references = torch.tensor([[0.0], [0.0], [2.0]])
    results = set()
    for order in itertools.permutations(range(4)):
        distances = matrices(samples[list(order)], references.flip(0) if order[0] else references)
        results.add(one_nearest_neighbour(*distances))
    assert len(results) == 1


def test_copies_are_the_opposite_of_clusters():
    points = torch.arange(10.0).unsqueeze(1) ** 2
    assert one_nearest_neighbour(*matrices(points, points)) == (0, 0, 0)
    assert one_nearest_neighbour(*matrices(points, points + 1e4)) == (1, 1, 1)


def test_arrays_and_float32_are_taken_and_the_diagonal_is_not_looked_at():
    own, theirs, cross = matrices(torch.randn(5, 3), torch.randn(6, 3))
    expected = one_nearest_neighbour(own, theirs, cross)
    own.fill_diagonal_(torch.nan)
    theirs.fill_diagonal_(0.5)
    assert one_nearest_neighbour(own.numpy(), theirs.numpy(), cross.numpy()) == expected
    assert own.diagonal().isnan().all()


def test_band_of_the_null_hypothesis_by_brute_force():
    torch.manual_seed(1)
    own, theirs, cross = matrices(torch.randn(4, 2).double(), torch.randn(3, 2).double())
    pooled = torch.cat([torch.cat([theirs, cross.T], 1), torch.cat([cross, own], 1)])
    results = []
    for references in itertools.combinations(range(7), 3):
        order = [*references, *(i for i in range(7) if i not in references)]
        of = pooled[order][:, order]
        results.append(knn_accuracies(of[3:, 3:], of[:3, :3], of[3:, :3]))
    exact = np.array(results).mean(0)
    bands = permutation_interval(own, theirs, cross, permutations=20_000, level=0.9, seed=5)
    for band, mean, values in zip(bands, exact, np.array(results).T, strict=True):
        assert band.mean == pytest.approx(mean, abs=0.01)
        assert band.low == pytest.approx(np.quantile(values, 0.05, method="inverted_cdf"), abs=1e-9)
        assert band.high == pytest.approx(np.quantile(values, 0.95, method="inverted_cdf"), abs=1e-9)


def test_band_holds_its_level():
    """Of 60 pairs of sets from one distribution, about 57 are within a band of 95%."""
    torch.manual_seed(0)
    inside = 0
    for seed in range(60):
        distances = matrices(torch.randn(40, 2), torch.randn(40, 2))
        band, *_ = permutation_interval(*distances, permutations=200, seed=seed)
        inside += band.low <= one_nearest_neighbour(*distances).accuracy <= band.high
    assert 52 <= inside <= 60


def test_seeds_repeat_and_leave_the_caller_alone():
    distances = matrices(torch.randn(9, 2), torch.randn(9, 2))
    state = torch.get_rng_state()
    first = permutation_interval(*distances, permutations=30, seed=1)
    assert permutation_interval(*distances, permutations=30, seed=1) == first
    assert permutation_interval(*distances, permutations=30, seed=2) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_failed_samples_are_told_apart():
    torch.manual_seed(3)
    samples, references = torch.randn(40, 3), torch.randn(40, 3)
    samples[:10] = torch.nan
    distances, kept = matrices(samples, references), matrices(samples[10:], references)
    told, without = one_nearest_neighbour(*distances), one_nearest_neighbour(*kept)
    assert told.references == without.references
    assert told.samples == pytest.approx((10 + 30 * without.samples) / 40)
    # The band is that of the clouds that are there.
    assert permutation_interval(*distances, permutations=50) == permutation_interval(*kept, permutations=50)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_all_failed(value):
    own, theirs, cross = matrices(torch.randn(4, 3), torch.randn(5, 3))
    distances = torch.full_like(own, value), theirs, torch.full_like(cross, value)
    assert one_nearest_neighbour(*distances) == (1, 1, 1)
    assert all(math.isnan(number) for band in permutation_interval(*distances, permutations=5) for number in band)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: one_nearest_neighbour(*[torch.zeros(3, 3), torch.zeros(2, 2)], torch.zeros(2, 3)),
            "3 ref",
        ),
        (lambda: one_nearest_neighbour(torch.zeros(1, 1), torch.zeros(2, 2), torch.zeros(1, 2)), "two"),
        (
            lambda: one_nearest_neighbour(torch.full((2, 2), torch.nan), torch.zeros(2, 2), torch.zeros(2, 2)),
            "samples_samples: some distances are not finite",
        ),
        (lambda: permutation_interval(*[torch.zeros(2, 2)] * 3, permutations=0), "permutations"),
        (lambda: permutation_interval(*[torch.zeros(2, 2)] * 3, level=1.0), "level"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()

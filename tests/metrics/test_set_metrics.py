"""Set metrics against loops in plain Python, and against faults that evaluations have had."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.brute_force import knn_accuracies
from pyro_pcflow.metrics import (
    coverage,
    minimum_matching_distance,
    one_nearest_neighbour,
    permutation_interval,
    spread,
)


def matrices(samples, references):
    """Distances of points: metrics of sets see nothing but matrices."""
    return torch.cdist(samples, samples), torch.cdist(references, references), torch.cdist(samples, references)


def loop_mmd(cross):
    rows = cross.tolist()
    return sum(min(row[r] for row in rows if not math.isnan(row[r])) for r in range(len(rows[0]))) / len(rows[0])


def loop_coverage(cross):
    rows = [row for row in cross.tolist() if not math.isnan(row[0])]
    return len({r for row in rows for r in range(len(row)) if row[r] == min(row)}) / cross.shape[1]


shapes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10_000), st.booleans())


@settings(max_examples=60)
@given(shapes)
def test_against_loops(case):
    num_samples, num_references, seed, ties = case
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        if ties:
            return torch.randint(0, 3, (count, 2), generator=generator).double()
        return torch.randn(count, 2, generator=generator, dtype=torch.float64)

    samples, references = draw(num_samples), draw(num_references)
    own, theirs, cross = matrices(samples, references)
    assert minimum_matching_distance(cross) == pytest.approx(loop_mmd(cross), abs=1e-12)
    assert coverage(cross) == pytest.approx(loop_coverage(cross), abs=1e-12)
    assert one_nearest_neighbour(own, theirs, cross) == pytest.approx(knn_accuracies(own, theirs, cross), abs=1e-12)


def test_order_plays_no_part_with_ties_and_copies():
    samples = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    references = torch.tensor([[0.0], [0.0], [2.0]])
    results = set()
    for order in itertools.permutations(range(4)):
        own, theirs, cross = matrices(samples[list(order)], references.flip(0) if order[0] else references)
        results.add((one_nearest_neighbour(own, theirs, cross), coverage(cross), minimum_matching_distance(cross)))
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
    assert coverage(np.array([[1, 2], [2, 1]])) == 1


def test_failed_samples_count_against_the_model():
    torch.manual_seed(3)
    samples, references = torch.randn(40, 3), torch.randn(40, 3)
    whole = matrices(samples, references)
    samples[:10] = torch.nan
    own, theirs, cross = matrices(samples, references)
    kept = matrices(samples[10:], references)
    assert minimum_matching_distance(cross) == minimum_matching_distance(kept[2]) >= minimum_matching_distance(whole[2])
    assert coverage(cross) == coverage(kept[2]) <= coverage(whole[2])
    told, without = one_nearest_neighbour(own, theirs, cross), one_nearest_neighbour(*kept)
    assert told.references == without.references
    assert told.samples == pytest.approx((10 + 30 * without.samples) / 40)
    # The band is that of the clouds that are there.
    assert permutation_interval(own, theirs, cross, permutations=50) == permutation_interval(*kept, permutations=50)


def test_spread_is_a_ratio_of_means_over_pairs_without_failures():
    own, theirs, _ = matrices(torch.randn(5, 3).double(), torch.randn(4, 3).double())
    pairs = (
        [own[i, j].item() for i in range(5) for j in range(i)],
        [theirs[i, j].item() for i in range(4) for j in range(i)],
    )
    expected = np.mean(pairs[0]) / np.mean(pairs[1])
    assert spread(own, theirs) == pytest.approx(expected)
    failed = torch.full((7, 7), torch.nan, dtype=torch.float64)
    failed[1:6, 1:6] = own
    failed[:, 6] = failed[6] = torch.inf
    assert spread(failed, theirs.fill_diagonal_(torch.nan)) == pytest.approx(expected)
    assert math.isnan(spread(torch.full((2, 2), torch.nan), theirs))
    assert spread(torch.zeros(3, 3), theirs) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_all_failed(value):
    own, theirs, cross = matrices(torch.randn(4, 3), torch.randn(5, 3))
    own, cross = torch.full_like(own, value), torch.full_like(cross, value)
    assert minimum_matching_distance(cross) == math.inf
    assert coverage(cross) == 0
    accuracies = one_nearest_neighbour(own, theirs, cross)
    assert accuracies == (1, 1, 1)
    assert all(
        math.isnan(number) for band in permutation_interval(own, theirs, cross, permutations=5) for number in band
    )


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


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: coverage([[1.0]]), TypeError, "expected a tensor or an array"),
        (lambda: coverage(torch.zeros(2, 2, dtype=torch.bool)), TypeError, "real distances"),
        (lambda: coverage(torch.zeros(4)), ValueError, "expected a matrix"),
        (lambda: coverage(torch.zeros(0, 4)), ValueError, "no distances in it"),
        (lambda: coverage(torch.tensor([[1.0, torch.nan], [1.0, 2.0]])), ValueError, r"references 1 .* swapped\?"),
        (
            lambda: one_nearest_neighbour(*[torch.zeros(3, 3), torch.zeros(2, 2)], torch.zeros(2, 3)),
            ValueError,
            "3 ref",
        ),
        (lambda: one_nearest_neighbour(torch.zeros(1, 1), torch.zeros(2, 2), torch.zeros(1, 2)), ValueError, "two"),
        (
            lambda: one_nearest_neighbour(torch.full((2, 2), torch.nan), torch.zeros(2, 2), torch.zeros(2, 2)),
            ValueError,
            "samples_samples: some distances are not finite",
        ),
        (lambda: permutation_interval(*[torch.zeros(2, 2)] * 3, permutations=0), ValueError, "permutations"),
        (lambda: permutation_interval(*[torch.zeros(2, 2)] * 3, level=1.0), ValueError, "level"),
        (lambda: spread(torch.ones(2, 3), torch.ones(2, 2)), ValueError, "samples_samples: expected a square"),
        (lambda: spread(torch.ones(2, 2), torch.ones(1, 1)), ValueError, "between at least two references"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()

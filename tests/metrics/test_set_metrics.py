"""Set metrics against loops in plain Python, and against faults that evaluations have had."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.brute_force import matrices, two_sets
from pyro_pcflow.metrics import coverage, minimum_matching_distance, spread


def loop_mmd(cross):
    rows = cross.tolist()
    return sum(min(row[r] for row in rows if not math.isnan(row[r])) for r in range(len(rows[0]))) / len(rows[0])


def loop_coverage(cross):
    rows = [row for row in cross.tolist() if not math.isnan(row[0])]
    return len({r for row in rows for r in range(len(row)) if row[r] == min(row)}) / cross.shape[1]


@settings(max_examples=60)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 10_000), st.booleans())
def test_against_loops(num_samples, num_references, seed, ties):
    _, _, cross = matrices(*two_sets(num_samples, num_references, seed, ties))
    assert minimum_matching_distance(cross) == pytest.approx(loop_mmd(cross), abs=1e-12)
    assert coverage(cross) == pytest.approx(loop_coverage(cross), abs=1e-12)


def test_order_plays_no_part_with_ties_and_copies():
    samples = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    references = torch.tensor([[0.0], [0.0], [2.0]])
    results = set()
    for order in itertools.permutations(range(4)):
        *_, cross = matrices(samples[list(order)], references.flip(0) if order[0] else references)
        results.add((coverage(cross), minimum_matching_distance(cross)))
    assert len(results) == 1


def test_failed_samples_count_against_the_model():
    torch.manual_seed(3)
    samples, references = torch.randn(40, 3), torch.randn(40, 3)
    *_, whole = matrices(samples, references)
    samples[:10] = torch.nan
    *_, cross = matrices(samples, references)
    *_, kept = matrices(samples[10:], references)
    assert minimum_matching_distance(cross) == minimum_matching_distance(kept) >= minimum_matching_distance(whole)
    assert coverage(cross) == coverage(kept) <= coverage(whole)


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


def test_arrays_are_taken():
    assert coverage(np.array([[1, 2], [2, 1]])) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_all_failed(value):
    cross = torch.full((4, 5), value)
    assert minimum_matching_distance(cross) == math.inf
    assert coverage(cross) == 0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: coverage([[1.0]]), TypeError, "expected a tensor or an array"),
        (lambda: coverage(torch.zeros(2, 2, dtype=torch.bool)), TypeError, "real distances"),
        (lambda: coverage(torch.zeros(4)), ValueError, "expected a matrix"),
        (lambda: coverage(torch.zeros(0, 4)), ValueError, "no distances in it"),
        (lambda: coverage(torch.tensor([[1.0, torch.nan], [1.0, 2.0]])), ValueError, r"references 1 .* swapped\?"),
        (lambda: spread(torch.ones(2, 3), torch.ones(2, 2)), ValueError, "samples_samples: expected a square"),
        (lambda: spread(torch.ones(2, 2), torch.ones(1, 1)), ValueError, "between at least two references"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()

"""Nearest points and best matchings in C++, against scipy and all distances, for each of the instruction sets."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from scipy.optimize import linear_sum_assignment

from helpers.brute_force import degenerate_pairs, distances, padded, real_clouds
from pyro_pcflow.kernels.cpu import build as compiler
from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.kernels.cpu.clouds import PackedClouds

PAIRS = degenerate_pairs()


@pytest.fixture(params=["avx512", "avx2", "portable"], autouse=True)
def _library(request, monkeypatch):
    try:
        library = compiler.compiled("clouds", request.param)
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(kernel, "_load", functools.partial(lambda library: library, library))


def packed(*clouds):
    array = np.stack(clouds)
    return PackedClouds.of(array, np.ones(array.shape[:2], dtype=bool))


def matched(x, y, squared=False, limit=np.inf):
    """Partners of one pair of clouds, and the bound."""
    one = np.zeros(1, dtype=np.int64)
    numbers, bounds = kernel.match(packed(x), packed(y), one, one, squared, np.full(1, limit), 1)
    return numbers[0], bounds[0]


@st.composite
def pairs_of_clouds(draw, equal=False):
    """Clouds of few points on a coarse grid, with many ties, or anywhere, in one to sixteen coordinates."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    ours = draw(st.integers(1, 40))
    shapes = [(count, draw(st.shared(st.integers(1, 16), key="dim"))) for count in (ours, ours)]
    if not equal:
        shapes[1] = (draw(st.integers(1, 40)), shapes[1][1])
    ties = draw(st.booleans())
    return [rng.integers(0, 3, shape).astype(float) if ties else rng.normal(size=shape) for shape in shapes]


quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quickly
@given(pairs_of_clouds())
def test_nearest_points_are_those_of_all_distances(pair):
    x, y = pair
    squares = distances(x, y) ** 2
    one = np.zeros(1, dtype=np.int64)
    there, back = kernel.nearest_both_ways(packed(x), packed(y), one, one, 1)
    np.testing.assert_allclose(there[0], squares.min(1), rtol=1e-14)
    np.testing.assert_allclose(back[0], squares.min(0), rtol=1e-14)
    numbers = kernel.nearest_numbers(packed(x), packed(y), one, one, 1)[0]
    np.testing.assert_allclose(squares[np.arange(len(x)), numbers], squares.min(1), rtol=1e-14)
    if (x == x.round()).all():
        assert numbers.tolist() == squares.round().argmin(1).tolist()  # the first of equal ones


@quickly
@given(pairs_of_clouds(equal=True), st.booleans())
def test_matchings_cost_as_little_as_those_of_scipy(pair, squared):
    costs = distances(*pair) ** (2 if squared else 1)
    numbers, bound = matched(*pair, squared)
    assert sorted(numbers) == list(range(len(costs)))
    best = costs[linear_sum_assignment(costs)].mean()
    assert costs[np.arange(len(costs)), numbers].mean() == pytest.approx(best, rel=1e-12, abs=1e-14)
    assert bound == pytest.approx(best, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_degenerate_clouds(name, squared):
    costs = distances(*PAIRS[name]) ** (2 if squared else 1)
    numbers, bound = matched(*PAIRS[name], squared)
    best = costs[linear_sum_assignment(costs)].mean()
    assert costs[np.arange(len(costs)), numbers].mean() == pytest.approx(best, rel=1e-9, abs=1e-14)
    assert bound == pytest.approx(best, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_real_clouds(shift):
    x, y = real_clouds(2, 300).double().numpy() + shift
    y = y - shift / 2
    costs = distances(x, y)
    numbers, bound = matched(x, y)
    best = costs[linear_sum_assignment(costs)].mean()
    assert costs[np.arange(300), numbers].mean() == pytest.approx(best, rel=1e-12)
    assert bound == pytest.approx(best, rel=1e-11)


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-7, 1e-8, 1e-10, 1e-15])
def test_clouds_that_differ_by_less_than_single_precision_holds(noise):
    """Costs near the quantum of the first search, beside some that are far above it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    # Pairs of points as near as the noise, which other matchings than the best would exchange.
    x[30:] = x[:30] + noise * rng.normal(size=(30, 3))
    y = rng.permutation(x) + noise * rng.normal(size=x.shape)
    for squared in (False, True):
        costs = distances(x, y) ** (2 if squared else 1)
        numbers, bound = matched(x, y, squared)
        best = costs[linear_sum_assignment(costs)].mean()
        assert costs[np.arange(60), numbers].mean() == pytest.approx(best, rel=1e-9)
        assert bound == pytest.approx(best, rel=1e-6)


def test_a_search_is_given_up_above_its_limit_and_only_there():
    x, y = real_clouds(2, 200).double().numpy()
    costs = distances(x, y)
    best = costs[linear_sum_assignment(costs)].mean()
    for share in (0.5, 0.9, 0.97):
        numbers, bound = matched(x, y, limit=share * best)
        assert numbers[0] == -1
        assert share * best < bound <= best
    numbers, bound = matched(x, y, limit=best * (1 + 1e-12))
    assert costs[np.arange(200), numbers].mean() == pytest.approx(best, rel=1e-12)


def test_what_overflows_is_infinitely_dear():
    x = np.array([[0.0], [1e200]])
    numbers, bound = matched(x, -x, squared=True)
    assert numbers.tolist() == [0, 1]
    assert bound == np.inf


@pytest.mark.parametrize("threads", [1, 3])
def test_many_pairs_of_clouds_of_several_sizes(threads):
    rng = np.random.default_rng(5)
    clouds = [rng.normal(size=(count, 3)) for count in (4, 9, 1, 6)]
    x, y = (PackedClouds.of(*(part.numpy() for part in padded(clouds, width, rng))) for width in (9, 11))
    first, second = (grid.ravel() for grid in np.meshgrid(np.arange(4), np.arange(4)))
    there, back = kernel.nearest_both_ways(x, y, first, second, threads)
    numbers = kernel.nearest_numbers(x, y, first, second, threads)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        squares = distances(x.points[i, : x.counts[i]], y.points[j, : y.counts[j]]) ** 2
        for got, expected in ((there, squares.min(1)), (back, squares.min(0)), (numbers, squares.argmin(1))):
            np.testing.assert_allclose(got[pair, : len(expected)], expected, rtol=1e-14)
            assert not got[pair, len(expected) :].any()
    own = np.arange(4)
    found, bounds = kernel.match(x, y, own, own, False, np.full(4, np.inf), threads)
    np.testing.assert_allclose(bounds, 0.0, atol=1e-15)
    for cloud, count in enumerate(x.counts):
        np.testing.assert_array_equal(y.points[cloud][found[cloud, :count]], x.points[cloud, :count])
        assert not found[cloud, count:].any()


def test_without_memory_it_says_so(monkeypatch):
    library = type("Library", (), {"pcf_nearest_numbers": staticmethod(lambda *_: 1)})
    monkeypatch.setattr(kernel, "_load", lambda: library)
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(MemoryError, match="clouds of 5 points"):
        kernel.nearest_numbers(packed(np.zeros((5, 2))), packed(np.zeros((5, 2))), one, one, 1)


def test_where_it_cannot_be_compiled_that_is_said_once(monkeypatch, caplog):
    def refuse():
        raise compiler.KernelUnavailableError("no C++ compiler is found")

    monkeypatch.setattr(kernel, "_load", refuse)
    kernel.available.cache_clear()
    try:
        assert not kernel.available()
        assert not kernel.available()
    finally:
        kernel.available.cache_clear()
    assert caplog.text.count("take longer without their compiled kernel: no C++ compiler is found") == 1

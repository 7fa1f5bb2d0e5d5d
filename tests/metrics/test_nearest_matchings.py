"""Nearest clouds by exact EMD without whole matrices: bounds that hold, and the same neighbours to the last tie."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from helpers.brute_force import degenerate_pairs, padded, real_clouds
from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.metrics import coverage, emd, minimum_matching_distance, nearest_matchings, pairwise
from pyro_pcflow.metrics.nearest_matchings import matching_bounds, random_pairs
from pyro_pcflow.metrics.two_sample import one_nearest_neighbour, permutation_interval

PAIRS = degenerate_pairs()
quickly = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["compiled", "scipy"], autouse=True)
def _solver(request, monkeypatch):
    if request.param == "scipy":
        monkeypatch.setattr(kernel, "available", lambda: False)
    elif not kernel.available():
        pytest.skip("no C++ compiler")


@pytest.mark.parametrize("cost", ["euclidean", "squared"])
@pytest.mark.parametrize("name", PAIRS)
def test_bounds_lie_below(name, cost):
    x, y = (torch.tensor(cloud)[None] for cloud in PAIRS[name])
    exact = emd(x, y, cost).item()
    assert 0 <= matching_bounds(x, y, cost).item() <= exact * (1 + 1e-12) + 1e-12


def test_bounds_are_tight_on_a_line_and_of_moved_clouds():
    x, y = torch.randn(2, 1, 30, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for cost in ("euclidean", "squared"):
        torch.testing.assert_close(matching_bounds(x, y, cost)[0], emd(x, y, cost))
    bodies = real_clouds(1, 50).double()
    step = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(matching_bounds(bodies, bodies + step, "squared").item(), 25.0)
    # More frames find the direction better.
    coarse, fine = (matching_bounds(*real_clouds(2, 100)[:, None], "euclidean", frames) for frames in (0, 16))
    assert coarse < fine


def test_bounds_of_what_overflows_say_nothing():
    x = torch.tensor([[[1e300], [-1e300]]], dtype=torch.float64)
    assert matching_bounds(x, -x, "squared").isfinite().all()
    assert matching_bounds(x, x.flip(1) * 0.5, "squared").item() == 0


def assert_same_neighbours(x, y, cost="euclidean", **masks):
    """Minima and their ties are those of whole matrices, and all that is computed from them."""
    options = {"distance": "emd", "options": {"cost": cost}}
    within = random_pairs(len(x), 3, 0)
    between = torch.zeros(len(x), len(y), dtype=torch.bool)
    between[0, 1] = True
    x_mask = {"x_mask": masks["x_mask"]} if masks else {}
    y_mask = {"x_mask": masks["y_mask"]} if masks else {}
    whole = [pairwise(x, **options, **x_mask), pairwise(y, **options, **y_mask), pairwise(x, y, **options, **masks)]
    some = [
        pairwise(x, **options, needed=within, **x_mask),
        pairwise(y, **options, needed=random_pairs(len(y), 3, 0), **y_mask),
        pairwise(x, y, **options, needed=between, **masks),
    ]
    for kind, exact, bounds in zip(("own", "theirs", "cross"), whole, some, strict=True):
        exact, bounds = exact.clone(), bounds.clone()
        assert torch.equal(exact.isnan(), bounds.isnan())
        if kind != "cross":
            exact.diagonal()[:], bounds.diagonal()[:] = torch.inf, torch.inf
        for axis in (0, 1):
            least = exact.nan_to_num(torch.inf).amin(axis, keepdim=True)
            assert torch.equal(least, bounds.nan_to_num(torch.inf).amin(axis, keepdim=True))
            assert torch.equal(exact == least, bounds == least)
        below = (bounds <= exact * (1 + 1e-6)) | exact.isnan()
        assert below.all()
    torch.testing.assert_close(some[0][within], whole[0][within], rtol=0, atol=0, equal_nan=True)
    assert some[2][0, 1] == whole[2][0, 1]
    assert torch.equal(some[0], some[0].mT) or some[0].isnan().any()
    if not whole[1].isnan().any():
        assert one_nearest_neighbour(*some) == one_nearest_neighbour(*whole)
        assert permutation_interval(*some, permutations=20) == permutation_interval(*whole, permutations=20)
        assert coverage(some[2]) == coverage(whole[2])
        assert minimum_matching_distance(some[2]) == minimum_matching_distance(whole[2])
    return whole, some


@quickly
@given(st.integers(0, 1000), st.booleans(), st.integers(1, 3), st.sampled_from(["euclidean", "squared"]))
def test_few_points_with_and_without_ties(seed, ties, dim, cost):
    generator = torch.Generator().manual_seed(seed)
    shapes = (9, 4, dim), (8, 4, dim)
    if ties:
        x, y = (torch.randint(0, 2, shape, generator=generator).double() for shape in shapes)
    else:
        x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    assert_same_neighbours(x, y, cost)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_real_clouds_need_few_matchings(dtype, monkeypatch):
    x, y = real_clouds(40, 60).to(dtype).split(20)
    count = []
    matched = nearest_matchings.matched_emd
    monkeypatch.setattr(
        nearest_matchings, "matched_emd", lambda pairs, *rest: (count.append(len(pairs.x)), matched(pairs, *rest))[1]
    )
    whole, some = assert_same_neighbours(x, y)
    assert sum(count) < 0.8 * (190 + 190 + 400)
    assert not torch.equal(whole[2], some[2])


@pytest.mark.parametrize("far", [torch.nan, 1e25])
def test_clouds_that_failed(far):
    """Squares of 1e25 have no place in float32."""
    x, y = real_clouds(14, 20).split(7)
    x = x.clone()
    x[2] = far
    assert_same_neighbours(x, y, "squared")


def test_masks():
    rng = np.random.default_rng(1)
    (x, x_mask), (y, y_mask) = (padded([rng.normal(size=(5, 2)) for _ in range(6)], width, rng) for width in (7, 9))
    assert_same_neighbours(x, y, x_mask=x_mask, y_mask=y_mask)


def test_threads_and_batches(monkeypatch):
    x = real_clouds(12, 30)
    needed = random_pairs(12, 2, 0)
    one = pairwise(x, distance="emd", needed=needed, num_threads=1)
    assert torch.equal(pairwise(x, distance="emd", needed=needed, num_threads=3), one)
    monkeypatch.setattr(nearest_matchings, "BATCH", 1)
    again = pairwise(x, distance="emd", needed=needed)
    assert torch.equal(again.fill_diagonal_(9).amin(1), one.fill_diagonal_(9).amin(1))


def test_rows_are_kept_apart_from_those_of_whole_matrices(tmp_path, monkeypatch):
    x = real_clouds(8, 20)
    needed = random_pairs(8, 2, 0)
    whole = pairwise(x, distance="emd", path=tmp_path)
    some = pairwise(x, distance="emd", needed=needed, path=tmp_path)
    assert not torch.equal(whole, some)
    pairwise(x, distance="emd", needed=random_pairs(8, 2, 1), path=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(nearest_matchings, "matched_emd", None)
    assert torch.equal(pairwise(x, distance="emd", needed=needed, path=tmp_path), some)


def test_other_distances_are_computed_whole():
    x = real_clouds(5, 20)
    assert torch.equal(pairwise(x, needed=torch.zeros(5, 5, dtype=torch.bool)), pairwise(x))


def test_a_wrong_shape_is_refused():
    x = torch.zeros(3, 4, 2)
    for needed in (torch.zeros(3, 4, dtype=torch.bool), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match=r"needed: expected a boolean tensor of shape \(3, 3\)"):
            pairwise(x, distance="emd", needed=needed)


def test_random_pairs():
    chosen = random_pairs(30, 100, 3)
    assert int(chosen.sum()) == 100
    assert not chosen.tril().any()
    assert torch.equal(chosen, random_pairs(30, 100, 3))
    assert not torch.equal(chosen, random_pairs(30, 100, 4))
    assert int(random_pairs(6, 15, 0).sum()) == int(random_pairs(6, 99, 0).sum()) == 15

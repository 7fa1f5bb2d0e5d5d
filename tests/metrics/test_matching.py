"""Exact matching, Sinkhorn's approximation and the approximate matching, against POT, permutations and loops."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.brute_force import (
    approximate_matching,
    assert_a_nan_stays_in_its_pair,
    degenerate_pairs,
    distances,
    emd_by_permutations,
    padded,
    real_clouds,
)
from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.metrics import approximate_emd, chamfer, emd, sinkhorn
from pyro_pcflow.metrics import matching as matching_module
from pyro_pcflow.metrics import transport as transport_module
from pyro_pcflow.metrics.matching import approximate_matching as published_matching

PAIRS = degenerate_pairs()
POWERS = {"euclidean": 1, "squared": 2}


def tensors(pair, dtype=torch.float64, device="cpu"):
    return [torch.tensor(cloud, dtype=dtype, device=device) for cloud in pair]


def emd_by_pot(x, y, power=1):
    weights = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    return ot.emd2(*weights, distances(x, y) ** power)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("cost", POWERS)
@pytest.mark.parametrize("name", PAIRS)
def test_exact_matching_agrees_with_pot(name, cost, compiled, device, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernel, "available", lambda: False)
    x, y = PAIRS[name]
    expected = emd_by_pot(x, y, POWERS[cost])
    assert emd(*tensors((x, y), device=device), cost).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
def test_distances_that_overflow_are_infinite(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernel, "available", lambda: False)
    x = torch.tensor([[0.0], [1e200]], dtype=torch.float64)
    assert emd(x, -x, "squared") == torch.inf


@pytest.mark.parametrize("cost", POWERS)
def test_exact_matching_is_the_best_of_all(cost):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6, 2))
    assert emd(*tensors((x, y)), cost).item() == pytest.approx(emd_by_permutations(x, y, POWERS[cost]), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_real_clouds_in_float32(shift):
    x, y = real_clouds(2, 256) + shift
    for cost, power in POWERS.items():
        assert emd(x, y, cost).item() == pytest.approx(emd_by_pot(x, y, power), rel=1e-5)
        assert emd(x, y, cost).item() == pytest.approx(emd(y, x, cost).item(), rel=1e-6)


def test_points_on_a_line_are_matched_in_order():
    x, y = torch.randn(2, 5, 300, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (x.sort(1).values - y.sort(1).values).abs().mean((1, 2))
    torch.testing.assert_close(emd(x, y), expected)


def test_zero_only_for_equal_clouds():
    x, y = real_clouds(2, 200)
    assert emd(x, x.flip(0)) == 0
    assert emd(x, y) > 0
    # Repeated points count, unlike in a Chamfer distance.
    once, twice = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [1.0], [1.0]])
    assert chamfer(once, twice) == 0
    assert emd(once, twice).item() == pytest.approx(1 / 3)


@settings(max_examples=25)
@given(
    left=st.lists(st.integers(1, 3), max_size=2),
    ones=st.lists(st.booleans(), min_size=2, max_size=2),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4)),
)
def test_batch_shapes_broadcast(left, ones, sizes):
    n, dim = sizes
    right = [1 if one else size for one, size in zip(ones, left, strict=False)]
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(*left, n, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(*right, n, dim, generator=generator, dtype=torch.float64)
    shape = torch.broadcast_shapes(tuple(left), tuple(right))
    xs, ys = x.expand(*shape, n, dim).reshape(-1, n, dim), y.expand(*shape, n, dim).reshape(-1, n, dim)
    for function in (emd, approximate_emd, lambda a, b: sinkhorn(a, b, 0.1, 5)):
        values = function(x, y)
        assert values.shape == shape
        one_by_one = torch.stack([function(a, b) for a, b in zip(xs, ys, strict=True)])
        torch.testing.assert_close(values.reshape(-1), one_by_one)
    expected = [emd_by_permutations(a, b) for a, b in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(emd(x, y).reshape(-1).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("rubbish", [torch.nan, 1e200])
def test_masks(rubbish, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernel, "available", lambda: False)
    rng = np.random.default_rng(6)
    first, second = ([rng.normal(size=(n, 3)) for n in (3, 7, 1)] for _ in range(2))
    (x, x_mask), (y, y_mask) = padded(first, 9, rng, rubbish), padded(second, 8, rng, rubbish)
    functions = {
        "emd": emd,
        "approximate_emd": approximate_emd,
        "sinkhorn": lambda a, b, **masks: sinkhorn(a, b, 0.05, 40, **masks),
        "debiased": lambda a, b, **masks: sinkhorn(a, b, 0.05, 40, debiased=True, **masks),
    }
    for name, function in functions.items():
        whole = x.clone().requires_grad_()
        values = function(whole, y, x_mask=x_mask, y_mask=y_mask)
        expected = torch.stack([function(*tensors(pair)) for pair in zip(first, second, strict=True)])
        torch.testing.assert_close(values.detach(), expected, msg=name)
        (gradient,) = torch.autograd.grad(values.sum(), whole)
        assert gradient.isfinite().all(), name
        assert (gradient[~x_mask] == 0).all(), name


def test_unequal_numbers_of_points_are_refused():
    x, y = torch.zeros(5, 3), torch.zeros(6, 3)
    for function in (emd, approximate_emd):
        with pytest.raises(ValueError, match="as many points in x as in y, got 5 and 6; draw the same number"):
            function(x, y)
        mask = torch.tensor([True] * 4 + [False] * 2)
        with pytest.raises(ValueError, match="got 5 and 4"):
            function(x, y, y_mask=mask)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_nan_is_never_repaired(bad):
    assert_a_nan_stays_in_its_pair((emd, approximate_emd, lambda a, b: sinkhorn(a, b, 0.1, 20)), bad)


@pytest.mark.parametrize("cost", POWERS)
def test_gradients(cost):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: emd(a, b, cost), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: sinkhorn(a, b, 0.2, 7, cost), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: sinkhorn(a, b, 0.2, 7, cost, debiased=True), (x, y))


# Sinkhorn


def test_blocks_do_not_change_results(monkeypatch):
    x, y = real_clouds(12, 30).double().split(6)
    for function in (approximate_emd, lambda a, b: sinkhorn(a, b, 0.1, 10, debiased=True)):
        whole = function(x, y)
        for block in (1, 1000, 2000):
            monkeypatch.setattr(matching_module, "MATRIX_ENTRIES", block)
            monkeypatch.setattr(transport_module, "MATRIX_ENTRIES", block)
            torch.testing.assert_close(function(x, y), whole, rtol=1e-12, atol=0)


def test_wrong_options_are_explained():
    x = torch.zeros(4, 3)
    cases = [
        ("cost: expected one of 'euclidean', 'squared'", lambda: emd(x, x, "l1")),
        ("cost: expected one of", lambda: sinkhorn(x, x, 0.1, cost="l1")),
        ("epsilon: expected a positive number", lambda: sinkhorn(x, x, 0.0)),
        ("iterations: expected a whole number", lambda: sinkhorn(x, x, 0.1, 0)),
        ("variant: expected one of 'pointflow', 'pvd', 'lion'", lambda: approximate_emd(x, x, "emd")),
    ]
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()


# The approximate matching


@pytest.mark.parametrize("name", PAIRS)
def test_the_published_algorithm_point_by_point(name):
    x, y = PAIRS[name]
    expected = approximate_matching(x, y)
    there = torch.ones(1, len(x), dtype=torch.bool)
    found = published_matching(*(cloud[None] for cloud in tensors((x, y))), there, there)[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)
    for variant, (power, last) in {"pointflow": (1, -1), "pvd": (2, -2), "lion": (2, -2)}.items():
        cost = (approximate_matching(x, y, last) * distances(x, y) ** power).sum() / len(x)
        assert approximate_emd(*tensors((x, y)), variant).item() == pytest.approx(cost, rel=1e-6, abs=1e-9)


def standardised(num_clouds, num_points):
    clouds = real_clouds(num_clouds, num_points)
    return (clouds - clouds.mean((0, 1))) / clouds.std()


def test_its_matching_hands_out_no_more_than_there_is():
    x, y = standardised(8, 256).split(4)
    there = torch.ones(4, 256, dtype=torch.bool)
    match = published_matching(x, y, there, there)
    assert (match >= 0).all()
    for side in (-1, -2):
        sums = match.sum(side)
        assert (sums < 1 + 1e-4).all()
        assert sums.mean() > 0.99


def test_it_lies_above_the_exact_distance_and_is_not_symmetric():
    x, y = standardised(12, 256).split(6)
    exact, forth, back = emd(x, y), approximate_emd(x, y), approximate_emd(y, x)
    above = forth / exact - 1
    # At 2048 points it was measured at 18 to 50% above the exact one, and up to 6.5% asymmetric.
    assert (above > 0.05).all()
    assert (above < 0.6).all()
    asymmetry = (forth / back - 1).abs()
    assert 1e-5 < asymmetry.max() < 0.1
    squared = approximate_emd(x, y, "pvd")
    assert (squared > emd(x, y, "squared")).all()
    assert torch.equal(squared, approximate_emd(x, y, "lion"))
    assert (approximate_emd(x, x) > 0).all()


def test_pointflows_variant_leaves_far_clouds_unmatched_and_the_others_do_not():
    x, y = standardised(2, 128)
    for shift, found in ((3.0, 0.9), (12.0, 0.1), (20.0, 0.001)):
        moved = y + torch.tensor([shift, 0.0, 0.0])
        assert approximate_emd(x, moved) < found * emd(x, moved)
        assert approximate_emd(x, moved, "pvd") > 0.99 * emd(x, moved, "squared")


def test_its_gradient_holds_the_matching_fixed():
    x, y = tensors(PAIRS["random"])
    for variant, (power, last) in {"pointflow": (1, -1), "pvd": (2, -2)}.items():
        moved, fixed = x.clone().requires_grad_(), x.clone().requires_grad_()
        match = torch.from_numpy(approximate_matching(*PAIRS["random"], last))
        cost = ((fixed[:, None] - y[None]).norm(dim=-1) ** power * match).sum() / len(x)
        (expected,) = torch.autograd.grad(cost, fixed)
        (found,) = torch.autograd.grad(approximate_emd(moved, y, variant), moved)
        torch.testing.assert_close(found, expected)

"""Chamfer and Hausdorff distances and the F-score, against brute force and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import directed_hausdorff

from helpers.brute_force import assert_a_nan_stays_in_its_pair, chamfer_ways, degenerate_pairs, padded, real_clouds
from pyro_pcflow.metrics import chamfer, f_score, hausdorff

PAIRS = degenerate_pairs()
FORMULAS = {
    "squared_sum": lambda a, b: (a**2).mean() + (b**2).mean(),
    "squared_mean": lambda a, b: ((a**2).mean() + (b**2).mean()) / 2,
    "squared_max": lambda a, b: max((a**2).mean(), (b**2).mean()),
    "squared_total": lambda a, b: (a**2).sum() + (b**2).sum(),
    "distance_sum": lambda a, b: a.mean() + b.mean(),
    "distance_mean": lambda a, b: (a.mean() + b.mean()) / 2,
    "distance_max": lambda a, b: max(a.mean(), b.mean()),
}


def tensors(pair, dtype=torch.float64, device="cpu"):
    return [torch.tensor(cloud, dtype=dtype, device=device) for cloud in pair]


@pytest.mark.parametrize("convention", FORMULAS)
@pytest.mark.parametrize("name", PAIRS)
def test_each_convention_agrees_with_brute_force(name, convention, device):
    x, y = PAIRS[name]
    expected = FORMULAS[convention](*chamfer_ways(x, y))
    assert chamfer(*tensors((x, y), device=device), convention).item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_real_clouds_in_float32_far_from_the_origin(shift):
    x, y = real_clouds(2, 700) + shift
    for convention, formula in FORMULAS.items():
        expected = formula(*chamfer_ways(x, y))
        assert chamfer(x, y, convention).item() == pytest.approx(expected, rel=1e-5)


def test_near_points_far_from_the_origin_keep_their_digits():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator) + 100
    y = x + 1e-4 * torch.randn(500, 3, generator=generator)
    expected = FORMULAS["squared_sum"](*chamfer_ways(x, y))
    assert chamfer(x, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_hausdorff_agrees_with_scipy(name, device):
    x, y = PAIRS[name]
    expected = max(directed_hausdorff(x, y)[0], directed_hausdorff(y, x)[0])
    assert hausdorff(*tensors((x, y), device=device)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("threshold", [0.1, 0.8, 1.5, 100.0])
def test_f_score_counts(threshold):
    x, y = PAIRS["random"]
    a, b = chamfer_ways(x, y)
    precision, recall = np.mean(a < threshold), np.mean(b < threshold)
    score = f_score(*tensors((x, y)), threshold)
    assert score.precision.item() == pytest.approx(precision)
    assert score.recall.item() == pytest.approx(recall)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert score.f_score.item() == pytest.approx(expected)


def test_f_score_tells_precision_from_recall():
    x, y = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.1]])
    assert [value.item() for value in f_score(x, y, 0.5)] == pytest.approx([0.5, 1.0, 2 / 3])
    assert [value.item() for value in f_score(y, x, 0.5)] == pytest.approx([1.0, 0.5, 2 / 3])
    # A point at exactly the threshold is not nearer than it.
    assert f_score(torch.zeros(1, 1), torch.ones(1, 1), 1.0).f_score.item() == 0


@settings(max_examples=40)
@given(
    left=st.lists(st.integers(1, 3), max_size=2),
    ones=st.lists(st.booleans(), min_size=2, max_size=2),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)),
    single=st.booleans(),
)
def test_batch_shapes_broadcast(left, ones, sizes, single):
    n, m, dim = sizes
    right = [1 if one else size for one, size in zip(ones, left, strict=False)]
    dtype = torch.float32 if single else torch.float64
    generator = torch.Generator().manual_seed(n * 31 + m)
    x = torch.randn(*left, n, dim, generator=generator, dtype=dtype)
    y = torch.randn(*right, m, dim, generator=generator, dtype=dtype)
    shape = torch.broadcast_shapes(tuple(left), tuple(right))
    values = chamfer(x, y)
    assert values.shape == shape
    assert values.dtype == dtype
    xs, ys = x.expand(*shape, n, dim).reshape(-1, n, dim), y.expand(*shape, m, dim).reshape(-1, m, dim)
    expected = [FORMULAS["squared_sum"](*chamfer_ways(a, b)) for a, b in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(values.reshape(-1).numpy(), expected, rtol=1e-5)
    assert hausdorff(x, y).shape == shape
    assert f_score(x, y, 1.0).recall.shape == shape


def test_masked_points_do_not_matter_even_if_they_are_nan():
    rng = np.random.default_rng(5)
    first, second = ([rng.normal(size=(n, 3)) for n in sizes] for sizes in [(3, 9, 1), (8, 2, 5)])
    x, x_mask = padded(first, 12, rng)
    y, y_mask = padded(second, 10, rng)
    x.requires_grad_()
    for convention, formula in FORMULAS.items():
        expected = [formula(*chamfer_ways(a, b)) for a, b in zip(first, second, strict=True)]
        values = chamfer(x, y, convention, x_mask=x_mask, y_mask=y_mask)
        np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-9)
    expected = [max(map(np.max, chamfer_ways(a, b))) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(hausdorff(x, y, x_mask=x_mask, y_mask=y_mask).detach().numpy(), expected)
    score = f_score(x, y, 1.0, x_mask=x_mask, y_mask=y_mask)
    expected = [np.mean(chamfer_ways(a, b)[0] < 1) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(score.precision.numpy(), expected)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[~x_mask] == 0).all()
    # A mask of one cloud serves a batch.
    values = chamfer(x.detach()[0], y, x_mask=x_mask[0], y_mask=y_mask)
    expected = [FORMULAS["squared_sum"](*chamfer_ways(first[0], b)) for b in second]
    np.testing.assert_allclose(values.numpy(), expected)


def test_symmetric_and_zero_only_for_equal_sets():
    x, y = real_clouds(2, 300)
    for convention in FORMULAS:
        assert chamfer(x, y, convention) == chamfer(y, x, convention) > 0
        assert chamfer(x, x.flip(0), convention) == 0
        assert chamfer(x, x[:-1], convention) > 0
        assert chamfer(x[:-1], x, convention) > 0
        nearly = x.clone()
        nearly[7, 1] += 1e-6
        assert chamfer(x, nearly, convention) > 0
    assert hausdorff(x, y) == hausdorff(y, x) > 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_nan_is_never_repaired(bad):
    functions = (chamfer, hausdorff, lambda a, b: f_score(a, b, 0.5).f_score)
    broken, y = assert_a_nan_stays_in_its_pair(functions, bad)
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(chamfer(broken, y).sum(), y)
    assert gradient.isnan().all((1, 2)).tolist() == [False, True, False]
    assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("convention", FORMULAS)
def test_gradients(convention):
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(2, n, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 6))
    assert torch.autograd.gradcheck(lambda a, b: chamfer(a, b, convention), (x, y))
    assert torch.autograd.gradcheck(hausdorff, (x, y))


def test_gradients_between_equal_clouds_are_zero():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for convention in FORMULAS:
        (gradient,) = torch.autograd.grad(chamfer(x, x.detach().flip(0), convention), x)
        assert (gradient == 0).all()


def test_wrong_input_is_explained():
    x = torch.zeros(4, 3)
    there = torch.ones(4, dtype=torch.bool)
    cases = [
        (ValueError, "convention: expected one of 'squared_sum'", lambda: chamfer(x, x, "l2")),
        (ValueError, "one dimension, got shapes", lambda: chamfer(x, torch.zeros(4, 2))),
        (ValueError, "x: there is no point", lambda: chamfer(torch.zeros(0, 3), x)),
        (ValueError, "y: there is no point", lambda: hausdorff(x, torch.zeros(2, 0, 3))),
        (ValueError, "x: expected shape", lambda: chamfer(torch.zeros(3), x)),
        (ValueError, "do not broadcast", lambda: chamfer(x.expand(2, 4, 3), x.expand(3, 4, 3))),
        (ValueError, "expected a boolean tensor", lambda: chamfer(x, x, x_mask=torch.ones(4))),
        (ValueError, r"y_mask: expected shape \(\*batch, 4\)", lambda: chamfer(x, x, y_mask=there[:3])),
        (ValueError, "x_mask: it leaves no point", lambda: chamfer(x, x, x_mask=~there)),
        (ValueError, "threshold: expected a positive", lambda: f_score(x, x, 0.0)),
        (TypeError, "expected a tensor of float32 or float64, got a torch.int64", lambda: chamfer(x.long(), x)),
        (TypeError, "got ndarray", lambda: chamfer(np.zeros((4, 3)), x)),
        (TypeError, "one dtype", lambda: chamfer(x, x.double())),
    ]
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()

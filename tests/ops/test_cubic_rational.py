"""Cubic-rational maps against their formula, polynomial roots and autograd, where they are steep and flat, too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_pcflow.ops.cubic_rational import LOG_WIDTH, REACH, cubic_rational, cubic_rational_inverse

# Beyond 20 a bounded number has reached its bound in either type.
STRENGTHS = torch.tensor([-100.0, -10.0, -3.0, -1.0, 0.0, 0.5, 2.0, 4.0, 7.0, 100.0])
SHIFTS = torch.tensor([-5.0, 0.0, 0.7, 100.0])
LOG_WIDTHS = torch.tensor([-100.0, -1.0, 0.0, 2.0, 100.0])
PLACES = torch.cat([torch.linspace(-4, 4, 401), torch.logspace(-5, 4, 73), -torch.logspace(-5, 4, 73)])


def grid(dtype):
    """One term of every kind, and coordinates near and far."""
    *parameters, places = torch.broadcast_tensors(
        STRENGTHS.view(-1, 1, 1, 1), SHIFTS.view(-1, 1, 1), LOG_WIDTHS.view(-1, 1), PLACES
    )
    return torch.stack(parameters).to(dtype), places.to(dtype)


def strength(raw):
    return -0.95 + 8.45 / (1 + 7.5 / 0.95 * math.exp(-raw))


def term(x, raw_strength, centre, raw_width):
    width = math.exp(LOG_WIDTH * math.tanh(raw_width / LOG_WIDTH))
    return x + strength(raw_strength) * (x - centre) / (1 + ((x - centre) / width) ** 2)


@pytest.mark.parametrize("raw", [[0.3, -1.0, 0.5], [-2.0, 0.4, -1.0]])
def test_one_term_is_its_formula(raw):
    x = 0.375
    value, _ = cubic_rational(torch.tensor([x]).double(), torch.tensor(raw, dtype=torch.float64).unsqueeze(-1))
    assert value.item() == pytest.approx(term(x, *raw), rel=1e-14)


def test_terms_act_one_after_the_other_around_centres_of_their_own():
    raw = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    expected = 0.375
    for (s, shift, width), centre in zip(raw.T.tolist(), (-REACH / 2, REACH / 2), strict=True):
        expected = term(expected, s, centre + shift, width)
    value, _ = cubic_rational(torch.tensor([0.375]).double(), raw.reshape(6, 1))
    assert value.item() == pytest.approx(expected, rel=1e-14)


def test_strengths_reach_their_bounds_and_no_further():
    """The slope at the centre is 1 + strength."""
    parameters = torch.tensor([[-100.0, 0.0, 100.0], [0.0] * 3, [0.0] * 3]).double()
    _, slope = cubic_rational(torch.zeros(3).double(), parameters)
    assert slope.tolist() == pytest.approx([0.05, 1.0, 8.5], rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.float64, 1e-14)])
def test_the_inverse_has_the_value_it_was_asked_for(dtype, tolerance):
    """Relative to the size of the numbers, wherever it lies, near the bounds of the strength and 10,000 away."""
    parameters, y = grid(dtype)
    x, slope = cubic_rational_inverse(y, parameters)
    value, expected_slope = cubic_rational(x.double(), parameters.double())
    error = (value - y).abs() / (y.abs() + parameters[1].abs() + 1e-30)
    assert error.max() < tolerance
    assert slope.min() > 0.04
    assert ((slope - expected_slope) / expected_slope).abs().max() < 5 * tolerance


def test_the_inverse_is_the_only_real_root():
    """Against numpy's roots of `(x - y)(1 + u^2) + strength (x - centre)`, as a polynomial in `u`, in unit width."""
    rng = np.random.default_rng(0)
    for raw, y in zip(rng.normal(0, 4, 50), rng.normal(0, 4, 50), strict=True):
        roots = np.roots([1, -y, 1 + strength(raw), -y])
        (real,) = roots.real[abs(roots.imag) < 1e-9]
        x, _ = cubic_rational_inverse(torch.tensor([y]), torch.tensor([[raw], [0.0], [0.0]]).double())
        assert x.item() == pytest.approx(real, rel=1e-9)


def test_several_terms_are_undone():
    parameters = 2 * torch.randn(12, 500, generator=torch.Generator().manual_seed(0)).double()
    y = torch.linspace(-5, 5, 500).double()
    torch.testing.assert_close(cubic_rational(cubic_rational_inverse(y, parameters)[0], parameters)[0], y)


@pytest.mark.parametrize("function", [cubic_rational, cubic_rational_inverse])
def test_derivatives_of_two_orders(function):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, generator=generator).double().requires_grad_()
    parameters = (2 * torch.randn(6, 4, generator=generator)).double().requires_grad_()
    assert torch.autograd.gradcheck(function, (x, parameters))
    assert torch.autograd.gradgradcheck(function, (x, parameters))


def test_gradients_are_finite_at_the_extremes_in_float32():
    parameters, y = grid(torch.float32)
    for function in (cubic_rational, cubic_rational_inverse):
        inputs = [y.clone().requires_grad_(), parameters.clone().requires_grad_()]
        value, slope = function(*inputs)
        for gradient in torch.autograd.grad(value.sum() + slope.log().sum(), inputs):
            assert gradient.isfinite().all()

"""Rational-quadratic splines against their formula and autograd, at the knots and where they are steep, too."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_pcflow.ops.rational_quadratic import (
    EVEN_SHARE,
    LOG_SLOPE,
    rational_quadratic,
    rational_quadratic_inverse,
)

BOUND = 3.0


def drawn(count, scale=1.0, bins=5, dtype=torch.float64, seed=0):
    return (scale * torch.randn(3 * bins - 1, count, generator=torch.Generator().manual_seed(seed))).to(dtype)


def knots(parameters):
    """Places and slopes of one coordinate's knots, by plain arithmetic."""
    bins = (len(parameters) + 1) // 3
    places = []
    for raw in (parameters[:bins], parameters[bins : 2 * bins]):
        total = sum(math.exp(value) for value in raw)
        place, row = -BOUND, [-BOUND]
        for value in raw:
            place += 2 * BOUND * ((1 - EVEN_SHARE) * math.exp(value) / total + EVEN_SHARE / bins)
            row.append(place)
        places.append(row)
    slopes = [1.0, *(math.exp(LOG_SLOPE * math.tanh(raw / LOG_SLOPE)) for raw in parameters[2 * bins :]), 1.0]
    return (*places, slopes)


def formula(x, parameters):
    """Equation 4 of the paper."""
    if abs(x) >= BOUND:
        return x
    xs, ys, slopes = knots(parameters)
    k = max(i for i in range(len(xs) - 1) if x >= xs[i])
    height, width = ys[k + 1] - ys[k], xs[k + 1] - xs[k]
    s, t = height / width, (x - xs[k]) / width
    top = height * (s * t**2 + slopes[k] * t * (1 - t))
    return ys[k] + top / (s + (slopes[k + 1] + slopes[k] - 2 * s) * t * (1 - t))


def test_it_is_its_formula():
    x = torch.linspace(-4, 4, 101).double()
    parameters = drawn(101)
    value, _ = rational_quadratic(x, parameters, BOUND)
    expected = [formula(*pair) for pair in zip(x.tolist(), parameters.T.tolist(), strict=True)]
    assert value.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_identity_at_zero_and_outside(dtype):
    x = torch.linspace(-4, 4, 101).to(dtype)
    for parameters, where in ((torch.zeros(23, 101), x == x), (drawn(101, bins=8), x.abs() >= BOUND)):
        for function in (rational_quadratic, rational_quadratic_inverse):
            value, slope = function(x, parameters.to(dtype), BOUND)
            torch.testing.assert_close(value[where], x[where])
            torch.testing.assert_close(slope[where], torch.ones_like(x)[where], atol=1e-5, rtol=0)


def test_values_and_slopes_meet_at_the_knots():
    parameters = drawn(1)
    xs, ys, slopes = (torch.tensor(row, dtype=torch.float64) for row in knots(parameters[:, 0].tolist()))
    for side in (-1e-9, 0.0, 1e-9):
        value, slope = rational_quadratic(xs + side, parameters.expand(-1, 6), BOUND)
        torch.testing.assert_close(value, ys, atol=1e-7, rtol=0)
        torch.testing.assert_close(slope, slopes, atol=1e-6, rtol=0)
        value, slope = rational_quadratic_inverse(ys + side, parameters.expand(-1, 6), BOUND)
        torch.testing.assert_close(value, xs, atol=1e-7, rtol=0)
        torch.testing.assert_close(slope, slopes, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_the_inverse_has_the_value_it_was_asked_for(dtype, tolerance, scale):
    """Relative to the slope there, or one: between the knots and at them."""
    parameters = drawn(5000, scale, bins=8, dtype=dtype)
    y = 3.5 * (2 * torch.rand(5000, generator=torch.Generator().manual_seed(1)) - 1)
    y[: 9 * 50] = torch.tensor([knots(one)[1] for one in parameters[:, : 9 * 50 : 9].T.tolist()]).reshape(-1)
    parameters[:, : 9 * 50] = parameters[:, : 9 * 50 : 9].repeat_interleave(9, -1)
    y = y.to(dtype)
    x, slope = rational_quadratic_inverse(y, parameters, BOUND)
    value, _ = rational_quadratic(x, parameters, BOUND)
    assert ((value - y).abs() / slope.clamp(min=1)).max() < tolerance
    assert slope.min() > 0
    outside = y.abs() > BOUND
    assert (x - y)[outside].abs().max() < 10 * tolerance
    assert (x[~outside].abs() <= BOUND + 1e-6).all()


def test_a_round_trip_through_flat_places_loses_what_rounding_loses():
    """An error of the value divided by the slope, which is as small as 1e-4 here, and no more."""
    parameters = drawn(50_000, 10.0, bins=8, dtype=torch.float32)
    x = torch.linspace(-BOUND, BOUND, 50_000)
    y, slope = rational_quadratic(x, parameters, BOUND)
    back, _ = rational_quadratic_inverse(y, parameters, BOUND)
    assert slope.min() < 1e-4
    assert ((back - x).abs() * slope.clamp(max=1)).max() < 2e-6


@pytest.mark.parametrize("function", [rational_quadratic, rational_quadratic_inverse])
def test_derivatives_of_two_orders(function):
    x = torch.tensor([-4.0, -2.5, -0.3, 0.8, 2.9, 3.5]).double().requires_grad_()
    parameters = drawn(6).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, parameters, BOUND))
    assert torch.autograd.gradgradcheck(function, (x, parameters, BOUND))


@pytest.mark.parametrize("function", [rational_quadratic, rational_quadratic_inverse])
def test_gradients_are_finite_at_the_extremes_in_float32(function):
    parameters = drawn(2000, 30.0, bins=8, dtype=torch.float32).requires_grad_()
    x = torch.linspace(-BOUND, BOUND, 2000, requires_grad=True)
    value, slope = function(x, parameters, BOUND)
    for gradient in torch.autograd.grad(value.sum() + slope.log().sum(), (x, parameters)):
        assert gradient.isfinite().all()

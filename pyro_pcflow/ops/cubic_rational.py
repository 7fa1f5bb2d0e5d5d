"""Cubic-rational maps of a coordinate: smooth bumps, whose inverse is the root of a cubic polynomial."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_pcflow.ops.coupling import tanh_bound

__all__ = ["cubic_rational", "cubic_rational_inverse"]

# The slope of a term is 1 + strength * w (2 w - 1) with w = 1 / (1 + u^2) between 0 and 1, a parabola from -1/8, at
# w = 1/4, to 1: it is positive for strengths from -1 to 8.
WEAKEST, STRONGEST = -0.95, 7.5
STRENGTHS = STRONGEST - WEAKEST
AT_ZERO = math.log(-WEAKEST / STRONGEST)  # the logit of the share of STRENGTHS at which the strength is 0
# The largest logarithm of a width, or of one over it.
LOG_WIDTH = 3.0
# Centres of unmoved terms lie evenly between minus this and this.
REACH = 2.0


def cubic_rational(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Bend coordinates by terms `x + lambda (x - gamma) / (1 + (x - gamma)^2 / sigma^2)`, one after the other.

    Each term, of Analytic bijections (arXiv 2601.10774), is smooth and increasing, and the identity far from `gamma`.

    Args:
        x: shape `(*batch,)`.
        parameters: shape `(3 K, *batch)`, unbounded: of each of `K` terms what becomes `lambda`, then the shifts of
            the centres `gamma`, then the logarithms of the widths `sigma`. All terms are the identity at zero.

    Returns:
        The images, and `dy/dx` of each, both of shape `(*batch,)`.

    Examples:
        >>> y, slope = cubic_rational(torch.tensor([3.0]), torch.zeros(12, 1))
        >>> y.tolist(), slope.tolist()
        ([3.0], [1.0])
    """
    slopes: list[Tensor] = []
    for term in _terms(parameters):
        x, slope = _bump(x, *term)
        slopes.append(slope)
    return x, _product(slopes)


def cubic_rational_inverse(y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Invert `cubic_rational`.

    Args:
        y: shape `(*batch,)`.
        parameters: as for `cubic_rational`.

    Returns:
        The preimages, and `dy/dx`, not its inverse, at each, both of shape `(*batch,)`.
    """
    slopes: list[Tensor] = []
    for term in reversed(_terms(parameters)):
        with torch.no_grad():
            x = _root(y, *term)
        # What is left of rounding goes in two steps of Newton, which also bring derivatives of the first three orders.
        value, slope = _bump(x, *term)
        for _ in range(2):
            x = x - (value - y) / slope
            value, slope = _bump(x, *term)
        y = x
        slopes.append(slope)
    return y, _product(slopes)


def _terms(parameters: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Strength, centre and inverse width of each term."""
    strength, shift, log_width = parameters.unflatten(0, (3, -1))
    strength = torch.sigmoid(strength + AT_ZERO) * STRENGTHS + WEAKEST
    count = len(shift)
    centres = REACH * (2 * torch.arange(count, dtype=shift.dtype, device=shift.device) + 1 - count) / count
    centre = shift + centres.view(-1, *[1] * (shift.dim() - 1))
    inverse_width = torch.exp(-tanh_bound(log_width, LOG_WIDTH))
    return list(zip(strength.unbind(), centre.unbind(), inverse_width.unbind(), strict=True))


def _bump(x: Tensor, strength: Tensor, centre: Tensor, inverse_width: Tensor) -> tuple[Tensor, Tensor]:
    distance = x - centre
    weight = (1 + (distance * inverse_width).square()).reciprocal()
    gain = strength * weight
    return torch.addcmul(x, gain, distance), torch.addcmul(1 - gain, gain, weight, value=2)


def _root(y: Tensor, strength: Tensor, centre: Tensor, inverse_width: Tensor) -> Tensor:
    """Where a term has the value `y`, up to rounding: Cardano's formula for `u^3 - v u^2 + a u - v = 0`.

    In units of the width from the centre `y` is `v`, and `a` is `1 + strength`. There is one real root only, as the
    term is increasing, so the discriminant is positive; written as a polynomial in `v^2`, it does not cancel.
    """
    v = (y - centre) * inverse_width
    a = 1 + strength
    square = v.square()
    p = a - square / 3
    q = -v * (2 * square / 27 - a / 3 + 1)
    discriminant = (4 * square.square() - (a.square() + 18 * a - 27) * square + 4 * a**3) / 108
    cube = q.abs() / 2 + discriminant.clamp(min=0).sqrt()
    radius = cube.pow(1 / 3)
    t = torch.copysign(radius - p / (3 * radius), -q)
    return centre + (t + v / 3) / inverse_width


def _product(slopes: list[Tensor]) -> Tensor:
    product = slopes[0]
    for slope in slopes[1:]:
        product = product * slope
    return product

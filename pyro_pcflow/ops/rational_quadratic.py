"""Monotone rational-quadratic splines of a coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_pcflow.ops.coupling import tanh_bound

__all__ = ["rational_quadratic", "rational_quadratic_inverse"]

# This share of the length is dealt out evenly, so that no bin vanishes.
EVEN_SHARE = 0.1
# The largest logarithm of the slope at a knot, or of one over it.
LOG_SLOPE = 3.0


def rational_quadratic(x: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Bend coordinates by a monotone rational-quadratic spline, the identity outside of `[-bound, bound]`.

    Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, NeurIPS 2019.

    Args:
        x: shape `(*batch,)`.
        parameters: shape `(3 K - 1, *batch)`, unbounded: what becomes the widths of `K` bins, their heights, and the
            slopes at the `K - 1` knots between them. The spline is the identity at zero.
        bound: where the spline ends.

    Returns:
        The images, and `dy/dx` of each, both of shape `(*batch,)`.

    Examples:
        >>> y, slope = rational_quadratic(torch.tensor([1.0, 4.0]), torch.zeros(23, 2), bound=3.0)
        >>> y.allclose(torch.tensor([1.0, 4.0])), slope.allclose(torch.ones(2))
        (True, True)
    """
    inside = x.clamp(-bound, bound)
    left, width, bottom, height, first, last = _bin(inside, _knots(parameters, bound), axis=0)
    image, slope = _in_bin((inside - left) / width, width, height, first, last)
    return bottom + image + (x - inside), slope


def rational_quadratic_inverse(y: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Invert `rational_quadratic`.

    Args:
        y: shape `(*batch,)`.
        parameters: as for `rational_quadratic`.
        bound: likewise.

    Returns:
        The preimages, and `dy/dx`, not its inverse, at each, both of shape `(*batch,)`.
    """
    inside = y.clamp(-bound, bound)
    left, width, bottom, height, first, last = _bin(inside, _knots(parameters, bound), axis=1)
    rise = inside - bottom
    with torch.no_grad():
        t = _root(rise, width, height, first, last)
    # What is left of rounding goes in two steps of Newton, which also bring derivatives of the first three orders.
    image, slope = _in_bin(t, width, height, first, last)
    for _ in range(2):
        t = t - (image - rise) / (slope * width)
        image, slope = _in_bin(t, width, height, first, last)
    return left + t * width + (y - inside), slope


def _knots(parameters: Tensor, bound: float) -> Tensor:
    """Places of the knots in both directions, and slopes there: shape `(3, K + 1, *batch)`."""
    bins = (len(parameters) + 1) // 3
    sizes, slopes = parameters.split([2 * bins, bins - 1])
    shares = torch.softmax(sizes.unflatten(0, (2, bins)), 1)
    # A product with a matrix of ones below the diagonal is a fast sum. The ends are exact, so that coordinates beyond
    # them stay in place.
    sums = torch.ones(bins + 1, bins, dtype=shares.dtype, device=shares.device).tril(-1)
    sums[bins] = 0
    even = torch.linspace(0, EVEN_SHARE, bins + 1, dtype=shares.dtype, device=shares.device)
    even[bins] = 1
    places = torch.baddbmm(
        (bound * (2 * even - 1)).unsqueeze(-1),
        sums.expand(2, -1, -1),
        shares.flatten(2),
        alpha=2 * bound * (1 - EVEN_SHARE),
    )
    one = torch.ones_like(parameters[:1])
    slopes = torch.cat([one, torch.exp(tanh_bound(slopes, LOG_SLOPE)), one])
    return torch.cat([places.unflatten(2, shares.shape[2:]), slopes.unsqueeze(0)])


def _bin(inside: Tensor, knots: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The bin of each coordinate along an axis: left, width, bottom, height, first and last slope."""
    index = (inside >= knots[axis, 1:-1]).sum(0)
    ends = knots.gather(1, torch.stack([index, index + 1]).expand(3, *[-1] * (knots.dim() - 1)))
    (left, right), (bottom, top), (first, last) = (pair.unbind() for pair in ends.unbind())
    return left, right - left, bottom, top - bottom, first, last


def _in_bin(t: Tensor, width: Tensor, height: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Height above the left knot, and slope, at a share `t` of the width of a bin."""
    mean = height / width
    rest = 1 - t
    mixed = t * rest
    scale = 1 / (mean + (first + last - 2 * mean) * mixed)
    image = height * (mean * t.square() + first * mixed) * scale
    slope = (mean * scale).square() * (last * t.square() + 2 * mean * mixed + first * rest.square())
    return image, slope


def _root(rise: Tensor, width: Tensor, height: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The share of the width at which a bin has risen so far, up to rounding."""
    mean = height / width
    excess = first + last - 2 * mean
    # a t^2 + b t + c = 0, solved without a difference of numbers alike.
    a, b, c = height * (mean - first) + rise * excess, height * first - rise * excess, -mean * rise
    return -2 * c / (b + (b.square() - 4 * a * c).clamp(min=0).sqrt())

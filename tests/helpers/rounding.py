"""How large the errors of float32 are expected to be, by first-order error analysis.

A program is evaluated in float64, and after every operation an error is added that rounding to float32 could have
made; the errors then spread to the results as those of float32 do, through every later layer. With u = 2^-24:

- the result y of one operation is rounded by at most u |y|; errors of operations are taken for independent, with the
  variance u^2 y^2 / 3 of a uniform distribution (N. Higham and T. Mary, A new approach to probabilistic rounding error
  analysis, SIAM J. Sci. Comput. 41, 2019);
- a function that takes k operations counts as k of them; `test_sources.py` holds the functions to as much;
- a sum of n terms rounds every partial sum. For terms in random order, with sum S and sum of squares A, the k-th
  partial sum has the mean square k/n (A (n - k) / (n - 1) + S^2 (k - 1) / (n - 1)), which adds up to
  (n + 1) (A + 2 S^2) / 6 over all k. Sums in shorter parts have smaller errors.

The same is done to gradients on their way back. Nothing is taken from a kernel: errors above the expectation are errors
that float32 does not need.
"""

from __future__ import annotations

import torch

from pyro_pcflow.kernels.reference import evaluate
from pyro_pcflow.ops.network import ACTIVATIONS

U = 2.0**-24
# Operations of a function on the longest way through it.
OF_FUNCTION, OF_SINE = 6, 3
DRAWS = 12


def noise(variance):
    """An error of as many units u."""
    return U * (variance / 3).sqrt() * torch.randn_like(variance)


def of_sum(total, squares, count):
    """The variance of a sum's error, in u^2 / 3, its products' included."""
    return (count + 1) * (squares + 2 * total.square()) / 6 + squares


class Rounded(torch.autograd.Function):
    """A result of some operations, and its gradient of as many."""

    @staticmethod
    def forward(ctx, x, operations, absolute):
        ctx.operations = operations
        size = torch.ones_like(x) if absolute else x.square()
        return x + noise(operations * size)

    @staticmethod
    def backward(ctx, g):
        return g + noise(ctx.operations * g.square()), None, None


def rounded(x, operations=1, absolute=False):
    return Rounded.apply(x, operations, absolute)


class Linear(torch.autograd.Function):
    """Rows of points (G, N, in) times a matrix (out, in)."""

    @staticmethod
    def forward(ctx, x, matrix):
        ctx.save_for_backward(x, matrix)
        return summed(x, matrix.mT)

    @staticmethod
    def backward(ctx, g):
        x, matrix = ctx.saved_tensors
        return summed(g, matrix), summed(g.flatten(0, 1).mT, x.flatten(0, 1))


def summed(a, b):
    """A matrix product, each of whose elements is a sum."""
    total = a @ b
    return total + noise(of_sum(total, a.square() @ b.square(), a.shape[-1]))


class Shared(torch.autograd.Function):
    """What a group has of its own (G, width), for each of its points: gradients are sums over these."""

    @staticmethod
    def forward(ctx, own, count):
        return own.unsqueeze(1).expand(-1, count, -1)

    @staticmethod
    def backward(ctx, g):
        total = g.sum(1)
        return total + noise(of_sum(total, g.square().sum(1), g.shape[1])), None


def with_errors(program, points, weights, offsets, inverse):
    """One draw of what `pyro_pcflow.kernels.reference.evaluate` might return in float32; arguments in float64."""
    steps = list(zip(program.couplings, program.split(weights, offsets), strict=True))
    log_det = points.new_zeros(points.shape[:-1])
    for coupling, networks in reversed(steps) if inverse else steps:
        kept = points[..., coupling.kept]
        outputs = [network_with_errors(*both, kept) for both in zip(coupling.networks, networks, strict=True)]
        shift = torch.cat(outputs, -1)
        moved = points[..., coupling.moved]
        if coupling.affine:
            shift, raw = shift.chunk(2, -1)
            log_scale = rounded(coupling.max_log_scale * torch.tanh(raw / coupling.max_log_scale), OF_FUNCTION + 2)
            scale = rounded((log_scale if inverse else -log_scale).exp(), OF_FUNCTION)
            moved = rounded(rounded(moved * scale) + shift) if inverse else rounded(rounded(moved - shift) * scale)
            for change in log_scale.unbind(-1):
                log_det = rounded(log_det + (change if inverse else -change))
        else:
            moved = rounded(moved + shift if inverse else moved - shift)
        order = torch.tensor([*coupling.kept, *coupling.moved]).argsort()
        points = torch.cat([kept, moved], -1)[..., order]
    return points, log_det


def network_with_errors(network, own, kept):
    share = Shared.apply
    count = kept.shape[1]
    angles = torch.cat([kept * 2.0**octave for octave in range(network.num_frequencies)] or [kept[..., :0]], -1)
    waves = torch.cat([angles.sin(), angles.cos()], -1)
    before = x = torch.cat([kept, rounded(waves, OF_SINE, absolute=True)], -1)
    for matrix, scale, offset, skip in zip(own.matrices, own.scales, own.offsets, network.skips, strict=False):
        hidden = Linear.apply(x, matrix)
        if scale is not None:
            hidden = rounded(hidden * share(scale, count))
        hidden = rounded(hidden + share(offset, count))
        if skip:
            hidden = rounded(hidden + before)
        before, x = x, rounded(ACTIVATIONS[network.activation.option](hidden), OF_FUNCTION)
    return rounded(Linear.apply(x, own.matrices[-1]) + share(own.offsets[-1], count))


def results(method, program, points, weights, offsets, inverse):
    """Points, log-determinants, and the gradients of points, weights and offsets, by any way to evaluate a program."""
    inputs = [x.detach().clone().requires_grad_() for x in (points, weights, offsets)]
    value, log_det = method(program, *inputs, inverse)
    loss = (value * torch.linspace(-1, 2, value.numel()).to(value).view(value.shape)).sum()
    loss = loss + (log_det * torch.linspace(1, 3, log_det.numel()).to(value).view(log_det.shape)).sum()
    return [value.detach(), log_det.detach(), *torch.autograd.grad(loss, inputs)]


def expected(program, points, weights, offsets, inverse):
    """The exact results, and the standard deviation of each number's error."""
    arguments = [x.double() for x in (points, weights, offsets)]
    exact = results(evaluate, program, *arguments, inverse)
    squares = [torch.zeros_like(x) for x in exact]
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    for _ in range(DRAWS):
        drawn = results(with_errors, program, *arguments, inverse)
        squares = [total + (x - y).square() for total, x, y in zip(squares, drawn, exact, strict=True)]
    torch.random.set_rng_state(generator)
    # The mean of 1 / s^2 for a variance s^2 that was estimated by R draws is R / (R - 2) of 1 / sigma^2.
    return exact, [(total / (DRAWS - 2)).sqrt() for total in squares]


NAMES = ("points", "log-determinants", "gradient of points", "gradient of weights", "gradient of offsets")


def excess(got, exact, deviations):
    """By result, the root mean square of its errors in units of their expectation: at most 1 for float32."""
    ratios = {}
    for name, value, reference, deviation in zip(NAMES, got, exact, deviations, strict=True):
        error, there = (value.double() - reference).abs(), deviation > 0
        assert not error[~there].any(), name
        ratios[name] = (error[there] / deviation[there]).square().mean().sqrt().item()
    return ratios

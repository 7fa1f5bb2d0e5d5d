"""A stack under test, and how far one way to run it is from another."""

from __future__ import annotations

import copy

import torch

import pyro_pcflow as pcf
from pyro_pcflow.transforms import coupling_stack

INSTRUCTION_SETS = ["avx512", "avx2", "portable"]
# Rounding of the sum of a gradient over points, in units of float32 of what is summed.
UNITS = 4
BACKENDS = ["tiled", *(f"fused {name}" for name in INSTRUCTION_SETS)]


OPTIONS = {
    "point_dim": 3,
    "num_couplings": 4,
    "hidden_dims": [20, 20],
    "context_dim": 5,
    "conditioning": "film",
    "activation": "silu",
    "num_frequencies": 2,
}


def make(options, dtype=torch.float32):
    options = dict(options)
    torch.manual_seed(0)
    stack = coupling_stack(options.pop("point_dim"), **options)
    # The last layers of new networks are zero, which would hide all others.
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "output" in name:
                torch.nn.init.normal_(parameter, std=0.3 / parameter.shape[-1] ** 0.5)
    return stack.to(dtype)


def example_of(options, clouds, points):
    """A stack of some options, points and contexts; None for the contexts where it takes none."""
    stack = make(options)
    torch.manual_seed(1)
    x = torch.randn(clouds, points, options["point_dim"])
    context = options.get("context_dim")
    return stack, x, torch.randn(clouds, 1, context) if context else None


def example(backend, dtype=torch.float32, clouds=3, points=100, **options):
    """A stack, points and contexts."""
    stack = make({**OPTIONS, **options}, dtype)
    pcf.kernels.set_backend(stack, backend)
    torch.manual_seed(1)
    return stack, torch.randn(clouds, points, 3, dtype=dtype), torch.randn(clouds, 1, 5, dtype=dtype)


def evaluate(stack, points, context, inverse):
    """Value, log-determinant, and gradients of a sum that depends on all of them, by name."""
    value, log_det, terms, inputs = _differentiable(stack, points, context, inverse)
    gradients = torch.autograd.grad(terms.sum(), list(inputs.values()))
    return value.detach(), log_det.detach(), dict(zip(inputs, gradients, strict=True))


def _differentiable(stack, points, context, inverse):
    points = points.clone().requires_grad_()
    inputs = {"points": points, **dict(stack.named_parameters())}
    if context is not None:
        context = context.clone().requires_grad_()
        inputs["context"] = context
    method = stack.inverse_and_log_det if inverse else stack.transform_and_log_det
    value, log_det = method(points) if context is None else method(points, context)
    terms = (value * torch.linspace(-1, 2, value.numel()).to(value).view(value.shape)).sum(-1)
    terms = terms + log_det * torch.linspace(1, 3, log_det.numel()).to(value).view(log_det.shape)
    return value, log_det, terms, inputs


def magnitudes(stack, points, context, inverse, groups=16):
    """Norms of what gradients are sums of, by name: of points in groups, without regard to sign."""
    _, _, terms, inputs = _differentiable(stack, points, context, inverse)
    members = torch.arange(terms.numel()).view(terms.shape) % groups
    chosen = torch.stack([(members == group).to(terms) for group in range(groups)])
    gradients = torch.autograd.grad(terms, list(inputs.values()), chosen, is_grads_batched=True)
    return {name: gradient.abs().sum(0).norm().item() for name, gradient in zip(inputs, gradients, strict=True)}


def errors(got, exact, rounding=None):
    """The largest absolute error of a value, and the largest relative one of a gradient.

    What `rounding` has for a gradient is taken from its error first.
    """
    value = max(
        (a.double() - b).abs().max().item() if b.numel() else 0.0 for a, b in zip(got[:2], exact[:2], strict=True)
    )
    gradient = 0.0
    for name, expected in exact[2].items():
        assert got[2][name].shape == expected.shape, name
        if expected.numel():
            error = (got[2][name].double() - expected).norm().item() - (0.0 if rounding is None else rounding[name])
            gradient = max(gradient, error / expected.norm().clamp_min(1e-3).item())
    return value, gradient


def assert_as_exact_as_plain(stack, points, context, inverse, backend):
    """Values and gradients of a backend against float64: to 1e-5, or to what float32 allows, as the plain way shows.

    A gradient that is what large terms of opposite signs leave has their rounding: a few units in their last place.
    """
    exact_context = None if context is None else context.double()
    twin = copy.deepcopy(stack).double()
    exact = evaluate(twin, points.double(), exact_context, inverse)
    pcf.kernels.set_backend(stack, "plain")
    plain = errors(evaluate(stack, points, context, inverse), exact)
    pcf.kernels.set_backend(stack, backend)
    got = evaluate(stack, points, context, inverse)
    fast = errors(got, exact)
    if fast[1] > max(1e-5, 3 * plain[1]):
        pcf.kernels.set_backend(twin, "plain")
        sizes = magnitudes(twin, points.double(), exact_context, inverse)
        fast = errors(got, exact, {name: UNITS * 2.0**-24 * size for name, size in sizes.items()})
    assert fast[0] <= max(1e-5, 3 * plain[0])
    assert fast[1] <= max(1e-5, 3 * plain[1])

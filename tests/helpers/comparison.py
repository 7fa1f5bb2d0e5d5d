"""A stack under test, and how far one way to run it is from another."""

from __future__ import annotations

import copy

import torch

import pyro_pcflow as pcf
from pyro_pcflow.transforms import coupling_stack

INSTRUCTION_SETS = ["avx512", "avx2", "portable"]
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


def example(backend, dtype=torch.float32, clouds=3, points=100, **options):
    """A stack, points and contexts."""
    stack = make({**OPTIONS, **options}, dtype)
    pcf.kernels.set_backend(stack, backend)
    torch.manual_seed(1)
    return stack, torch.randn(clouds, points, 3, dtype=dtype), torch.randn(clouds, 1, 5, dtype=dtype)


def evaluate(stack, points, context, inverse):
    """Value, log-determinant, and gradients of a sum that depends on all of them, by name."""
    points = points.clone().requires_grad_()
    named = {"points": points, **dict(stack.named_parameters())}
    if context is not None:
        context = context.clone().requires_grad_()
        named["context"] = context
    method = stack.inverse_and_log_det if inverse else stack.transform_and_log_det
    value, log_det = method(points) if context is None else method(points, context)
    loss = (value * torch.linspace(-1, 2, value.numel()).to(value).view(value.shape)).sum()
    loss = loss + (log_det * torch.linspace(1, 3, log_det.numel()).to(value).view(log_det.shape)).sum()
    gradients = torch.autograd.grad(loss, list(named.values()))
    return value.detach(), log_det.detach(), dict(zip(named, gradients, strict=True))


def errors(got, exact):
    """The largest absolute error of a value, and the largest relative one of a gradient."""
    value = max(
        (a.double() - b).abs().max().item() if b.numel() else 0.0 for a, b in zip(got[:2], exact[:2], strict=True)
    )
    # A small gradient may be what is left of large terms, whose rounding is that of the large ones.
    smallest = 1e-3 * max(1.0, *(expected.norm().item() for expected in exact[2].values()))
    gradient = 0.0
    for name, expected in exact[2].items():
        assert got[2][name].shape == expected.shape, name
        if expected.numel():
            error = (got[2][name].double() - expected).norm() / expected.norm().clamp_min(smallest)
            gradient = max(gradient, error.item())
    return value, gradient


def assert_as_exact_as_plain(stack, points, context, inverse, backend):
    """Values and gradients of a backend against float64: to 1e-5, or to what float32 allows, as the plain way shows."""
    exact_context = None if context is None else context.double()
    exact = evaluate(copy.deepcopy(stack).double(), points.double(), exact_context, inverse)
    pcf.kernels.set_backend(stack, "plain")
    plain = errors(evaluate(stack, points, context, inverse), exact)
    pcf.kernels.set_backend(stack, backend)
    fast = errors(evaluate(stack, points, context, inverse), exact)
    assert fast[0] <= max(1e-5, 3 * plain[0])
    assert fast[1] <= max(1e-5, 3 * plain[1])

"""The torch custom operator that runs couplings on any backend, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.kernels import tiled
from pyro_pcflow.kernels.cpu import launch as fused_cpu
from pyro_pcflow.kernels.gpu import launch as fused_gpu
from pyro_pcflow.kernels.program import Program, decode
from pyro_pcflow.kernels.reference import evaluate

__all__ = ["couplings", "run"]

Result = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Backend:
    """A backend: functions with the arguments and results of the two operators below, for at least one point."""

    forward: Callable[..., Result]
    backward: Callable[..., Result]


BACKENDS = {
    "tiled": Backend(tiled.forward, tiled.backward),
    "fused": Backend(fused_cpu.forward, fused_cpu.backward),
    "triton": Backend(fused_gpu.forward, fused_gpu.backward),
}


def run(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Carry groups of points through all couplings.

    Args:
        program: the couplings.
        points: shape `(G, N, D)`.
        weights: all matrices, see `Program.split`.
        offsets: shape `(G, M)`, see `Program.split`.
        inverse: from data to noise, or back.
        backend: a name of `BACKENDS`.

    Returns:
        Points, shape `(G, N, D)`, and the log-determinant, shape `(G, N)`.
    """
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (points, weights, offsets))
    out, log_det, _ = couplings(
        points, weights, offsets, program.code(), program.limits(), inverse, differentiable, backend
    )
    return out, log_det


@torch.library.custom_op("pyro_pcflow::couplings", mutates_args=())
def couplings(
    points: Tensor,
    weights: Tensor,
    offsets: Tensor,
    code: Sequence[int],
    limits: Sequence[float],
    inverse: bool,
    save: bool,
    backend: str,
) -> Result:
    """Carry groups of points through all couplings, see `run`.

    Args:
        points: shape `(G, N, D)`.
        weights: all matrices.
        offsets: shape `(G, M)`.
        code: see `Program.code`.
        limits: see `Program.limits`.
        inverse: from data to noise, or back.
        save: keep what a backward pass needs.
        backend: a name of `BACKENDS`.

    Returns:
        Points, log-determinants, and the coordinates that the couplings overwrote, shape `(moved, G, N)`, or nothing.
    """
    program = decode(tuple(code), tuple(limits))
    if points.numel() == 0:
        return program.results(points, save)
    arguments = (points.contiguous(), weights.contiguous(), offsets.contiguous())
    return BACKENDS[backend].forward(program, *arguments, inverse, save)


@couplings.register_fake
def _(
    points: Tensor,
    weights: Tensor,
    offsets: Tensor,
    code: Sequence[int],
    limits: Sequence[float],
    inverse: bool,
    save: bool,
    backend: str,
) -> Result:
    return decode(tuple(code), tuple(limits)).results(points, save)


@torch.library.custom_op("pyro_pcflow::couplings_backward", mutates_args=())
def couplings_backward(
    out: Tensor,
    saved: Tensor,
    weights: Tensor,
    offsets: Tensor,
    grad_out: Tensor,
    grad_log_det: Tensor,
    code: Sequence[int],
    limits: Sequence[float],
    inverse: bool,
    of_weights: bool,
    backend: str,
) -> Result:
    """The gradients of points, weights and offsets; those of the weights are empty unless they are wanted."""
    program = decode(tuple(code), tuple(limits))
    if out.numel() == 0:
        return _no_gradients(out, weights, offsets, of_weights)
    arguments = [x.contiguous() for x in (out, saved, weights, offsets, grad_out, grad_log_det)]
    return BACKENDS[backend].backward(program, *arguments, inverse, of_weights)


@couplings_backward.register_fake
def _(
    out: Tensor,
    saved: Tensor,
    weights: Tensor,
    offsets: Tensor,
    grad_out: Tensor,
    grad_log_det: Tensor,
    code: Sequence[int],
    limits: Sequence[float],
    inverse: bool,
    of_weights: bool,
    backend: str,
) -> Result:
    return _no_gradients(out, weights, offsets, of_weights)


def _no_gradients(out: Tensor, weights: Tensor, offsets: Tensor, of_weights: bool) -> Result:
    """Zeros in the shapes of the gradients of points, weights and offsets."""
    return torch.zeros_like(out), weights.new_zeros(weights.shape if of_weights else 0), torch.zeros_like(offsets)


def _keep_for_backward(ctx: Any, inputs: tuple, output: Result) -> None:
    points, weights, offsets, ctx.code, ctx.limits, ctx.inverse, _, ctx.backend = inputs
    out, _, saved = output
    ctx.save_for_backward(points, weights, offsets, out, saved)


def _backward(ctx: Any, grad_out: Tensor | None, grad_log_det: Tensor | None, _: Tensor | None) -> tuple:
    points, weights, offsets, out, saved = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    grad_log_det = out.new_zeros(out.shape[:-1]) if grad_log_det is None else grad_log_det
    wanted = ctx.needs_input_grad[:3]
    gradients: Sequence[Tensor | None]
    if torch.is_grad_enabled():
        # These gradients may be differentiated again, which only the reference can.
        gradients = _reference_gradients(ctx, (points, weights, offsets), wanted, (grad_out, grad_log_det))
    else:
        gradients = couplings_backward(
            out,
            saved,
            weights,
            offsets,
            grad_out,
            grad_log_det,
            ctx.code,
            ctx.limits,
            ctx.inverse,
            wanted[1],
            ctx.backend,
        )
        gradients = [gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)]
    return (*gradients, None, None, None, None, None)


def _reference_gradients(
    ctx: Any, inputs: tuple[Tensor, ...], wanted: Sequence[bool], gradients: tuple[Tensor, Tensor]
) -> list[Tensor | None]:
    points, weights, offsets = inputs
    result = evaluate(decode(tuple(ctx.code), tuple(ctx.limits)), points, weights, offsets, ctx.inverse)
    sources = [x for x, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(result, sources, gradients, create_graph=True))
    return [next(found) if want else None for want in wanted]


couplings.register_autograd(_backward, setup_context=_keep_for_backward)

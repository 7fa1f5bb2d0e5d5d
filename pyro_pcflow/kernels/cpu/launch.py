"""The kernel in C++: a whole stack, tile by tile, on all cores of a processor."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from pyro_pcflow.kernels.cpu.build import compiled
from pyro_pcflow.kernels.cpu.threads import team
from pyro_pcflow.kernels.program import Program

__all__ = ["backward", "forward", "load"]


@lru_cache
def load(instruction_set: str | None = None) -> ctypes.CDLL:
    """The compiled kernel, for the best instruction set of this machine by default.

    Raises:
        KernelUnavailableError: if it cannot be compiled here, or the machine has no such instructions.
    """
    return compiled("fused", instruction_set)


def forward(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pyro_pcflow.kernels.operator.couplings`; float32 on a CPU."""
    out, log_det, saved = program.results(points, save)
    arrays = (points, weights, offsets, out, log_det, saved if save else None)
    _call(load().pcf_run, program, points.shape, inverse, arrays)
    return out, log_det, saved


def backward(
    program: Program,
    out: Tensor,
    saved: Tensor,
    weights: Tensor,
    offsets: Tensor,
    grad_out: Tensor,
    grad_log_det: Tensor,
    inverse: bool,
    of_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `pyro_pcflow.kernels.operator.couplings_backward`; float32 on a CPU."""
    grad_points = torch.empty_like(out)
    grad_weights = weights.new_empty(weights.shape if of_weights else 0)
    grad_offsets = torch.empty_like(offsets)
    inputs = (out, saved, weights, offsets, grad_out, grad_log_det)
    outputs = (grad_points, grad_weights if of_weights else None, grad_offsets)
    _call(load().pcf_run_backward, program, out.shape, inverse, (*inputs, *outputs))
    return grad_points, grad_weights, grad_offsets


def _call(
    function: ctypes._NamedFuncPointer,
    program: Program,
    shape: torch.Size,
    inverse: bool,
    arrays: tuple[Tensor | None, ...],
) -> None:
    code, limits = program.code(), program.limits()
    status = function(
        (ctypes.c_int32 * len(code))(*code),
        (ctypes.c_float * len(limits))(*limits),
        ctypes.c_int(inverse),
        ctypes.c_int64(shape[0]),
        ctypes.c_int64(shape[1]),
        *[ctypes.c_void_p(None if x is None else x.data_ptr()) for x in arrays],
        ctypes.c_int(torch.get_num_threads()),
        team(),
    )
    if status == 2:
        raise RuntimeError("the fused kernel counted too little scratch memory: a bug of pyro_pcflow, please report it")
    if status != 0:
        raise MemoryError(f"no memory for the fused kernel over points of shape {tuple(shape)}")

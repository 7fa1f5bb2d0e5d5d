"""Warm-up: what a process does at first use, before the clock of a training starts."""

from __future__ import annotations

import logging
from types import TracebackType

import torch
from torch import nn

from pyro_pcflow.ops.random import seeded
from pyro_pcflow.transforms.backend import HAS_KERNELS
from pyro_pcflow.transforms.stack import ConditionalCouplingStack, CouplingStack, coupling_stack

if HAS_KERNELS:
    from pyro_pcflow.kernels.dispatch import MAX_COORDINATES, BackgroundCompile, is_fused_ready

__all__ = ["WarmUp"]

logger = logging.getLogger(__name__)


class WarmUp:
    """Compiles the kernel that a training needs, and takes a step of another flow, before its clock starts.

    A context around the training. Where the kernel is not ready when the training must start, stacks run in torch, and
    change over between two steps, since a backward pass belongs to its forward pass.

    Args:
        module: what is trained; it is not evaluated, so that nothing in it changes.
        device: where.
        patience: seconds to wait for the kernel; None for no limit.
    """

    def __init__(self, module: nn.Module, device: torch.device, patience: float | None) -> None:
        self._compile: BackgroundCompile | None = None
        self._threads = 0
        choices = _kernel_choices(module, device) if HAS_KERNELS else set()
        if choices and not is_fused_ready():
            # A stack that must not run in torch waits in any case.
            self._compile_kernel(None if "fused" in choices else patience)
        _take_a_step(device, "auto" if choices else "plain")

    def _compile_kernel(self, patience: float | None) -> None:
        compile = BackgroundCompile()
        try:
            # Without a compiler it is over at once, and stacks say so.
            if not compile.wait(0.5) and patience is not None:
                logger.warning("training starts when the kernel is compiled, or in %.0f s in torch", patience)
            ended = compile.wait(patience)
        except BaseException:
            compile.take()
            raise
        if ended:
            compile.take()
            return
        logger.warning("training starts in torch, and changes over to the kernel when it is compiled")
        self._compile = compile

    def __enter__(self) -> WarmUp:
        if self._compile is not None:
            # Threads that wait for one whose core the compiler has make steps of seconds out of milliseconds.
            self._threads = torch.get_num_threads()
            torch.set_num_threads(max(1, self._threads - 1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._compile is not None:
            self._take_kernel(self._compile)

    def between_steps(self, step: int) -> None:
        """Change over to the kernel, if it has been compiled meanwhile."""
        if self._compile is not None and self._compile.wait(0):
            self._take_kernel(self._compile)
            if is_fused_ready():
                logger.warning("training changes over to the compiled kernel after step %d", step)

    def _take_kernel(self, compile: BackgroundCompile) -> None:
        torch.set_num_threads(self._threads)
        compile.take()
        self._compile = None


def _kernel_choices(module: nn.Module, device: torch.device) -> set[str]:
    """The backends of the stacks that the fused kernel may run."""
    return {
        stack.backend
        for stack in module.modules()
        if isinstance(stack, CouplingStack | ConditionalCouplingStack)
        and device.type == "cpu"
        and stack.backend in ("auto", "fused")
        and stack.point_dim <= MAX_COORDINATES
        and any(parameter.dtype == torch.float32 for parameter in stack.parameters())
    }


def _take_a_step(device: torch.device, backend: str) -> None:
    """Import what torch imports at its first operators and steps, and have threads and libraries started."""
    with seeded(0, device):
        stack = coupling_stack(2, num_couplings=1, hidden_dims=[8], backend=backend).to(device)
        optimizer = torch.optim.AdamW(stack.parameters(), fused=True)
        points, log_det = stack.inverse_and_log_det(torch.randn(2000, 2, device=device))
        (points.sum() + log_det.sum()).backward()
        optimizer.step()

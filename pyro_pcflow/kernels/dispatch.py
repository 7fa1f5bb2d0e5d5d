"""Dispatch: which backends this machine has, and which one a stack takes."""

from __future__ import annotations

import logging
import platform
import threading
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_pcflow.kernels.cpu import launch as fused_cpu
from pyro_pcflow.kernels.cpu.build import KernelUnavailableError, instruction_sets, is_kept
from pyro_pcflow.kernels.gpu import launch as fused_gpu
from pyro_pcflow.kernels.program import MAX_COORDINATES
from pyro_pcflow.ops.backends import HasBackend, check_backend
from pyro_pcflow.ops.tracing import in_function_transform

__all__ = [
    "Availability",
    "BackgroundCompile",
    "available",
    "choose",
    "is_fused_ready",
    "set_backend",
]

logger = logging.getLogger(__name__)

# Below, a stack takes longer to describe than to evaluate.
FEW_POINTS, FEW_IN_A_GROUP = 64, 4
# Below, tiles in torch are no faster than layers.
FEW_IN_TILES = 1000
# Whether the compiled kernel has been loaded.
_loaded = False
# The kernel that is being compiled, while stacks run in torch.
_meanwhile: BackgroundCompile | None = None


class Availability(NamedTuple):
    """Whether a backend is available.

    Attributes:
        ok: whether it is.
        detail: what it is, or why it is not available.
    """

    ok: bool
    detail: str


class BackgroundCompile:
    """Compiles the fused kernel in a thread; stacks that may choose run in torch until it is taken.

    Examples:
        >>> compile = BackgroundCompile()  # doctest: +SKIP
        >>> compile.wait(5.0)  # doctest: +SKIP
        False
        >>> compile.take()  # doctest: +SKIP
    """

    def __init__(self) -> None:
        global _meanwhile
        _meanwhile = self
        # It ends with the process: a training of a second is not to wait for a minute.
        self._thread = threading.Thread(target=_fused, name="compiling the fused kernel", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it ends, or for some seconds; returns whether it has ended, well or not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def take(self) -> None:
        """Let stacks take the kernel, from their next call on or from the moment when it is there."""
        global _meanwhile
        if self.wait(0):
            _meanwhile = None
        else:
            threading.Thread(target=self._take_later, daemon=True).start()

    def _take_later(self) -> None:
        self.wait()
        self.take()


def available() -> dict[str, Availability]:
    """List the backends of this machine, with the reason where one is not available.

    The fused kernel is compiled at its first use, which may be this call. Within `torch.compile` it is taken only if
    it has been used before, or this function has been called.

    Returns:
        By name: `"plain"`, layer by layer in torch; `"tiled"`, tile by tile in torch; `"fused"`, compiled; `"triton"`,
        compiled for a GPU.

    Examples:
        >>> available()["plain"].ok
        True
    """
    return {
        "plain": Availability(True, "layer by layer: any data type, device and layer, and derivatives of any order"),
        "tiled": Availability(True, "tile by tile, in torch: float32 and float64 on a CPU, in little memory"),
        "fused": _fused(),
        "triton": _triton(),
    }


def set_backend(module: nn.Module, name: str) -> None:
    """Set the backend of all stacks within a module, `"auto"` by default.

    Args:
        module: a flow, a model, a stack; modules that are not of this library are left as they are.
        name: `"auto"`, the fastest; or `"plain"`, `"tiled"`, `"fused"` or `"triton"`, see `available`. Layers, data
            types and transformations of torch that a kernel does not support run layer by layer as with `"plain"`,
            and float64 with `"fused"` runs as with `"tiled"`.

    Raises:
        ValueError: if there is no such backend.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> flow = pcf.PointCloudFlow(3)
        >>> set_backend(flow, "plain")
        >>> flow.transform.backend
        'plain'
    """
    check_backend(name)
    for part in module.modules():
        if isinstance(part, HasBackend):
            part.backend = name


def choose(wanted: str, points: Tensor, groups: int) -> str:
    """The backend that runs couplings: `"plain"`, `"tiled"`, `"fused"` or `"triton"`.

    Args:
        wanted: one of `pyro_pcflow.ops.backends.BACKENDS`.
        points: as they come, shape `(*batch, D)`.
        groups: how many contexts they have.

    Raises:
        ValueError: if a compiled kernel is wanted and cannot be had.
    """
    if (
        wanted == "plain"
        or points.device.type not in ("cpu", "cuda")
        or points.dtype not in (torch.float32, torch.float64)
        or points.shape[-1] > MAX_COORDINATES
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled(points.device.type)
    ):
        return "plain"
    on_gpu = wanted == "triton" or points.device.type == "cuda"
    if torch.compiler.is_compiling():
        # torch.compile can neither look for a compiler nor decide anew for every number of points.
        return _compiled_by_torch(wanted, points, on_gpu)
    count = points.numel() // points.shape[-1]
    # Scales and offsets of each group are computed for all layers at once: too many if every point is a group.
    few = count < FEW_IN_A_GROUP * groups or (count < FEW_POINTS and not on_gpu)
    if in_function_transform() or (wanted == "auto" and few):
        return "plain"
    if on_gpu:
        return _choose_on_gpu(wanted, points)
    in_torch = "plain" if wanted == "auto" and count < FEW_IN_TILES else "tiled"
    if wanted == "tiled" or points.dtype == torch.float64:
        return in_torch
    if _meanwhile is not None and wanted == "auto":
        return in_torch
    fused = _fused()
    if fused.ok:
        return "fused"
    if wanted == "fused":
        raise ValueError(f"the backend 'fused' was asked for, but {fused.detail}; 'auto' takes what there is")
    _say_once("in torch", fused.detail)
    return in_torch


def _choose_on_gpu(wanted: str, points: Tensor) -> str:
    if wanted not in ("auto", "triton") or points.dtype == torch.float64:
        return "plain"
    triton = _triton_for(points)
    if triton.ok:
        return "triton"
    if wanted == "triton":
        raise ValueError(f"the backend 'triton' was asked for, but {triton.detail}; 'auto' takes what there is")
    _say_once("layer by layer in torch", triton.detail)
    return "plain"


def _compiled_by_torch(wanted: str, points: Tensor, on_gpu: bool) -> str:
    if on_gpu:
        fits = wanted in ("auto", "triton") and points.dtype == torch.float32 and _triton_for(points).ok
        return "triton" if fits else "plain"
    if wanted == "tiled" or (wanted == "fused" and points.dtype == torch.float64):
        return "tiled"
    return "fused" if _loaded and points.dtype == torch.float32 else "plain"


def is_fused_ready() -> bool:
    """Whether the fused kernel runs here without being compiled first."""
    return _loaded or is_kept("fused", instruction_sets()[0])


@lru_cache
def _fused() -> Availability:
    global _loaded
    try:
        fused_cpu.load()
    except KernelUnavailableError as error:
        return Availability(False, str(error))
    _loaded = True
    return Availability(True, f"compiled for {instruction_sets()[0]}: float32 on a CPU")


def _triton() -> Availability:
    if not fused_gpu.TRITON:
        return Availability(False, f"Triton, which CUDA builds of torch bring, is not installed ({platform.system()})")
    if fused_gpu.INTERPRETED:
        return Availability(True, "interpreted, for tests: float32, slowly")
    if torch.version.cuda is None or not torch.cuda.is_available():
        return Availability(False, "torch sees no CUDA device")
    return Availability(True, "one kernel in Triton: float32 on a CUDA device")


def _triton_for(points: Tensor) -> Availability:
    triton = _triton()
    if triton.ok and points.device.type == "cpu" and not fused_gpu.INTERPRETED:
        return Availability(False, "the points are on a CPU")
    return triton


@lru_cache
def _say_once(how: str, reason: str) -> None:
    logger.warning("stacks run %s, without a compiled kernel: %s", how, reason)

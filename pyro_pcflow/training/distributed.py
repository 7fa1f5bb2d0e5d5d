"""The processes of a training: one, or those that `torchrun` started."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
from torch import Tensor

__all__ = ["Processes", "start_processes"]


class Processes:
    """The processes that share a training: their ranks, and how they communicate.

    Args:
        fabric: a launched `lightning.fabric.Fabric`, or None for one process alone.
    """

    def __init__(self, fabric: Any = None) -> None:
        self._fabric = fabric
        self.rank: int = 0 if fabric is None else fabric.global_rank
        self.size: int = 1 if fabric is None else fabric.world_size

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and shows progress."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """The device of this process; None where there is one process, which may choose."""
        return None if self._fabric is None else self._fabric.device

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        return tensor if self._fabric is None else self._fabric.all_reduce(tensor, reduce_op="mean")

    def from_first(self, value: Any) -> Any:
        """The value of the first process, on all (a broadcast)."""
        return value if self._fabric is None else self._fabric.broadcast(value)

    def wait(self) -> None:
        """Wait until all processes have come here (a barrier)."""
        if self._fabric is not None:
            self._fabric.barrier()


def start_processes(device: str | torch.device) -> Processes:
    """Join the processes that `torchrun` started; without it, there is one.

    Args:
        device: "auto", "cpu" or "cuda"; which GPU a process takes is decided by its number.

    Raises:
        ImportError: if lightning-fabric is missing.
        ValueError: if a single GPU is named.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    kind = str(device)
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"under torchrun, device must be auto, cpu or cuda, got {kind!r}: each process takes its own")
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ImportError(
            "torchrun started several processes, which train together through lightning-fabric: "
            "pip install 'pyro-pcflow[distributed]'"
        ) from error
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=world // local, strategy="ddp")
    fabric.launch()
    atexit.register(_leave)
    return Processes(fabric)


def _leave() -> None:
    # Lightning does so for GPUs alone; the threads of a group that is still there may abort a process that ends.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""Random numbers from a seed: blocks that leave the caller's generators as they were, and named generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["restored_generators", "seeded", "seeded_generator"]


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw random numbers from a seed, and leave the caller's generators as they were.

    Args:
        seed: of the generator of the CPU, and of that of `device`.
        device: the device that is drawn on; by default the current GPU, if this process has used one.

    Examples:
        >>> with seeded(7):
        ...     first = torch.randn(3)
        >>> with seeded(7):
        ...     second = torch.randn(3)
        >>> torch.equal(first, second)
        True
    """
    with restored_generators(device):
        # torch.manual_seed would also seed GPUs that are not ours.
        torch.default_generator.manual_seed(seed)
        for index in _gpus(device):
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def restored_generators(device: torch.device | None = None) -> Iterator[None]:
    """Leave the generators of the CPU and of a device as they were before the block; `device` is as of `seeded`."""
    with torch.random.fork_rng(devices=_gpus(device)):
        yield


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """A generator of the CPU for one purpose.

    Examples:
        >>> torch.randperm(4, generator=seeded_generator(0, "split")).tolist()
        [0, 2, 3, 1]
    """
    # Streams of neighbouring seeds must not overlap, so each gets a hash of its own.
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _gpus(device: torch.device | None) -> list[int]:
    if device is None:
        # A GPU that was never used holds no model that could draw on it.
        return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]

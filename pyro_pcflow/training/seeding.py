"""Random numbers from a seed, without a trace in the caller's generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from a seed, and leave the caller's generators as they were.

    Args:
        seed: of the generator of the CPU, and of that of `device`.
        device: the device that is drawn on.

    Examples:
        >>> with seeded(7, torch.device("cpu")):
        ...     first = torch.randn(3)
        >>> with seeded(7, torch.device("cpu")):
        ...     second = torch.randn(3)
        >>> torch.equal(first, second)
        True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would also seed GPUs that are not ours.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield

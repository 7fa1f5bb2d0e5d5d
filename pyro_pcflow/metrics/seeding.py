"""Random numbers from a seed, for callers that hand over a model and not its device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded_draws"]


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed on the CPU and the current GPU, and leave the caller's generators as they were.

    Args:
        seed: of the generators.

    Examples:
        >>> with seeded_draws(7):
        ...     first = torch.randn(3)
        >>> with seeded_draws(7):
        ...     second = torch.randn(3)
        >>> torch.equal(first, second)
        True
    """
    # A GPU that nobody has touched holds no model that could draw on it.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield

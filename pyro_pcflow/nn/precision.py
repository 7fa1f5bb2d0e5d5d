"""Hidden layers in half of the bits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["hidden_layers_in"]


def hidden_layers_in(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """A context in which matrix products are rounded to `dtype`, or in which nothing changes for None.

    Networks of this library evaluate their hidden layers in it, never their last layer: what is added up to a
    log-determinant has the parameters' own precision.

    Args:
        dtype: `torch.bfloat16`, or None.
        device: where the products are taken.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

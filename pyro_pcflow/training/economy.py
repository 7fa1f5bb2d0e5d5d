"""Ways to spend less memory and time on a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["economical"]


@contextmanager
def economical(module: nn.Module, hidden_dtype: torch.dtype | None, recompute: bool) -> Iterator[None]:
    """Set how the networks of a module round their hidden layers and whether its stacks recompute them, for a while.

    A backward pass belongs into the same context as its forward pass, which it may repeat.

    Args:
        module: the module; what it was set to is restored.
        hidden_dtype: see `hidden_layers_in`.
        recompute: see `fit`.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> net = Conditioner(2, [1], [8])
        >>> with economical(net, torch.bfloat16, recompute=False):
        ...     net.hidden_dtype
        torch.bfloat16
        >>> net.hidden_dtype is None
        True
    """
    wanted = {"hidden_dtype": hidden_dtype, "recompute": recompute}
    changed = [(layer, name) for name in wanted for layer in module.modules() if hasattr(layer, name)]
    before = [getattr(layer, name) for layer, name in changed]
    try:
        for layer, name in changed:
            setattr(layer, name, wanted[name])
        yield
    finally:
        for (layer, name), value in zip(changed, before, strict=True):
            setattr(layer, name, value)

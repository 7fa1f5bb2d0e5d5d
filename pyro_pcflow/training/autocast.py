"""Autocast of hidden layers and activation checkpointing of stacks, within a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pyro_pcflow.nn import CloudEncoder, Conditioner
from pyro_pcflow.transforms.stack import ConditionalCouplingStack, CouplingStack

__all__ = ["autocast"]


@contextmanager
def autocast(module: nn.Module, hidden_dtype: torch.dtype | None, recompute: bool) -> Iterator[None]:
    """Set the data type of the hidden layers of a module's networks, and whether its stacks recompute them.

    A backward pass belongs in the same block as its forward pass, which it may repeat. Modules that are not of this
    library are left alone.

    Args:
        module: the module, which gets back what it was set to.
        hidden_dtype: `torch.bfloat16`, or None for that of the parameters.
        recompute: see `Optimization`.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> net = Conditioner(2, [1], [8])
        >>> with autocast(net, torch.bfloat16, recompute=False):
        ...     net.hidden_dtype
        torch.bfloat16
        >>> net.hidden_dtype is None
        True
    """
    networks = [layer for layer in module.modules() if isinstance(layer, Conditioner | CloudEncoder)]
    stacks = [layer for layer in module.modules() if isinstance(layer, CouplingStack | ConditionalCouplingStack)]
    dtypes, recomputed = [network.hidden_dtype for network in networks], [stack.recompute for stack in stacks]
    try:
        for network in networks:
            network.hidden_dtype = hidden_dtype
        for stack in stacks:
            stack.recompute = recompute
        yield
    finally:
        for network, before in zip(networks, dtypes, strict=True):
            network.hidden_dtype = before
        for stack, recomputing in zip(stacks, recomputed, strict=True):
            stack.recompute = recomputing

"""Divergence: where a loss, a gradient or a weight stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.training.objective import one_pass_methods

__all__ = ["TrainingDivergedError", "find_first_nonfinite"]


class TrainingDivergedError(RuntimeError):
    """Training met a loss, a gradient or a weight that is not finite.

    Attributes:
        step: the step that failed, counted from 1.
        first_nonfinite: where the first value that is not finite came from, in words, or None if a second pass over
            the same batch was finite.

    Examples:
        >>> error = TrainingDivergedError("the loss is nan", step=7, first_nonfinite="layer 'a'")
        >>> error.step
        7
    """

    def __init__(self, message: str, *, step: int, first_nonfinite: str | None) -> None:
        super().__init__(message)
        self.step = step
        self.first_nonfinite = first_nonfinite


def find_first_nonfinite(module: nn.Module, loss: Callable[[Any], Tensor], batch: Any) -> str | None:
    """Evaluate a batch once more and find the first layer whose output is not finite.

    The first in the order of execution; if every output is finite, the first parameter whose gradient is not.

    Args:
        module: the module whose layers are watched; its gradients are overwritten.
        loss: evaluates the module on the batch.
        batch: what the loss takes.

    Returns:
        A phrase that names the layer or parameter, or None if everything was finite.

    Examples:
        >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> _ = layers[1].weight.data.fill_(float("inf"))
        >>> find_first_nonfinite(layers, lambda batch: layers(batch).mean(), torch.ones(4, 2))
        "the output of layer '1' (Linear)"
    """
    found: list[str] = []
    value: Tensor | None = None
    with _watched(module, found), torch.enable_grad():
        try:
            value = loss(batch)
        except ValueError:
            # Distributions that validate their arguments raise on the very values that are looked for.
            if not found:
                raise
    if found:
        return found[0]
    if value is None or not bool(value.isfinite()):
        return "the loss, though every layer's output is finite"
    for parameter in module.parameters():
        parameter.grad = None
    value.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of parameter {name!r}"
    return None


@contextmanager
def _watched(module: nn.Module, found: list[str]) -> Iterator[None]:
    """Note in `found` every layer whose output is not finite, in the order of execution."""

    def note(name: str, layer: nn.Module, output: Any) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
            where = f"layer {name!r}" if name else "the module itself"
            found.append(f"the output of {where} ({type(layer).__name__})")

    handles = []
    wrapped: list[tuple[nn.Module, str]] = []
    try:
        for name, layer in module.named_modules():
            handles.append(layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output)))
            for method, call in one_pass_methods(layer).items():
                object.__setattr__(layer, method, _noting(call, name, layer, note))
                wrapped.append((layer, method))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, method in wrapped:
            object.__delattr__(layer, method)


def _noting(method: Callable, name: str, layer: nn.Module, note: Callable[[str, nn.Module, Any], None]) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        output = method(*args, **kwargs)
        note(name, layer, output)
        return output

    return call


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from _tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)

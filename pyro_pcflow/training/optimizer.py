"""Optimizers of the vector of all weights: Adam, or one that a user's factory makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["OptimizerFactory", "adam", "build", "options_of", "rate_of", "weight_decays"]

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def adam(lr: float, betas: tuple[float, float]) -> OptimizerFactory:
    """The factory of the optimizer that is used by default: Adam, as weights decay apart, each as it should."""
    return partial(torch.optim.AdamW, lr=lr, betas=betas, weight_decay=0.0, fused=True)


def weight_decays(module: nn.Module, weight_decay: float | Mapping[str, float]) -> dict[str, float]:
    """The weight decay of each parameter that is trained and has one; of two parts that hold it, the inner one decides.

    Args:
        module: has the parameters.
        weight_decay: of all, or of parts by their names.

    Raises:
        ValueError: if there is no such part.
    """
    parts = weight_decay if isinstance(weight_decay, Mapping) else {"": weight_decay}
    names = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    found: dict[str, float] = {}
    # A part comes before those inside it, whose names go on from its own.
    for part in sorted(parts):
        inside = [name for name in names if not part or name == part or name.startswith(f"{part}.")]
        if not inside:
            raise ValueError(
                f"weight_decay: {type(module).__name__} has no part {part!r} with parameters; it has "
                f"{', '.join(dict.fromkeys(name.split('.')[0] for name in names))}"
            )
        found.update({name: parts[part] for name in inside if names[name]})
    return {name: decay for name, decay in found.items() if decay}


def build(factory: OptimizerFactory, values: nn.Parameter) -> torch.optim.Optimizer:
    """An optimizer of one vector.

    Raises:
        TypeError: if the factory returns something else.
        ValueError: if it is of other parameters, or has no learning rate.
    """
    expected = (
        "optimizer must be a function from a list of parameters to a torch.optim.Optimizer, such as lambda "
        "parameters: torch.optim.AdamW(parameters, lr=1e-3)"
    )
    if not callable(factory):
        raise TypeError(f"{expected}; got a {type(factory).__name__}")
    optimizer: Any = factory([values])
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{expected}; it returned a {type(optimizer).__name__}")
    groups = optimizer.param_groups
    if len(groups) != 1 or len(groups[0]["params"]) != 1 or groups[0]["params"][0] is not values:
        raise ValueError(
            "optimizer: expected one group with the parameters that it was given, a list of one vector of all weights; "
            f"got {len(groups)} groups"
        )
    rate = groups[0].get("lr")
    if isinstance(rate, Tensor) or not isinstance(rate, int | float) or not rate > 0:
        raise ValueError(f"optimizer: expected a learning rate above 0, as a number, got {rate!r}")
    return optimizer


def rate_of(optimizer: torch.optim.Optimizer) -> float:
    """Its learning rate."""
    return float(optimizer.param_groups[0]["lr"])


def options_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Class and options but the learning rate, in plain values."""
    group = {name: value for name, value in optimizer.param_groups[0].items() if name not in ("params", "lr")}
    return {"class": type(optimizer).__name__, **{name: value for name, value in group.items() if _is_plain(value)}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, bool | int | float | str)

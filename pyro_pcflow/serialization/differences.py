"""What a module has that a new one of its configuration would not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.reading import phrase, shortened
from pyro_pcflow.serialization.classes import Classes, Configured, plain

__all__ = ["difference", "difference_of_states", "skeleton"]

# Of an option in an error.
MOST_CHARACTERS = 80
# What a module says of its own use, which is no part of what it computes; states are compared as such.
OWN_AFFAIRS = {"training", "backend", "recompute", "hidden_dtype", "initialized", "fitted", "views", "completer"}


def skeleton(classes: Classes, name: str, config: dict[str, Any], most: int) -> nn.Module:
    """A module without memory for its weights, which all sizes take equally long to build."""
    with torch.device("meta"):
        return classes.make(name, config, most)


def difference(module: nn.Module, name: str, config: dict[str, Any], classes: Classes, most: int) -> str | None:
    """Say what of a module a new one of its configuration would not have; None if they are alike."""
    try:
        new = skeleton(classes, name, config, most)
    except Exception as error:  # a configuration that was edited reaches into any constructor
        return f"its config makes no {name} ({phrase(error)})"
    parts, new_parts = dict(module.named_modules()), dict(new.named_modules())
    for key in [*new_parts, *(key for key in parts if key not in new_parts)]:
        where = f"its part {key!r}" if key else "it"
        if key not in parts or key not in new_parts:
            return f"{where} is {'missing' if key in new_parts else 'not described by its config'}"
        found = _difference_of_parts(parts[key], new_parts[key])
        if found is not None:
            return f"{where} {found}"
    for kind in ("parameters", "buffers"):
        names = [sorted(key for key, _ in getattr(one, f"named_{kind}")()) for one in (module, new)]
        if names[0] != names[1]:
            changed = sorted({*names[0]} ^ {*names[1]})
            return f"its {kind} differ from those that its config describes: {', '.join(changed[:3])}"
    return difference_of_states(module.state_dict(), new.state_dict())


def difference_of_states(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """Say in which entry a state differs from that of a new module in more than its numbers."""
    for key in [*expected, *(key for key in state if key not in expected)]:
        if key not in state or key not in expected:
            return f"the weights have {'no' if key in expected else 'an unexpected'} entry {shortened(key)}"
        value, new = state[key], expected[key]
        if not isinstance(new, Tensor):
            if type(value) is not type(new) or {k: type(v) for k, v in value.items()} != {
                k: type(v) for k, v in new.items()
            }:
                return f"the entry {key!r} is {shortened(value)} of another form"
        elif not isinstance(value, Tensor):
            return f"the entry {key!r} is {shortened(value)}, not a tensor"
        elif value.shape != new.shape:
            return f"{key!r} has the shape {tuple(value.shape)}, where the configuration makes {tuple(new.shape)}"
        elif value.is_floating_point() != new.is_floating_point() or (
            not new.is_floating_point() and value.dtype != new.dtype
        ):
            return f"{key!r} is of {value.dtype}, where the configuration makes {new.dtype}"
    return None


def _difference_of_parts(part: nn.Module, new: nn.Module) -> str | None:
    if type(part) is not type(new):
        return f"is a {type(part).__name__}, where its config makes a {type(new).__name__}"
    # Those that may change what the module computes, or what its state holds.
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._state_dict_hooks, part._load_state_dict_pre_hooks)
    if any(len(own) for own in hooks):
        return "has a hook, which no file keeps: remove it by its handle"
    for key, value in vars(part).items():
        if key.startswith("_") or key in OWN_AFFAIRS:
            continue
        found = _difference_of_attributes(key, value, part, new)
        if found is not None:
            return found
    return None


def _difference_of_attributes(key: str, value: Any, owner: Any, new: Any) -> str | None:
    """Say how an attribute of `owner` differs from that of `new`, an object of the same class."""
    if key not in vars(new):
        return f"has a method {key} of its own" if callable(value) and key in dir(type(owner)) else None
    expected = vars(new)[key]
    if value is expected:
        return None
    if isinstance(value, Configured) and not isinstance(value, type | nn.Module) and type(value) is type(expected):
        # An elementwise map, whose attributes its own config may have left out.
        differences = (_difference_of_attributes(k, v, value, expected) for k, v in vars(value).items())
        first = next(filter(None, differences), None)
        return None if first is None else f"has {key}, which {first}"
    try:
        found, expected = plain(value, key), plain(expected, key)
    except TypeError:
        return f"has {key}, {shortened(value)}, which no file keeps"
    if _alike(found, expected):
        return None
    shown = [repr(value)[:MOST_CHARACTERS] for value in (found, expected)]
    return f"has {key}={shown[0]}, where its config makes {shown[1]}"


def _alike(one: Any, other: Any) -> bool:
    """Whether plain values are the same; tensors, of which the new ones have no values, only in shape and type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other

"""What a checkpoint must hold before anything of it is taken over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.reading import phrase, shortened

__all__ = ["check_checkpoint"]

# Adam counts its steps in float32, which holds whole numbers up to here.
MOST_COUNTED = 2**24


def check_checkpoint(
    state: Mapping[str, Any], module: nn.Module, weights: Tensor, averages: Mapping[str, Tensor]
) -> None:
    """See that the state of a training fits a module: names, shapes, types, finite numbers, and counters.

    torch believes what it is given: moments of another size than the weights end the process.

    Args:
        state: from `RunFolder.read_checkpoint`.
        module: the module that is trained.
        weights: its trained weights as one vector.
        averages: names and shapes of the averaged weights.

    Raises:
        ValueError: naming what does not fit; nothing has been changed then.
    """
    step = _number(state, "step", int)
    _number(state, "seconds", float, int)
    _check_tensors(_entries(state, "module"), module.state_dict(), "module", finite=[*averages])
    _check_tensors(_entries(state, "averages"), averages, "averages", finite=[*averages])
    _check_optimizer(_entries(state, "optimizer"), weights, step)
    scores = _entries(state, "scores")
    if not all(type(name) is str and type(score) in (float, int, type(None)) for name, score in scores.items()):
        raise ValueError("scores: expected a number for each name")
    window = state.get("window")
    sums: list[Any] = [*window] if isinstance(window, list | tuple) else []
    if [type(value) for value in sums] != [float, float, int] or not all(map(math.isfinite, sums)) or sums[2] < 0:
        raise ValueError("window: expected two sums and how many they are of")
    if "lr" in state:
        _number(state, "lr", float, int)
    if type(state.get("pending", False)) is not bool or (state.get("pending") and step == 0):
        raise ValueError(f"pending: expected whether a line waits for the step, got {shortened(state['pending'])}")
    _check_random(_entries(state, "random"))


def _entries(state: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(state.get(key), Mapping):
        raise ValueError(f"{key}: expected named entries, got {shortened(state.get(key))}")
    return state[key]


def _number(state: Mapping[str, Any], key: str, *types: type) -> Any:
    value: Any = state.get(key)
    if value is None or type(value) not in types or not math.isfinite(value) or value < 0:
        raise ValueError(f"{key}: expected a number of at least 0, got {shortened(value)}")
    return value


def _check_tensors(found: Mapping[str, Any], expected: Mapping[str, Any], where: str, finite: list[str]) -> None:
    if {*found} != {*expected}:
        changed = sorted(map(str, {*found} ^ {*expected}))
        raise ValueError(f"{where}: other entries than the module has: {', '.join(changed[:3])[:200]}")
    for name, value in expected.items():
        if isinstance(value, Tensor):
            _check_tensor(found[name], value, f"{where}, {name}", name in finite)
        elif type(found[name]) is not type(value):
            raise ValueError(f"{where}, {name}: {shortened(found[name])}, expected {shortened(value)}")


def _check_tensor(found: Any, expected: Tensor, where: str, finite: bool) -> None:
    if not isinstance(found, Tensor):
        raise ValueError(f"{where}: {shortened(found)}, expected a tensor")
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(
            f"{where}: {found.dtype} of shape {tuple(found.shape)}, expected {expected.dtype} of shape "
            f"{tuple(expected.shape)}"
        )
    if finite and not bool(found.isfinite().all()):
        raise ValueError(f"{where}: numbers that are not finite")


def _check_optimizer(optimizer: Mapping[str, Any], weights: Tensor, step: int) -> None:
    moments = optimizer.get("state")
    if step == 0 and moments == {}:
        return
    if not isinstance(moments, Mapping) or {*moments} != {0} or not isinstance(moments[0], Mapping):
        raise ValueError("optimizer: expected the moments of one vector of weights")
    expected = {"step": torch.zeros(()), "exp_avg": weights, "exp_avg_sq": weights}
    _check_tensors(moments[0], expected, "optimizer", finite=[*expected])
    if float(moments[0]["step"]) != min(step, MOST_COUNTED) or bool((moments[0]["exp_avg_sq"] < 0).any()):
        raise ValueError("optimizer: moments of another step, or squares below 0")


def _check_random(random: Mapping[str, Any]) -> None:
    if not {"cpu"} <= {*random} <= {"cpu", "cuda"} or not all(isinstance(value, Tensor) for value in random.values()):
        raise ValueError("random: expected the state of a generator of random numbers")
    try:
        torch.Generator().set_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.Generator("cuda").set_state(random["cuda"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"random: no state of a generator of random numbers ({phrase(error)})") from error

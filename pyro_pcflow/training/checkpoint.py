"""The resumable state of a training: noted between two steps, written atomically, checked when read."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.reading import phrase, printable, shortened
from pyro_pcflow.training.early_stopping import BestEvaluation
from pyro_pcflow.training.run_folder import RunFolder
from pyro_pcflow.training.weights import FlatParameters

__all__ = ["ResumableState"]

# Optimizers of torch count their steps in float32, which holds whole numbers up to here.
MOST_COUNTED = 2**24


@dataclass(frozen=True)
class _Moment:
    """A moment between two changes of the weights, from which training can go on: all but the weights themselves.

    Attributes:
        numbers: steps, scores and so on, as a checkpoint has them.
        best: the best evaluation, if it is looked for.
        random: states of the generators.
        versions: how often parameters and buffers had been written to.
    """

    numbers: dict[str, Any]
    best: BestEvaluation | None
    random: dict[str, Tensor]
    versions: list[int]


class ResumableState:
    """What a training can go on from: module, averages, optimizer, random numbers, and numbers such as the step.

    Args:
        folder: where the checkpoint is written, or None, where nothing is kept.
        module: what is trained.
        weights: its trained parameters as one vector, and their average.
        optimizer: of that vector.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        module: nn.Module,
        weights: FlatParameters,
        optimizer: torch.optim.Optimizer,
        score: str,
    ) -> None:
        self.folder = folder
        self._score = score
        self._module, self._weights, self._optimizer = module, weights, optimizer
        self._watched = [*module.parameters(), *module.buffers()]
        self._moment: _Moment | None = None

    def note(self, best: BestEvaluation | None, **numbers: Any) -> None:
        """Note a moment from which training can be resumed."""
        if self.folder is not None:
            self._moment = _Moment(numbers, best, self._random(), self._versions())

    def forget(self) -> None:
        """Forget the moment: until the next is noted, the state belongs to no step."""
        self._moment = None

    @property
    def is_whole(self) -> bool:
        """Whether a moment was noted, and nothing has written to the module since."""
        return self._moment is not None and self._moment.versions == self._versions()

    def write(self, seconds: float) -> None:
        """Write the moment that was noted last, to which the weights still belong."""
        assert self.folder is not None
        assert self._moment is not None
        best = self._moment.best
        self.folder.write_checkpoint(
            {
                **self._moment.numbers,
                "seconds": seconds,
                "random": self._moment.random,
                "module": self._module.state_dict(),
                "averages": self._weights.named(self._weights.averages),
                "optimizer": {"state": self._optimizer.state_dict()["state"]},
                **({} if best is None else {"best": {**vars(best), "averages": self._weights.named(best.averages)}}),
            }
        )

    def read(self) -> dict[str, Any] | None:
        """The checkpoint of the folder, or None where there is none yet; nothing is changed.

        Raises:
            ValueError: naming what does not fit the module or the optimizer.
        """
        assert self.folder is not None
        state = self.folder.read_checkpoint()
        if state is not None:
            try:
                self._check(state)
            except ValueError as error:
                raise ValueError(f"{printable(self.folder.checkpoint)} does not fit the module: {error}") from error
        return state

    def restore(self, state: Mapping[str, Any], *, random: bool) -> BestEvaluation | None:
        """Restore what `read` returned, and the random number generators if `random`; return the best evaluation."""
        self._module.load_state_dict(state["module"])
        self._copy_named(state["averages"], self._weights.averages)
        # The options of the optimizer are those of this training, whatever the file says.
        own = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
        if random:
            torch.set_rng_state(state["random"]["cpu"])
            if "cuda" in state["random"] and self._device.type == "cuda":
                torch.cuda.set_rng_state(state["random"]["cuda"], self._device)
        if "best" not in state:
            return None
        averages = torch.empty_like(self._weights.averages)
        self._copy_named(state["best"]["averages"], averages)
        return BestEvaluation(averages, state["best"]["scores"], state["best"]["waited"])

    def _copy_named(self, named: Mapping[str, Tensor], flat: Tensor) -> None:
        """Copy a checkpoint's weights into a vector."""
        for name, part in self._weights.named(flat).items():
            part.copy_(named[name])

    @property
    def _device(self) -> torch.device:
        return self._weights.values.device

    def _random(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _versions(self) -> list[int]:
        # A forward pass may write: statistics of a batch, or weights that take their first values from data.
        return [tensor._version for tensor in self._watched]

    def _check(self, state: Mapping[str, Any]) -> None:
        """Check that a state fits: names, shapes, types, finite numbers, and counters.

        torch does not: moments of another size than the weights crash the process.
        """
        averages = self._weights.named(self._weights.averages)
        step = _number(state, "step", int)
        _number(state, "seconds", float, int)
        _check_tensors(_entries(state, "module"), self._module.state_dict(), "module", finite=[*averages])
        _check_tensors(_entries(state, "averages"), averages, "averages", finite=[*averages])
        _check_optimizer(_entries(state, "optimizer"), self._optimizer, step)
        _check_scores(_entries(state, "scores"))
        if "best" in state:
            best = _entries(state, "best")
            _number(best, "waited", int)
            _check_tensors(_entries(best, "averages"), averages, "best, averages", finite=[*averages])
            _check_scores(_entries(best, "scores"))
            if type(best["scores"].get(self._score)) not in (float, int):
                raise ValueError(f"best: expected the score {self._score}")
        window = state.get("window")
        sums: list[Any] = [*window] if isinstance(window, list | tuple) else []
        if [type(value) for value in sums] != [float, float, int] or not all(map(math.isfinite, sums)) or sums[2] < 0:
            raise ValueError("window: expected two sums and how many they are of")
        if "lr" in state:
            _number(state, "lr", float, int)
        if state.get("hastened_at") is not None:
            _number(state, "hastened_at", float)
        if type(state.get("in_first_phase", False)) is not bool:
            raise ValueError(f"in_first_phase: expected True or False, got {shortened(state['in_first_phase'])}")
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


def _check_scores(scores: Mapping[str, Any]) -> None:
    if not all(type(name) is str and type(score) in (float, int, type(None)) for name, score in scores.items()):
        raise ValueError("scores: expected a number for each name")


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


def _check_optimizer(found: Mapping[str, Any], optimizer: torch.optim.Optimizer, step: int) -> None:
    """Compare a state with that of a copy of the optimizer, after as many steps as tell all of its entries."""
    moments = found.get("state")
    if not isinstance(moments, Mapping):
        raise ValueError("optimizer: expected the moments of one vector of weights")
    expected = _state_after(optimizer, min(step, 2))
    if {*moments} != {*expected} or not all(isinstance(moments[key], Mapping) for key in moments):
        raise ValueError("optimizer: expected the moments of one vector of weights")
    for key, entries in expected.items():
        _check_tensors(moments[key], entries, "optimizer", finite=[*entries])
        for name, value in entries.items():
            counts = name == "step" and float(value) == min(step, 2)
            if counts and float(moments[key][name]) != min(step, MOST_COUNTED):
                raise ValueError("optimizer: moments of another step")
            if name.endswith("_sq") and bool((moments[key][name] < 0).any()):
                raise ValueError("optimizer: squares below 0")


def _state_after(optimizer: torch.optim.Optimizer, steps: int) -> dict[Any, dict[str, Any]]:
    """The state of a copy after some steps along gradients of zero."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    for _ in range(steps):
        trial.step()
    return trial.state_dict()["state"]


def _check_random(random: Mapping[str, Any]) -> None:
    if not {"cpu"} <= {*random} <= {"cpu", "cuda"} or not all(isinstance(value, Tensor) for value in random.values()):
        raise ValueError("random: expected the state of a generator of random numbers")
    try:
        torch.Generator().set_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.Generator("cuda").set_state(random["cuda"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"random: no state of a generator of random numbers ({phrase(error)})") from error

"""`config.toml` of a run folder: what a run was started with, and whether a resumed one is the same."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from pyro_pcflow._version import __version__
from pyro_pcflow.ops.files import atomic_file
from pyro_pcflow.ops.reading import phrase, printable
from pyro_pcflow.serialization import plain
from pyro_pcflow.serialization.older import current_options
from pyro_pcflow.training import toml
from pyro_pcflow.training.options import CloudSampling, Optimization

__all__ = ["RunConfig", "versions"]

# Tables that a resumed run must repeat, entries of them that may differ, and entries of `settings` that may grow.
COMPARED = ("settings", "data", "module")
IGNORED = {"log_every", "eval_every", "checkpoint_every", "checkpoint_seconds"}
LIMITS = ("max_steps", "max_seconds")
# Entries of `settings` in older files, and what they are called in `data` today.
MOVED = {
    "batch_size": "batch_size",
    "points_per_cloud": "target_points",
    "seen_points": "encoder_points",
    "kl_warmup_steps": "kl_warmup_steps",
    "noise": "noise",
    "held_out": "held_out",
}
# What runs had before an option was one, where its default may be another today.
BEFORE = {"betas": [0.9, 0.999], "weight_decay": 0.0, "patience": None, "most_points": None, "augment": None}
# Of a setting in an error; a file may hold anything in its place.
MOST_CHARACTERS = 200


class RunConfig:
    """Settings, data and module of a run, compared with those of the run that a file describes.

    A run that was extended has a list `extended`: at which step, after how many seconds and at which learning rate, and
    which limits it had before.

    Args:
        path: the file; need not exist.
        config: tables of plain values that describe the present run.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.now: dict[str, Any] = toml.loads(toml.dumps(plain(config, "config")))
        self._earlier: dict[str, Any] = {}
        self.limits_before: dict[str, Any] | None = None

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """Where the run was extended so far."""
        return self._earlier.get("extended", [])

    def write(self) -> None:
        """Write the configuration of the run that the folder holds, or of a new one."""
        with atomic_file(self.path) as file:
            file.write(toml.dumps(self._earlier or self.now).encode())

    def extend(self, step: int, seconds: float, rate: float, ended: bool) -> None:
        """Record the new limits, and where the run was when it was extended.

        Args:
            step: how many steps the run had made.
            seconds: how long it had taken.
            rate: the learning rate that it had come to.
            ended: whether the old limits had been reached.
        """
        assert self.limits_before is not None
        here = {"step": step, "seconds": seconds, "lr": rate, "ended": ended, **self.limits_before}
        self._earlier["settings"].update({name: self.now["settings"][name] for name in self.limits_before})
        self._earlier["extended"] = [*self.extensions, here]
        self.limits_before = None

    def forget(self) -> None:
        """Forget the earlier run: the folder is a new one."""
        self._earlier, self.limits_before = {}, None

    def compare(self) -> None:
        """Read the file and check that it describes the same run; only the limits may have grown.

        Raises:
            ValueError: if the file is damaged, or the run was started with other settings, naming them.
        """
        self.forget()
        try:
            earlier = toml.read(self.path)
            extended = earlier.get("extended", [])
            if not earlier:
                raise ValueError("empty")
            if not all(isinstance(earlier.get(table, {}), dict) for table in COMPARED):
                raise ValueError(f"one of {', '.join(COMPARED)} is no table")
            if not (isinstance(extended, list) and all(map(_is_extension, extended))):
                raise ValueError("its list `extended`")
        except (OSError, ValueError) as error:
            raise ValueError(f"{printable(self.path)}: damaged ({phrase(error)}): choose another folder") from error
        self._earlier = earlier
        tables = self._translated(earlier)
        differences = []
        for table in COMPARED:
            before, after = tables.get(table, {}), self.now.get(table, {})
            if table == "module":
                before, after = _options(before), _options(after)
            for key in sorted({*before, *after} - IGNORED):
                one, other = before.get(key), after.get(key)
                if one == other:
                    continue
                may_grow = table == "settings" and key in LIMITS and _are_numbers(one, other)
                if may_grow and other > one:
                    self.limits_before = {**(self.limits_before or {}), key: one}
                else:
                    hint = ", but may only grow" if may_grow else ""
                    was = repr(one)[:MOST_CHARACTERS]
                    differences.append(f"{table}.{key} was {was} and is {other!r}{hint}")
        if differences:
            raise ValueError(
                f"{self.path.parent} holds a run with other settings, which would end with other weights: "
                f"{'; '.join(differences)}. Repeat its settings, or choose another folder"
            )

    def _translated(self, earlier: dict[str, Any]) -> dict[str, Any]:
        """The tables of an older file under the names of today."""
        settings, data = dict(earlier.get("settings", {})), dict(earlier.get("data", {}))
        for old, new in MOVED.items():
            if old in settings:
                value = settings.pop(old)
                # Of a density of points, older files hold options that concern clouds alone.
                if new in self.now.get("data", {}):
                    data.setdefault(new, value)
        # An option that the file does not know was added since, and had the effect of its default.
        for name, table, options in (("settings", settings, Optimization()), ("data", data, CloudSampling())):
            for option in vars(options).keys() & self.now.get(name, {}).keys():
                table.setdefault(option, BEFORE.get(option, getattr(options, option)))
        module = {**earlier.get("module", {}), "config": current_options(earlier.get("module", {}).get("config"))}
        return {**earlier, "settings": settings, "data": data, "module": module}


def _options(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested options by their paths; None, which TOML does not have, is left out."""
    found = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found.update(_options(value, f"{path}{name}."))
        elif value is not None:
            found[path + name] = value
    return found


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_extension(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and {"step", "seconds", "lr", "ended"} <= entry.keys()
        and _are_numbers(*(entry[name] for name in ("step", "seconds", "lr")))
        and all(0 <= entry[name] < math.inf for name in ("step", "seconds", "lr"))
        and isinstance(entry["ended"], bool)
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "pyro_pcflow": __version__,
        "pyro": pyro.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

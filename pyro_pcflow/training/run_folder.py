"""The folder of a run: its description, its measurements, and the state to continue from."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

import pyro_pcflow
from pyro_pcflow.ops.files import atomic_file, remove_leftovers
from pyro_pcflow.serialization import can_save, plain, save
from pyro_pcflow.training import toml

__all__ = ["RunFolder", "versions"]

CHECKPOINT_FORMAT = "pyro-pcflow checkpoint"
CHECKPOINT_VERSION = 1


class RunFolder:
    """A folder that belongs to one run.

    ========================  ==========================================================================
    `config.toml`             settings, data and module of the run, and the versions it was started with
    `metrics.jsonl`           one JSON object a line, as training goes
    `checkpoint.pt`           everything that resuming needs; always complete, never half-written
    `model.pt`                the final weights
    `samples.png`, ...        pictures of a flow, see `write_pictures`
    ========================  ==========================================================================

    Nothing is written before `begin`.

    Args:
        path: the folder; need not exist.
        config: tables of plain values that describe the run.
        resume: continue the run that the folder holds, if it holds one.
        compared: tables of `config` that a resumed run must repeat.
        ignored: entries of those tables that may differ.

    Raises:
        FileExistsError: if the folder holds a run and `resume` is False, or files that are not of a run.
        ValueError: if the run in the folder was started with other settings, naming them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: dict[str, Any],
        *,
        resume: bool,
        compared: tuple[str, ...],
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint.pt"
        self.model = self.path / "model.pt"
        present = [file for file in (self.config, self.metrics, self.checkpoint, self.model) if file.exists()]
        if present and not resume:
            raise FileExistsError(
                f"{self.path} already holds a run ({present[0].name}): pass resume=True to continue it, or choose "
                "another folder"
            )
        if present and not self.config.exists():
            raise FileExistsError(f"{self.path} holds {present[0].name} but no config.toml: choose another folder")
        self._text = toml.dumps(plain(config, "config"))
        if present:
            self._compare(compared, ignored)

    def begin(self) -> None:
        """Make the folder and write the configuration, or clear up after a process that was killed in it."""
        if self.config.exists():
            for path in (self.config, self.checkpoint, self.model):
                remove_leftovers(path)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.config) as file:
            file.write(self._text.encode())

    def _compare(self, compared: tuple[str, ...], ignored: tuple[str, ...]) -> None:
        try:
            earlier = toml.loads(self.config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.config}: damaged ({error}): choose another folder") from error
        now = toml.loads(self._text)
        differences = []
        for table in compared:
            before, after = earlier.get(table, {}), now.get(table, {})
            for key in sorted({*before, *after} - {*ignored}):
                if before.get(key) != after.get(key):
                    differences.append(f"{table}.{key} was {before.get(key)!r} and is {after.get(key)!r}")
        if differences:
            raise ValueError(
                f"{self.path} holds a run with other settings, which would end with other weights: "
                f"{'; '.join(differences)}. Repeat its settings, or choose another folder"
            )

    def log(self, line: dict[str, Any]) -> None:
        """Append one line of finite numbers to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def read_metrics(self, last_step: int) -> list[dict[str, Any]]:
        """Read the metrics up to a step, and cut off what follows: later lines, and a line half-written."""
        if not self.metrics.exists():
            return []
        history, kept = [], 0
        with self.metrics.open("rb") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:
                    break
                if not text.endswith(b"\n") or line["step"] > last_step:
                    break
                history.append(line)
                kept += len(text)
        os.truncate(self.metrics, kept)
        return history

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            TypeError: if the state holds more than tensors and plain values, and could not be read again safely.
        """
        plain(state, "checkpoint")
        if self.metrics.exists():
            # Resuming trusts that no line before the checkpoint is missing.
            with self.metrics.open("rb") as file:
                os.fsync(file.fileno())
        with atomic_file(self.checkpoint) as file:
            torch.save({"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, **state}, file)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Read the checkpoint, on the CPU, or return None if the run was stopped before its first.

        Raises:
            ValueError: if the file is damaged or of a newer format.
        """
        if not self.checkpoint.exists():
            return None
        with self.checkpoint.open("rb") as file:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            # What torch raises on arbitrary bytes is an open list.
            except Exception as error:
                raise ValueError(f"{self.checkpoint}: damaged ({type(error).__name__})") from error
        if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
            raise ValueError(f"{self.checkpoint}: not a checkpoint of a run")
        if state["version"] > CHECKPOINT_VERSION:
            raise ValueError(f"{self.checkpoint}: written by a newer pyro-pcflow, in format {state['version']}")
        return state

    def write_model(self, module: nn.Module) -> None:
        """Write the final weights: by `pcf.save` where it knows the class, else the plain state_dict."""
        if can_save(module):
            save(module, self.model)
            return
        state = module.state_dict()
        plain(state, "state_dict")
        with atomic_file(self.model) as file:
            torch.save(state, file)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "pyro_pcflow": pyro_pcflow.__version__,
        "pyro": pyro.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

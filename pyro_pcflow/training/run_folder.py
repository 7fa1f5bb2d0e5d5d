"""The folder of a run: its description, its measurements, and the state to continue from."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from filelock import FileLock, Timeout
from torch import nn

from pyro_pcflow._version import __version__
from pyro_pcflow.ops.files import atomic_file, remove_leftovers
from pyro_pcflow.ops.reading import check_regular, phrase, printable, shortened
from pyro_pcflow.ops.tensor_files import load_tensors, write_tensors
from pyro_pcflow.serialization import has_config, plain, save
from pyro_pcflow.training import toml

__all__ = ["RunFolder", "versions"]

CHECKPOINT_FORMAT = "pyro-pcflow checkpoint"
CHECKPOINT_VERSION = 2
# Of a setting in an error; a file may hold anything in its place.
MOST_CHARACTERS = 200


class RunFolder:
    """A folder that belongs to one run.

    ========================  ==========================================================================
    `config.toml`             settings, data and module of the run, and the versions it was started with
    `metrics.jsonl`           one JSON object a line, as training goes
    `checkpoint.pt`           everything that resuming needs; always complete, never half-written
    `model.pt`                the final weights
    `samples.png`, ...        pictures of a flow, see `write_pictures`
    `.lock`                   locked while a process trains here; once that has ended, in whatever way, it says nothing
    ========================  ==========================================================================

    A run that was extended has a list `extended` in `config.toml`: at which step, after how many seconds and at which
    learning rate, and which limits it had before.

    Nothing is written before `locked`. Every file appears under its name when it is complete; a process that is killed
    may leave a hidden `.NAME.*.tmp`, which the next one deletes.

    The lock is that of the operating system (`flock`). On a network file system it holds where the system passes locks
    on to the server, as NFS version 4 does; where it does not, a warning says so, or a second run goes unnoticed.

    Args:
        path: the folder; need not exist.
        config: tables of plain values that describe the run.
        resume: continue the run that the folder holds, if it holds one.
        compared: tables of `config` that a resumed run must repeat.
        ignored: entries of those tables that may differ.
        limits: entries of the table `settings` that may grow.
        pictures: names of the pictures that will be written.

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
        limits: tuple[str, ...] = (),
        pictures: tuple[str, ...] = (),
    ) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint.pt"
        self.model = self.path / "model.pt"
        self.pictures = tuple(self.path / name for name in pictures)
        self._resume = resume
        self._compared, self._ignored, self._limits = compared, ignored, limits
        self._now = toml.loads(toml.dumps(plain(config, "config")))
        self._look()

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """Where the run was extended so far."""
        return self._earlier.get("extended", [])

    @property
    def limits_before(self) -> dict[str, Any] | None:
        """The limits of the run in the folder, if those of now are larger."""
        return self._limits_before

    def _look(self) -> None:
        files = (self.config, self.metrics, self.checkpoint, self.model)
        present = [file for file in files if os.path.lexists(file)]
        if present and not self._resume:
            raise FileExistsError(
                f"{self.path} already holds a run ({present[0].name}): pass resume=True to continue it, or choose "
                "another folder"
            )
        if present and not self.config.exists():
            raise FileExistsError(f"{self.path} holds {present[0].name} but no config.toml: choose another folder")
        self._earlier: dict[str, Any] = {}
        self._limits_before: dict[str, Any] | None = None
        if present:
            self._compare()
        else:
            self._refuse_foreign(self.pictures)

    def _refuse_foreign(self, files: Iterable[Path]) -> None:
        for file in files:
            if os.path.lexists(file):
                raise FileExistsError(
                    f"{file} is not of this run, which would replace it: move it away, or choose another folder"
                )

    def check_outputs(self, ended: bool) -> None:
        """See that what is written at the end replaces nothing but files of an earlier end of this very run.

        Args:
            ended: whether the run has come to an end before.

        Raises:
            FileExistsError: naming the file.
        """
        if not (ended or any(extension["ended"] for extension in self.extensions)):
            self._refuse_foreign((self.model, *self.pictures))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process: make it, clear up after one that was killed, and write the configuration.

        Raises:
            FileExistsError: if another process trains in it, or has meanwhile begun to.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._look()
            for path in (self.config, self.checkpoint, self.model, *self.pictures):
                remove_leftovers(path)
            if not self.config.exists():
                self._write_config(self._now)
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self.path / ".lock"
        if path.is_symlink():
            # The library follows links, and writes.
            raise FileExistsError(f"{path} is a link, and no lock of ours: delete it, or choose another folder")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
            process = f"process {holder}" if holder.isdecimal() else "another process"
            raise FileExistsError(
                f"{self.path}: {process} is training in this folder: wait until it has ended, or choose another folder"
            ) from None
        except NotImplementedError:
            warnings.warn(
                f"{self.path}: its file system has no locks: see to it that no second run uses the folder", stacklevel=2
            )
            yield
            return
        try:
            if os.name == "posix":
                path.write_text(f"{os.getpid()}\n", encoding="utf-8")
            yield
        finally:
            lock.release()

    def _write_config(self, config: dict[str, Any]) -> None:
        with atomic_file(self.config) as file:
            file.write(toml.dumps(config).encode())

    def extend(self, step: int, seconds: float, rate: float, ended: bool) -> None:
        """Take the new limits into the configuration, and note where they begin to matter.

        Args:
            step: how many steps the run had made.
            seconds: how long it had taken.
            rate: the learning rate that it had come to.
            ended: whether the old limits had been reached.
        """
        assert self.limits_before is not None
        here = {"step": step, "seconds": seconds, "lr": rate, "ended": ended, **self.limits_before}
        limits = {name: self._now["settings"][name] for name in self.limits_before}
        self._earlier["settings"].update(limits)
        self._earlier["extended"] = [*self.extensions, here]
        self._limits_before = None

    def write_extended(self) -> None:
        """Write the configuration of a run that was extended."""
        self._write_config(self._earlier)

    def _compare(self) -> None:
        try:
            earlier = toml.read(self.config)
            extended = earlier.get("extended", [])
            if not earlier:
                raise ValueError("empty")
            if not all(isinstance(earlier.get(table, {}), dict) for table in self._compared):
                raise ValueError(f"one of {', '.join(self._compared)} is no table")
            if not (isinstance(extended, list) and all(map(_is_extension, extended))):
                raise ValueError("its list `extended`")
        except (OSError, ValueError) as error:
            raise ValueError(f"{printable(self.config)}: damaged ({phrase(error)}): choose another folder") from error
        self._earlier = earlier
        differences = []
        for table in self._compared:
            before, after = earlier.get(table, {}), self._now.get(table, {})
            for key in sorted({*before, *after} - {*self._ignored}):
                one, other = before.get(key), after.get(key)
                if one == other:
                    continue
                may_grow = table == "settings" and key in self._limits and _are_numbers(one, other)
                if may_grow and other > one:
                    self._limits_before = {**(self._limits_before or {}), key: one}
                else:
                    hint = ", but may only grow" if may_grow else ""
                    was = repr(one)[:MOST_CHARACTERS]
                    differences.append(f"{table}.{key} was {was} and is {other!r}{hint}")
        if differences:
            raise ValueError(
                f"{self.path} holds a run with other settings, which would end with other weights: "
                f"{'; '.join(differences)}. Repeat its settings, or choose another folder"
            )

    def log(self, line: dict[str, Any]) -> None:
        """Append one line of finite numbers to the metrics."""
        with self.metrics.open("ab", buffering=0) as file:
            whole = file.tell()
            text = (json.dumps(line, allow_nan=False) + "\n").encode()
            try:
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, "the disk is full", str(self.metrics))
            except OSError:
                file.truncate(whole)
                raise

    def read_metrics(self, last_step: int) -> list[dict[str, Any]]:
        """Read the metrics up to a step, and cut off what follows: later lines, and a line half-written.

        Raises:
            ValueError: if a line before the last is damaged: what follows it is not thrown away.
        """
        if not self.metrics.exists():
            return []
        history, kept = [], 0
        try:
            check_regular(self.metrics)
        except ValueError as error:
            raise ValueError(f"{printable(self.metrics)}: {error}, expected the metrics of a run") from error
        size = self.metrics.stat().st_size
        with self.metrics.open("rb") as file:
            for number, text in enumerate(file, start=1):
                line = _parse_line(text)
                if line is None and kept + len(text) < size:
                    raise ValueError(
                        f"{printable(self.metrics)}: line {number} is no line of metrics, and others follow it: mend "
                        "or remove it to continue the run"
                    )
                if line is None or line["step"] > last_step:
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
            write_tensors({"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, **state}, file)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Read the checkpoint, on the CPU, or return None if the run was stopped before its first.

        Raises:
            ValueError: if the file is damaged or of a newer format.
            FileNotFoundError: if it is a link that leads nowhere.
        """
        # A link that leads nowhere is no sign of a run without a checkpoint.
        if not os.path.lexists(self.checkpoint):
            return None
        state = load_tensors(self.checkpoint, "a checkpoint of a run")
        shown, version = printable(self.checkpoint), state.get("version")
        if state.get("format") != CHECKPOINT_FORMAT:
            raise ValueError(f"{shown}: not a checkpoint of a run")
        if type(version) is not int or version < 1:
            raise ValueError(f"{shown}: damaged: expected a format version, found {shortened(version)}")
        if version > CHECKPOINT_VERSION:
            raise ValueError(f"{shown}: written by a newer pyro-pcflow, in format {version}: upgrade it")
        step = state.get("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"{shown}: damaged: expected the number of a step, found {shortened(step)}")
        return state

    def write_model(self, module: nn.Module) -> None:
        """Write the final weights: by `pcf.save` where it can, else the plain state_dict.

        Warns:
            UserWarning: if the module is of a class that `pcf.save` knows, and was changed so that it refuses it.
        """
        if has_config(module):
            try:
                save(module, self.model)
                return
            except (TypeError, ValueError) as error:
                what = f"{printable(self.model)} holds a state_dict alone, for torch.load and load_state_dict"
                warnings.warn(f"{what}: {error}", UserWarning, stacklevel=2)
        state = module.state_dict()
        plain(state, "state_dict")
        with atomic_file(self.model) as file:
            write_tensors(state, file)


def _parse_line(text: bytes) -> dict[str, Any] | None:
    """A whole line of metrics; None for any other bytes."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = text.endswith(b"\n") and isinstance(line, dict) and type(line.get("step")) is int
    return line if whole else None


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

"""The folder of a run: which files it has, who may write them, and the checkpoint and the model among them."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from pyro_pcflow.ops.files import atomic_file, remove_leftovers
from pyro_pcflow.ops.reading import printable, shortened
from pyro_pcflow.ops.tensor_files import load_tensors, write_tensors
from pyro_pcflow.serialization import has_config, plain, save
from pyro_pcflow.training.metrics_file import MetricsFile
from pyro_pcflow.training.run_config import RunConfig

__all__ = ["RunFolder"]

CHECKPOINT_FORMAT = "pyro-pcflow checkpoint"
CHECKPOINT_VERSION = 2


class RunFolder:
    """A folder that belongs to one run.

    ========================  ==========================================================================
    `config.toml`             settings, data and module of the run, and the versions it was started with
    `metrics.jsonl`           one JSON object per line, as training goes
    `checkpoint.pt`           everything that resuming needs; always complete, never half-written
    `model.pt`                the final weights
    `samples.png`, ...        what callbacks write, such as `Pictures`
    `.lock`                   locked while a process trains here, and free when that has ended, in whatever way
    ========================  ==========================================================================

    Nothing is written before `locked`. Every file appears under its name when it is complete; a process that is killed
    may leave a hidden `.NAME.*.tmp`, which the next one deletes.

    The lock is that of the operating system (`flock`). On a network file system it holds where the system passes locks
    on to the server, as NFS version 4 does; where it does not, a warning says so, or a second run goes unnoticed.

    Args:
        path: the folder; need not exist.
        config: tables of plain values that describe the run, see `RunConfig`.
        resume: continue the run that the folder holds, if it holds one.
        outputs: names of the files that callbacks will write.

    Raises:
        FileExistsError: if the folder holds a run and `resume` is False, or files that are not of a run.
        ValueError: if the run in the folder was started with other settings, naming them.
    """

    def __init__(
        self, path: str | os.PathLike[str], config: dict[str, Any], *, resume: bool, outputs: Iterable[str] = ()
    ) -> None:
        self.path = Path(path)
        self.config = RunConfig(self.path / "config.toml", config)
        self.metrics = MetricsFile(self.path / "metrics.jsonl")
        self.checkpoint = self.path / "checkpoint.pt"
        self.model = self.path / "model.pt"
        self.outputs = tuple(self.path / name for name in outputs)
        self._resume = resume
        self._look()

    def _look(self) -> None:
        files = (self.config.path, self.metrics.path, self.checkpoint, self.model)
        present = [file for file in files if os.path.lexists(file)]
        if present and not self._resume:
            raise FileExistsError(
                f"{self.path} already holds a run ({present[0].name}): pass resume=True to continue it, or choose "
                "another folder"
            )
        if present and not self.config.path.exists():
            raise FileExistsError(f"{self.path} holds {present[0].name} but no config.toml: choose another folder")
        if present:
            self.config.compare()
        else:
            self.config.forget()
            self._refuse_foreign(self.outputs)

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
        if not (ended or any(extension["ended"] for extension in self.config.extensions)):
            self._refuse_foreign((self.model, *self.outputs))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder for this process: make it, clear up after one that was killed, and write the configuration.

        Raises:
            FileExistsError: if another process trains in it, or has meanwhile begun to.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._look()
            for path in (self.config.path, self.checkpoint, self.model, *self.outputs):
                remove_leftovers(path)
            if not self.config.path.exists():
                self.config.write()
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self.path / ".lock"
        if path.is_symlink():
            # The library follows links, and writes.
            raise FileExistsError(f"{path} is a link, and no lock of ours: delete it, or choose another folder")
        lock = FileLock(path)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                # An interrupt between two lines may leave the release of a lock of this process to the collector.
                gc.collect()
                lock.acquire(timeout=0)
        except Timeout:
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
            process = f"process {holder}" if holder.isdecimal() else "another process"
            raise FileExistsError(
                f"{self.path}: {process} is training in this folder: wait until it has ended, or choose another folder"
            ) from None
        except NotImplementedError:
            warnings.warn(
                f"{self.path}: its file system has no locks: make sure that no second run uses the folder", stacklevel=2
            )
            yield
            return
        try:
            if os.name == "posix":
                path.write_text(f"{os.getpid()}\n", encoding="utf-8")
            yield
        finally:
            lock.release()

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            TypeError: if the state holds more than tensors and plain values, and could not be read again safely.
        """
        plain(state, "checkpoint")
        # Resuming trusts that no line before the checkpoint is missing.
        self.metrics.flush()
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

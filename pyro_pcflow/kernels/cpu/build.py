"""Compile C++ kernels for this machine, each at its first use, and keep the results.

Each library has one source of its name in `src`, and depends on what that includes alone: who needs one library
compiles no other, and a change of one leaves the others as they are.

What is kept is code that runs with the user's rights, so it is loaded only from a folder that no other user can write
to: it and its file belong to this user or to root, neither is writable by a group or by others, and no folder above
it can be changed by everybody, unless it has the sticky bit, as `/tmp` has. Elsewhere, and where nothing can be
written, a kernel is compiled into a private folder that lives as long as the process. This is no defence against
other programs of the same user, who could change this package as well, nor against root. The checksum beside a library
is no defence either: it tells a file that a full disk or a crash has cut, which is then compiled again.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock

from pyro_pcflow.kernels.program import Activation
from pyro_pcflow.ops.network import LEAKY_SLOPE

__all__ = ["CACHE", "LIBRARIES", "KernelUnavailableError", "compiled", "find_compiler", "instruction_sets", "is_kept"]

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).with_name("src")
# Where compiled kernels are kept, if not in the user's folder for caches.
CACHE = "PYRO_PCFLOW_CACHE"
# Values that are not numbers must stay so: no fast mathematics, except that no floating-point trap is expected.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}


class Library(NamedTuple):
    """What is compiled into one file, from the source of its name.

    Attributes:
        title: in messages.
        flags: of the compiler, beside those of all libraries.
    """

    title: str
    flags: tuple[str, ...] = ()


LIBRARIES = {
    "fused": Library(
        "the fused kernel",
        (
            *(f"-DPCF_{activation.name}={activation.value}" for activation in Activation),
            f"-DPCF_LEAKY_SLOPE={LEAKY_SLOPE}f",
        ),
    ),
    "clouds": Library("the kernel for distances between clouds"),
}


class KernelUnavailableError(RuntimeError):
    """A kernel cannot run here, and why."""


def instruction_sets() -> list[str]:
    """Those that this machine has, the best one first."""
    known = {"AVX512": ["avx512", "avx2"], "AVX2": ["avx2"]}
    return [*known.get(torch.backends.cpu.get_cpu_capability(), []), "portable"]


def find_compiler() -> list[str]:
    """The command of a C++ compiler: that of the environment variable `CXX`, or the first that is found.

    Raises:
        KernelUnavailableError: if there is none.
    """
    if wanted := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(wanted[0]) is None:
            raise KernelUnavailableError(f"the compiler of the environment variable CXX is not found: {wanted[0]}")
        return wanted
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise KernelUnavailableError("no C++ compiler is found: install g++ or clang++, or set CXX")


def cache_folder() -> Path:
    """Where compiled kernels should be kept: `$PYRO_PCFLOW_CACHE`, or `pyro_pcflow` in the user's folder for caches.

    Raises:
        RuntimeError: if the user has no home.
        FileNotFoundError: if it does not exist.
    """
    if folder := os.environ.get(CACHE):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "pyro_pcflow"
    home = Path.home()
    if not home.is_dir():
        raise FileNotFoundError(f"the home {home} does not exist")
    return home / ".cache" / "pyro_pcflow"


def compiled(library: str, instruction_set: str | None = None) -> ctypes.CDLL:
    """Load a library for an instruction set, and compile it before if that has not been done yet.

    Processes that want the same library wait for the one that compiles it. A file appears under its name only when it
    is complete; one that is broken, or that does not load here, is compiled again.

    Args:
        library: one of `LIBRARIES`.
        instruction_set: one of `instruction_sets()`, by default the best.

    Raises:
        KernelUnavailableError: if there is no compiler, it fails, or what it makes does not load; or if the machine has
            no such instructions.
    """
    known = instruction_sets()
    instruction_set = known[0] if instruction_set is None else instruction_set
    if instruction_set not in known:
        raise KernelUnavailableError(f"this machine has no {instruction_set} instructions, only {', '.join(known)}")
    try:
        path = _place(_file_name(library, instruction_set))
        if loaded := _load(path):
            return loaded
        with FileLock(path.with_suffix(".lock")):
            if loaded := _load(path):
                return loaded
            _compile(library, instruction_set, path)
            return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelUnavailableError(f"no compiled kernel: {error}; set {CACHE}") from error


def is_kept(library: str, instruction_set: str) -> bool:
    """Whether a library for an instruction set lies ready, so that `compiled` only loads it."""
    try:
        return _is_whole(_place(_file_name(library, instruction_set)))
    except OSError:
        return False


def _flags(library: str, instruction_set: str) -> list[str]:
    return [*FLAGS, *LIBRARIES[library].flags, *INSTRUCTION_SETS[instruction_set]]


def _sources(name: str) -> list[Path]:
    """A source, and those of ours that it includes, directly or not, each once."""
    found = [SOURCES / name]
    for path in found:
        included = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [SOURCES / other for other in included if SOURCES / other not in found]
    return found


def _file_name(library: str, instruction_set: str) -> str:
    """A name for everything that a library depends on."""
    sources = [path.read_bytes() for path in _sources(f"{library}.cpp")]
    flags = _flags(library, instruction_set)
    machine = [platform.machine(), *platform.libc_ver()]
    key = hashlib.sha256(b"\0".join([*sources, *map(str.encode, [*flags, *machine])])).hexdigest()
    return f"{library}-{instruction_set}-{key[:16]}.so"


def _place(name: str) -> Path:
    """Where a library is kept: in the folder for caches, or in a private one where that cannot be used."""
    try:
        folder = cache_folder()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        reason = _distrust(folder)
        if reason is None and not os.access(folder, os.W_OK) and not (folder / name).exists():
            reason = f"{folder} is not writable"
    except (OSError, RuntimeError) as error:
        reason = str(error)
    return (folder if reason is None else _private_folder(reason)) / name


@lru_cache
def _private_folder(reason: str) -> Path:
    """A folder of this process alone, for as long as it lives."""
    logger.warning("compiled kernels are not kept (%s): set %s to a folder of your own", reason, CACHE)
    folder = tempfile.mkdtemp(prefix="pyro_pcflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _distrust(path: Path) -> str | None:
    """Why code of this path must not be run, or None."""
    if not hasattr(os, "geteuid"):  # Windows has other rules, and a folder for caches that is the user's alone
        return None
    for place in (path, *path.resolve().parents):
        status = place.stat()
        shared = place != path and bool(status.st_mode & stat.S_ISVTX)
        # A group may be the user's alone, so that it is forbidden only where code lies.
        others = stat.S_IWOTH | (stat.S_IWGRP if place == path else 0)
        if status.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        if status.st_mode & others and not shared:
            return f"{place} is writable by other users"
    return None


def _is_whole(path: Path) -> bool:
    """Whether there is a library that may be loaded, and that is what the compiler has made."""
    if not path.is_file():
        return False
    if reason := _distrust(path):
        _say_once(reason)
        return False
    checksum = path.with_suffix(".sha256")
    if checksum.is_file() and checksum.read_text(errors="replace") == _checksum(path):
        return True
    _say_once(f"{path} is damaged")
    return False


def _load(path: Path) -> ctypes.CDLL | None:
    if not _is_whole(path):
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        _say_once(str(error))
        return None


@lru_cache
def _say_once(reason: str) -> None:
    logger.warning("the kernel is compiled again: %s", reason)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(library: str, instruction_set: str, path: Path) -> None:
    command = find_compiler()
    logger.warning("compiling %s, once for this machine, into %s", LIBRARIES[library].title, path)
    start = time.perf_counter()
    prefix = f".{path.stem}-"
    # This process holds the lock, so the process that left these folders was killed.
    for left in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        made = Path(folder) / path.name
        # In a session of its own, since a Ctrl-C is meant for the caller, which may go on.
        result = subprocess.run(
            [*command, *_flags(library, instruction_set), str(SOURCES / f"{library}.cpp"), "-o", str(made)],
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or ["no message"]
            raise KernelUnavailableError(f"{command[0]} failed with status {result.returncode}: {lines[0]}")
        made.chmod(0o755)
        checksum = made.with_suffix(".sha256")
        checksum.write_text(_checksum(made))
        os.replace(checksum, path.with_suffix(".sha256"))
        os.replace(made, path)
    logger.info("compiled in %.1f s", time.perf_counter() - start)

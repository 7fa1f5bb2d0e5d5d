"""Compiling the kernel for this machine at its first use, and keeping the result."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from filelock import FileLock

__all__ = ["CACHE", "KernelUnavailableError", "compiled", "find_compiler", "instruction_sets"]

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).with_name("cpp")
# Where compiled kernels are kept, if not in the user's folder for caches.
CACHE = "PYRO_PCFLOW_CACHE"
# Values that are not numbers must stay so: no fast mathematics, except that no floating-point trap is expected.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
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
    """Where compiled kernels are kept: `$PYRO_PCFLOW_CACHE`, or `pyro_pcflow` in the user's folder for caches."""
    if folder := os.environ.get(CACHE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro_pcflow"


def compiled(instruction_set: str) -> ctypes.CDLL:
    """Load the kernel for an instruction set, and compile it before if that has not been done yet.

    Processes that want the same kernel wait for the one that compiles it. A file appears under its name only when it is
    complete.

    Raises:
        KernelUnavailableError: if there is no compiler, it fails, or there is no place for the result.
    """
    sources = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    flags = [*FLAGS, *INSTRUCTION_SETS[instruction_set]]
    key = hashlib.sha256(b"\0".join([*sources, *map(str.encode, flags), platform.machine().encode()])).hexdigest()[:16]
    name = f"fused-{instruction_set}-{key}.so"
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        if not path.exists():
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    _compile(flags, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:
        if isinstance(error, KernelUnavailableError):
            raise
        raise KernelUnavailableError(f"no compiled kernel in {cache_folder()}: {error}; set {CACHE}") from error


def _compile(flags: list[str], path: Path) -> None:
    command = find_compiler()
    logger.warning("compiling the fused kernel, once for this machine, into %s", path)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compiling-") as folder:
        made = Path(folder) / path.name
        result = subprocess.run(
            [*command, *flags, str(SOURCES / "fused.cpp"), "-o", str(made)], capture_output=True, text=True
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or ["no message"]
            raise KernelUnavailableError(f"{command[0]} failed with status {result.returncode}: {lines[0]}")
        os.replace(made, path)
    logger.info("compiled in %.1f s", time.perf_counter() - start)

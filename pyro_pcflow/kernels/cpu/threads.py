"""The threads that compiled kernels run on: torch's own, where they can be had."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

__all__ = ["team"]

# A forked process has none of its parent's threads, for which a team of OpenMP would wait without end.
_forked = False


def _mark_forked() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_mark_forked)


def team() -> ctypes.c_void_p:
    """What runs a function on torch's own threads, or null: see `src/threads.h`."""
    return ctypes.c_void_p(None) if _forked else _torchs()


@lru_cache
def _torchs() -> ctypes.c_void_p:
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except AttributeError:  # torch was built without OpenMP, or with one that has other names
        return ctypes.c_void_p(None)

"""Distances between clouds in C++: nearest points by all distances, and best matchings, in float64."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.kernels.cpu.build import KernelUnavailableError, compiled
from pyro_pcflow.kernels.cpu.threads import team

__all__ = ["PackedClouds", "available", "match", "nearest_both_ways", "nearest_numbers"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedClouds:
    """A set of clouds whose points that are there come first.

    Args:
        points: (S, N, D) of float64.
        counts: (S,), how many of the points of each are there.
        places: (S, N), where each point was before.
    """

    points: Floats
    counts: Integers
    places: Integers

    @classmethod
    def of(cls, clouds: NDArray[np.floating], mask: NDArray[np.bool_]) -> PackedClouds:
        """Pack clouds (S, N, D) with a mask (S, N)."""
        if mask.all():
            places = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        else:
            places = np.argsort(~mask, axis=1, kind="stable")
            clouds = np.take_along_axis(clouds, places[..., None], 1)
        return cls(np.ascontiguousarray(clouds, dtype=np.float64), mask.sum(1, dtype=np.int64), places)


@lru_cache
def available() -> bool:
    """Whether the library is there, or can be compiled; where it cannot, that is said once."""
    try:
        _load()
    except KernelUnavailableError as error:
        logger.warning("distances between clouds take longer without their compiled kernel: %s", error)
        return False
    return True


@lru_cache
def _load() -> ctypes.CDLL:
    return compiled("clouds")


def nearest_both_ways(
    x: PackedClouds, y: PackedClouds, first: Integers, second: Integers, threads: int
) -> tuple[Floats, Floats]:
    """Squared distances to nearest points.

    Args:
        x: a set of clouds (S, N, D).
        y: a set of clouds (R, M, D).
        first: (P,), the cloud of `x` of each pair.
        second: (P,), the cloud of `y`.
        threads: each works on one pair at a time.

    Returns:
        From points of the first cloud to the second, (P, N), and back, (P, M), both in the packed order, and zero for
        points that are not there.
    """
    there = np.empty((len(first), x.points.shape[1]))
    back = np.empty((len(first), y.points.shape[1]))
    _call(_load().pcf_nearest_both_ways, x, y, first, second, (there, back), threads)
    return there, back


def nearest_numbers(x: PackedClouds, y: PackedClouds, first: Integers, second: Integers, threads: int) -> Integers:
    """For points of the first cloud the number of the nearest one in the second, of equal ones the first: (P, N).

    The arguments are those of `nearest_both_ways`; numbers count packed points, and are zero for points that are not
    there.
    """
    numbers = np.empty((len(first), x.points.shape[1]), dtype=np.int64)
    _call(_load().pcf_nearest_numbers, x, y, first, second, (numbers,), threads)
    return numbers


def match(
    x: PackedClouds,
    y: PackedClouds,
    first: Integers,
    second: Integers,
    squared: bool,
    limits: Floats,
    threads: int,
) -> tuple[Integers, Floats]:
    """Best matchings in float64, by shortest augmenting paths (Jonker and Volgenant, 1987).

    The arguments are those of `nearest_both_ways`, and further:

    Args:
        squared: whether costs are squares of distances.
        limits: (P,); a pair whose mean cost is found to be above is given up.

    Returns:
        Partners (P, N) of the points of the first cloud, counted as packed, of which the first is -1 where a pair was
        given up; and (P,) lower bounds of the mean cost, which are above the limit there, and the cost elsewhere.
    """
    numbers = np.empty((len(first), x.points.shape[1]), dtype=np.int64)
    bounds = np.empty(len(first))
    _call(_load().pcf_match, x, y, first, second, (ctypes.c_int(squared), limits, bounds, numbers), threads)
    return numbers, bounds


def _call(
    function: ctypes._NamedFuncPointer,
    x: PackedClouds,
    y: PackedClouds,
    first: Integers,
    second: Integers,
    arguments: tuple[NDArray[np.generic] | ctypes.c_int, ...],
    threads: int,
) -> None:
    status = function(
        ctypes.c_int(x.points.shape[2]),
        ctypes.c_int64(len(first)),
        _pointer(first),
        _pointer(second),
        *(part for clouds in (x, y) for part in _set(clouds)),
        *[_pointer(one) if isinstance(one, np.ndarray) else one for one in arguments],
        ctypes.c_int(threads),
        team(),
    )
    if status != 0:
        raise MemoryError(f"no memory for distances between clouds of {x.points.shape[1]} points")


def _set(clouds: PackedClouds) -> tuple[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]:
    return _pointer(clouds.points), _pointer(clouds.counts), ctypes.c_int64(clouds.points.shape[1])


def _pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

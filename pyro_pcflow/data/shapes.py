"""What a reader finds in a file: a surface, tables of points, or an array of clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CloudArray", "PointTable", "Shape", "Surface"]


@dataclass(frozen=True)
class Surface:
    """A triangle mesh: `vertices` (V, 3) float64 and `faces` (F, 3) int64."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]


@dataclass(frozen=True)
class PointTable:
    """One cloud of points with all that its file says of each of them.

    Attributes:
        columns: from names to values, (N,) each, in the file's order and types: float32 stays float32, and words stay
            words.
        named: whether the file or its format says the names; without them columns are called "1", "2" and so on.
        name: of this cloud, where a file holds several and names them.
    """

    columns: dict[str, NDArray[Any]]
    named: bool = True
    name: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class CloudArray:
    """Clouds of one size, `points` (S, N, D), of any real type; perhaps still on disk.

    `splits` (S,), words, are their splits where the file says them, and `labels` (S,), whole numbers or words, their
    classes.
    """

    points: NDArray[np.generic]
    splits: NDArray[np.str_] | None = None
    labels: NDArray[np.generic] | None = None


# Several tables are several clouds, as the stations of a laser scanner are.
Shape: TypeAlias = Surface | CloudArray | list[PointTable]

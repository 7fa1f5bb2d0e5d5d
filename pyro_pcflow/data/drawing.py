"""Points of one stored cloud: which columns are coordinates, which rows are kept, and how many are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_pcflow.data.columns import Chosen, choose_columns
from pyro_pcflow.data.errors import cloud_error
from pyro_pcflow.data.listing import Entry
from pyro_pcflow.data.sampling import choose_rows, derive_seed, sample_surface
from pyro_pcflow.data.shapes import CloudArray, PointTable, Surface
from pyro_pcflow.data.strays import find_strays
from pyro_pcflow.ops.origin import find_origin
from pyro_pcflow.ops.reading import phrase

__all__ = ["Columns", "DrawnCloud", "Selection", "StoredCloud", "narrowed"]

# Names or places of columns: in one text with commas, or in a list.
Columns: TypeAlias = str | Sequence[str | int]


@dataclass(frozen=True)
class Selection:
    """What is taken of each cloud of a file.

    Attributes:
        columns: the coordinates; None takes those that the names say, or all of a table of two or three columns.
        features: further columns, or None.
        drop_nan: leave out points whose coordinates or features are NaN or infinite, rather than refuse them.
        outliers: leave out points so many standard deviations astray, see `find_strays`; None keeps them.
    """

    columns: Columns | None = None
    features: Columns | None = None
    drop_nan: bool = False
    outliers: float | None = None


@dataclass(frozen=True)
class DrawnCloud:
    """Points of a cloud.

    Attributes:
        points: (N, D), float32 where that keeps a thousandth of their spacing, else float64.
        features: (N, F) of the same type, or None.
        rows: which points of the file they are, (N,); None for all of them in their order, and for those of a mesh.
        dropped: how many points of the file were left out since they are not finite.
        strays: how many were left out since they lie astray.
        names: of the coordinates; empty where the file has none.
        feature_names: of the features.
    """

    points: NDArray[np.generic]
    features: NDArray[np.generic] | None
    rows: NDArray[np.int64] | None
    dropped: int = 0
    strays: int = 0
    names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()

    @property
    def joined(self) -> NDArray[np.generic]:
        """Coordinates and features side by side, (N, D + F)."""
        return self.points if self.features is None else np.concatenate([self.points, self.features], axis=1)


@dataclass(frozen=True)
class StoredCloud:
    """A cloud as it lies in its file, before points are drawn.

    Attributes:
        entry: the file.
        source: the mesh, the table, or the array that holds it.
        index: position in the file.
        split: of the file's folder, or what the file itself says.
        remaining: how many clouds are to come at the least: the others of the file, and one of each file after it.
    """

    entry: Entry
    source: Surface | PointTable | CloudArray
    index: int
    split: str | None
    remaining: int

    @property
    def num_points(self) -> int | None:
        """Number of points in the file; None for a mesh, which has any number."""
        if isinstance(self.source, Surface):
            return None
        return len(self.source) if isinstance(self.source, PointTable) else self.source.points.shape[1]

    @property
    def label(self) -> int | str | None:
        """The class that the file says, or else that of its folder."""
        if isinstance(self.source, CloudArray) and self.source.labels is not None:
            label = self.source.labels[self.index]
            return str(label) if self.source.labels.dtype.kind == "U" else int(label)
        return self.entry.category

    def draw(self, num_points: int | None, seed: int, selection: Selection = Selection()) -> DrawnCloud:
        """Take some points, as `load_clouds` does; None takes all that a cloud has, in their order.

        Raises:
            CloudError: points that are not finite, columns that cannot be told apart or are not there, all points of a
                mesh, or none left.
        """
        seed, path = derive_seed(seed, self.entry.name, self.index), self.entry.path
        if isinstance(self.source, Surface):
            if selection.features is not None:
                raise cloud_error(path, "a mesh, which has no columns", "expected a cloud for features=")
            if num_points is None:
                raise cloud_error(path, "a mesh, which has any number of points", "give num_points")
            return DrawnCloud(narrowed(sample_surface(self.source, num_points, seed)), None, None)
        chosen = self._chosen(selection)
        count = len(chosen.points)
        # None stands for all rows, whose numbers a large cloud need not hold.
        rows = _finite_rows(path, chosen, selection.drop_nan)
        dropped = 0 if rows is None else count - len(rows)
        strays = 0
        if selection.outliers is not None:
            there = np.arange(count) if rows is None else rows
            astray = find_strays(chosen.points[there], selection.outliers)
            rows, strays = there[~astray], int(astray.sum())
        left = count - dropped - strays
        if not left:
            raise cloud_error(path, "no point is left", f"{dropped} were not finite, {strays} astray")
        if num_points not in (None, left):
            numbers = choose_rows(left, num_points, seed)
            rows = numbers if rows is None else rows[numbers]
        try:
            points = narrowed(chosen.points if rows is None else chosen.points[rows])
        except ValueError as error:
            raise cloud_error(path, phrase(error), "subtract an origin first") from error
        features = chosen.features if chosen.features is None or rows is None else chosen.features[rows]
        features = None if features is None else features.astype(points.dtype, copy=False)
        return DrawnCloud(points, features, rows, dropped, strays, chosen.names, chosen.feature_names)

    def _chosen(self, selection: Selection) -> Chosen:
        path = self.entry.path
        try:
            if isinstance(self.source, PointTable):
                return choose_columns(self.source, selection.columns, selection.features)
            assert isinstance(self.source, CloudArray)
            return _columns_of_array(self.source.points[self.index], selection)
        except ValueError as error:
            raise cloud_error(path, phrase(error), "name columns with columns= or features=") from error


def narrowed(points: NDArray[np.generic]) -> NDArray[np.generic]:
    """Coordinates as float32 where that loses less than a thousandth of their spacing, else as float64.

    Args:
        points: (N, D), of any real type, finite.

    Examples:
        >>> metre = np.linspace(0, 1, 1000)[:, None] * [1.0, 1.0]
        >>> narrowed(metre).dtype, narrowed(metre + 4_485_513).dtype
        (dtype('float32'), dtype('float64'))
    """
    if points.dtype.kind == "f" and points.dtype.itemsize <= 4:
        return points.astype(np.float32, copy=False)
    # The array may be that of a file, of which torch makes no tensor.
    exact = np.require(points, np.float64, ["C", "W"])
    if points.dtype.kind in "iu" and points.dtype.itemsize == 8 and not (exact.astype(points.dtype) == points).all():
        raise ValueError("whole numbers beyond 2^53, which no float holds")
    return exact.astype(np.float32) if find_origin(torch.from_numpy(exact)) is None else exact


def _columns_of_array(points: NDArray[np.generic], selection: Selection) -> Chosen:
    """Choose columns of an array, which has places and no names; without a choice all are coordinates."""
    if selection.columns is None and selection.features is None:
        return Chosen(points, None, (), ())
    table = PointTable({str(place): points[:, place - 1] for place in range(1, points.shape[1] + 1)}, named=False)
    columns = selection.columns
    if columns is None or columns == "xyz":
        columns = tuple(range(1, min(points.shape[1], 3) + 1))
    return choose_columns(table, columns, selection.features)


def _finite_rows(path: Path, chosen: Chosen, drop: bool) -> NDArray[np.int64] | None:
    """Which rows are finite in float32's range; None for all of them."""
    finite = _is_finite(chosen.points)
    if chosen.features is not None:
        finite &= _is_finite(chosen.features)
    if finite.all():
        return None
    if not drop:
        found = f"{np.count_nonzero(~finite)} of {finite.size} points are NaN, infinite or beyond float32"
        raise cloud_error(path, found, "remove them, or leave them out with drop_nan=True")
    return finite.nonzero()[0]


def _is_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        return np.asarray(np.isfinite(np.asarray(values, dtype=np.float32)).all(axis=1))

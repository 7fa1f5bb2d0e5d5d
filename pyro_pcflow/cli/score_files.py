"""Files of scored points: tables, arrays, and clouds whose score other programs show as a scalar field."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.cli.shared import SCORE, note

if TYPE_CHECKING:
    from pyro_pcflow.data.drawing import StoredCloud

__all__ = ["ScoreFile", "Scored", "open_scores", "row"]

# Rows of a table that are written at a time.
ROWS_AT_ONCE = 65_536
CLOUD, POINT = "cloud", "point"


class Scored(NamedTuple):
    """A cloud and its log-densities.

    Attributes:
        number: counted from 0 over all clouds.
        stored: where it lies.
        points: (N, D), in the file's own frame.
        axes: names of the coordinates, one each.
        others: the file's other columns, (N,) each.
        rows: numbers of the points in their file, (N,).
        scores: log-densities of the points, (N,).
        total: log-density of the cloud.
    """

    number: int
    stored: StoredCloud
    points: NDArray[Any]
    axes: tuple[str, ...]
    others: dict[str, NDArray[Any]]
    rows: NDArray[np.int64]
    scores: NDArray[Any]
    total: float


class ScoreFile(ABC):
    """A file of the scores of clouds, one after another.

    Columns are those of the first cloud: what a later one lacks is empty, and what only later ones have is left out and
    told of.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._axes: tuple[str, ...] = ()
        self._others: tuple[str, ...] = ()
        self._left_out: set[str] = set()

    def add(self, cloud: Scored) -> None:
        """Take in a cloud."""
        if not self._axes:
            self._axes, self._others = cloud.axes, tuple(cloud.others)
        self._left_out |= cloud.others.keys() - set(self._others)
        self._add(cloud)

    def finish(self) -> None:
        """Write what is left, and tell of columns that were left out."""
        if self._left_out:
            note(f"columns that the first cloud does not have are left out: {', '.join(sorted(self._left_out))}")

    def _name(self, wanted: str) -> str:
        """A name that no column of the file has: it is not replaced."""
        return _free_name(wanted, {*self._axes, *self._others})

    @abstractmethod
    def _add(self, cloud: Scored) -> None: ...


class _CsvScores(ScoreFile):
    """A table of points: cloud, number in the file, coordinates, the file's other columns, log-density."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._begun = False

    def _add(self, cloud: Scored) -> None:
        if not self._begun:
            self._begun = True
            names = [self._name(CLOUD), self._name(POINT), *self._axes, *self._others, self._name(SCORE)]
            self._file.write(row(names))
        for start in range(0, len(cloud.points), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            count = len(cloud.points[some])
            others = [cloud.others[name][some] if name in cloud.others else np.full(count, "") for name in self._others]
            columns = [cloud.rows[some], *cloud.points[some].T, *others, cloud.scores[some]]
            lines = zip(*(_texts(column) for column in columns), strict=True)
            self._file.write("".join(f"{cloud.number},{','.join(line)}\n" for line in lines).encode())


def _texts(column: NDArray[Any]) -> list[str]:
    """Cells of a table; numpy's text of a float is the shortest that reads back as the same number."""
    if column.dtype.kind != "U":
        return column.astype(str).tolist()
    return [row([word]).decode("utf-8", "surrogateescape")[:-1] if _is_awkward(word) else word for word in column]


def _is_awkward(word: str) -> bool:
    return any(sign in word for sign in ',"\r\n') or not word.isascii()


class _NpyScores(ScoreFile):
    """The log-densities alone: (S, N), or (total,) one cloud after another if their sizes differ."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._scores: list[NDArray[Any]] = []

    def _add(self, cloud: Scored) -> None:
        self._scores.append(cloud.scores)

    def finish(self) -> None:
        from pyro_pcflow.ops.files import write_npy

        of_one_size = len({len(scores) for scores in self._scores}) == 1
        write_npy(self._file, (np.stack if of_one_size else np.concatenate)(self._scores))


class _Clouds(ScoreFile):
    """One cloud of all points, with the score as a scalar field."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._parts: list[Scored] = []

    def _add(self, cloud: Scored) -> None:
        if cloud.points.shape[1] != 3:
            raise ValueError(
                f"points of {cloud.points.shape[1]} coordinates, but such a file has 3: give a name that ends in .csv"
            )
        self._parts.append(cloud)

    def finish(self) -> None:
        super().finish()
        parts = self._parts
        points = np.concatenate([part.points for part in parts])
        columns = dict(zip("xyz", points.T, strict=True))
        words = []
        for name in self._others:
            found = [part.others.get(name) for part in parts]
            if any(column is not None and column.dtype.kind not in "fiu" for column in found):
                words.append(name)
                continue
            given = [
                np.full(len(part.points), np.nan) if column is None else column
                for part, column in zip(parts, found, strict=True)
            ]
            columns[_free_name(name, columns)] = np.concatenate(given)
        if words:
            note(f"columns of words, which such a file cannot hold, are left out: {', '.join(words)}")
        if len(parts) > 1:
            numbers = [np.full(len(part.points), part.number, dtype=np.int32) for part in parts]
            columns[self._name(CLOUD)] = np.concatenate(numbers)
        columns[self._name(SCORE)] = np.concatenate([part.scores for part in parts])
        self._write(columns)

    @abstractmethod
    def _write(self, columns: dict[str, NDArray[Any]]) -> None: ...


class _PlyScores(_Clouds):
    """A binary PLY: doubles where the input had them."""

    def _write(self, columns: dict[str, NDArray[Any]]) -> None:
        from pyro_pcflow.data.writing_ply import write_ply

        # CloudCompare and MeshLab show properties of such names as scalar fields.
        ours = (self._name(SCORE), self._name(CLOUD))
        named: dict[str, NDArray[Any]] = {}
        for name, values in columns.items():
            # A file that was scored before has a property of ours, which stays.
            named[_free_name(f"scalar_{name}" if name in ours else "_".join(name.split()), named)] = values
        write_ply(self._file, named)


class _LasScores(_Clouds):
    """LAS or LAZ, in which the score is an extra dimension."""

    def __init__(self, file: BinaryIO, compressed: bool) -> None:
        super().__init__(file)
        self._compressed = compressed

    def _write(self, columns: dict[str, NDArray[Any]]) -> None:
        from pyro_pcflow.data.writing_las import write_las

        write_las(self._file, columns, compress=self._compressed)


def _free_name(wanted: str, taken: Container[str]) -> str:
    """A name that is not taken: the one that is wanted, or with a number behind it."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def open_scores(file: BinaryIO, suffix: str) -> ScoreFile:
    """The writer for a suffix of a name: .csv, .npy, .ply, .las or .laz."""
    if suffix in (".las", ".laz"):
        return _LasScores(file, compressed=suffix == ".laz")
    if suffix == ".ply":
        return _PlyScores(file)
    return _NpyScores(file) if suffix == ".npy" else _CsvScores(file)


def row(cells: Sequence[Any]) -> bytes:
    """A line of CSV; file names may need quotes, and need not be UTF-8."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")

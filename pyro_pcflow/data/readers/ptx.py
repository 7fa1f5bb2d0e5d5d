"""PTX: stations of a laser scanner, each a grid of points with the scanner's pose."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.encoding import plain_lines
from pyro_pcflow.data.readers.text_columns import read_columns
from pyro_pcflow.data.readers.text_dialect import Dialect
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.ops.reading import shortened

__all__ = ["read_ptx"]

_NAMES = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "intensity"),
    6: ("x", "y", "z", "r", "g", "b"),
    7: ("x", "y", "z", "intensity", "r", "g", "b"),
}
# Columns, rows, four lines of the scanner's own axes, and a matrix of four.
_HEADER_LINES, _MATRIX_LINES = 10, 4
_LONGEST = 1000
_MOST_STATIONS = 20_000


def read_ptx(path: Path) -> list[PointTable]:
    """Read all stations of a PTX file, in their common frame.

    Args:
        path: the file.

    Returns:
        A table of each station: x, y, z, and what else its lines hold of intensity, r, g and b. Cells of the grid where
        the scanner measured nothing have NaN coordinates.

    Raises:
        ValueError: a damaged header, too few or too many lines, or words among numbers; the message names the line.
    """
    text = plain_lines(path.read_bytes())
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == 10)
    lines = _Lines(text, breaks)
    # Blank lines at the end are none of a station.
    last = len(breaks)
    while last and not lines[last - 1].strip():
        last -= 1
    if not last:
        raise ValueError("no numbers in it")
    tables: list[PointTable] = []
    row = 0
    while row < last:
        if len(tables) == _MOST_STATIONS:
            raise ValueError(f"more than {_MOST_STATIONS} stations")
        if last - row < _HEADER_LINES:
            raise ValueError(f"line {row + 1}: a station begins, and its header of {_HEADER_LINES} lines is cut short")
        count = _size(lines[row], row) * _size(lines[row + 1], row + 1)
        for number in range(row + 2, row + _HEADER_LINES - _MATRIX_LINES):
            _numbers(lines[number], 3, number)
        first = row + _HEADER_LINES
        matrix = np.array([_numbers(lines[number], 4, number) for number in range(first - _MATRIX_LINES, first)])
        _check_matrix(matrix, first - _MATRIX_LINES + 1)
        if count > last - first:
            raise ValueError(f"line {row + 1}: columns and rows promise {count} points, {last - first} lines follow")
        start, end = lines.start(first), lines.start(first + count)
        tables.append(_station(text, start, end, first, count, matrix, f"station {len(tables) + 1}"))
        row = first + count
    return tables


class _Lines:
    """Lines of a text by their places in it, without a copy of them all."""

    def __init__(self, text: bytes, breaks: NDArray[np.intp]) -> None:
        self._text = text
        self._breaks = breaks

    def start(self, row: int) -> int:
        return int(self._breaks[row - 1]) + 1 if row else 0

    def __getitem__(self, row: int) -> str:
        start, end = self.start(row), int(self._breaks[row])
        return self._text[start : min(end, start + _LONGEST)].decode("utf-8", "replace")


def _size(line: str, row: int) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", line) or int(line) == 0:
        raise ValueError(f"line {row + 1}: {shortened(line.strip())} stands where a number of columns or rows belongs")
    return int(line)


def _numbers(line: str, count: int, row: int) -> list[float]:
    dialect = Dialect()
    values = [dialect.number(word) for word in line.split()]
    finite = [value for value in values if value is not None and np.isfinite(value)]
    if len(values) != count or len(finite) != count:
        raise ValueError(f"line {row + 1}: {shortened(line.strip())} stands where {count} numbers of a header belong")
    return finite


def _check_matrix(matrix: NDArray[np.float64], number: int) -> None:
    """The format multiplies rows from the left: the shift is the last line."""
    if not np.allclose(matrix[:, 3], (0, 0, 0, 1), atol=1e-9):
        raise ValueError(
            f"line {number}: a matrix whose last column is not 0 0 0 1: the shift belongs into its last line"
        )
    with np.errstate(all="ignore"):
        volume = np.linalg.det(matrix[:3, :3])
    if not 1e-9 < abs(volume) < 1e9:
        raise ValueError(f"line {number}: a matrix that flattens what it moves")


def _station(
    text: bytes, start: int, end: int, first: int, count: int, matrix: NDArray[np.float64], name: str
) -> PointTable:
    width = len(text[start : text.find(b"\n", start)].split())
    if width not in _NAMES:
        raise ValueError(f"line {first + 1} has {width} columns instead of 3, 4, 6 or 7")
    columns = read_columns(text, Dialect(), width, start=start, end=end, first_line=first + 1)
    if columns[0].lines != count:
        raise ValueError(f"line {first + 1}: {count} points are promised, {columns[0].lines} lines of numbers follow")
    values = dict(zip(_NAMES[width], (column.values() for column in columns), strict=True))
    for axis, column in values.items():
        if column.dtype.kind not in "fiu":
            raise ValueError(f"line {first + 1}: {axis} is a word")
    local = np.stack([values.pop(axis).astype(np.float64) for axis in "xyz"], axis=1)
    with np.errstate(all="ignore"):
        points = local @ matrix[:3, :3] + matrix[3, :3]
    # Nothing is measured at the scanner's own centre.
    points[~local.any(axis=1)] = np.nan
    return PointTable({**dict(zip("xyz", points.T, strict=True)), **values}, name=name)

"""The body of a table of text: lines of cells to columns of integers, floats or words."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.text_dialect import MOST_CHARACTERS, Dialect
from pyro_pcflow.ops.reading import shortened

__all__ = ["Column", "read_columns"]

# The text is read in pieces, so that what is made of it on the way stays small.
_PIECE = 1 << 20
_FORTRAN = re.compile(rb"(?<=[0-9.])[dD](?=[+-]?[0-9])")
_MINUS = "\N{MINUS SIGN}".encode()
_INTEGERS = str.maketrans("", "", "0123456789+-\n")
_INTEGER_BYTES = b"0123456789+- \t\v\f\n"
# Arrays of words give each the room of the longest: one long word must not fill the memory.
_MOST_OF_A_WORD = 256
_MOST_OF_WORDS = 1 << 26
_EXACT = 1 << 53


class Column:
    """One column while it is read.

    Attributes:
        filled: how many of its cells are not empty.
        lines: how many it has.
    """

    def __init__(self, place: int) -> None:
        self._place = place
        self._parts: list[NDArray[Any]] = []
        self._longest = 0
        self._words: bool | None = None  # None while all was empty
        self.filled = 0
        self.lines = 0

    def add_numbers(self, values: NDArray[Any]) -> None:
        """Add values of a piece in which every cell is a number.

        Args:
            values: int64, uint64 or float64.
        """
        self._words = False
        self._append(values, len(values))

    def add_nothing(self, count: int) -> None:
        """Add empty cells."""
        # Words need their empty cells as words.
        self._append(np.full(count, "") if self._words else np.full(count, np.nan), 0)

    def add(self, cells: Sequence[str], lines: Sequence[int], dialect: Dialect) -> None:
        """Add cells of a piece.

        Args:
            cells: texts.
            lines: the numbers of their lines in the file.
            dialect: what a number is.

        Raises:
            ValueError: words among numbers, or numbers that no type holds; the message names the line.
        """
        filled = len(cells) - cells.count("")
        if not filled:
            self.add_nothing(len(cells))
            return
        values = None if self._words else _numbers(cells, dialect)
        if values is not None:
            # A column that begins with NaN may be of words yet.
            if self._words is None and not (values.dtype.kind == "f" and np.isnan(values).all()):
                self._words = False
            self._append(values, filled)
            return
        words = self._words
        for cell in dict.fromkeys(cells):
            value = dialect.number(cell)
            if value is not None and value != value:
                continue
            words = value is None if words is None else words
            if words is (value is not None) or (words and not dialect.is_word(cell)):
                raise ValueError(_complaint(cell, lines[cells.index(cell)], self._place, words))
            if len(cell) > _MOST_OF_A_WORD:
                raise ValueError(f"column {self._place} has a word of more than {_MOST_OF_A_WORD} characters")
        if self._words is None and self._parts:
            self._parts = [np.full(self.lines, "")]
        self._words = True
        self._longest = max(self._longest, max(map(len, cells)))
        if (self.lines + len(cells)) * self._longest * 4 > _MOST_OF_WORDS + 400 * (self.lines + len(cells)):
            raise ValueError(
                f"column {self._place} has words of up to {self._longest} characters, too long for an array"
            )
        self._append(np.array(cells), filled)

    def values(self) -> NDArray[Any]:
        """All cells: int64, uint64, float64 or words.

        Raises:
            ValueError: whole numbers that fit no type together.
        """
        if not self._parts:
            return np.zeros(0)
        kinds = {part.dtype.kind for part in self._parts}
        if kinds == {"i", "u"} and all(part.min() >= 0 for part in self._parts if part.dtype.kind == "i"):
            return np.concatenate([part.astype(np.uint64) for part in self._parts])
        if len(kinds) > 1:
            # Decimal numbers are rounded to floats anyway; whole ones beside empty cells must not be.
            whole = all(
                part.dtype.kind in "iu" or (np.isnan(part) | (part == np.floor(part))).all() for part in self._parts
            )
            floats = [part.astype(np.float64) for part in self._parts]
            if whole and not all(map(_is_kept, self._parts, floats)):
                raise ValueError(
                    f"column {self._place} has whole numbers beyond 2^53 among others, no float64 keeps them"
                )
            self._parts = list(floats)
        values = np.concatenate(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts = []
        return values

    def _append(self, values: NDArray[Any], filled: int) -> None:
        self._parts.append(values)
        self.filled += filled
        self.lines += len(values)


def _complaint(cell: str, line: int, place: int, words: bool) -> str:
    if words:
        return f"line {line}: {shortened(cell)} stands in column {place}, which is of words"
    return f"line {line}: {shortened(cell)} is no number{_reason(cell)}"


def _is_kept(part: NDArray[Any], floats: NDArray[np.float64]) -> bool:
    """Whether floats are still the whole numbers that they were made of."""
    if part.dtype.kind == "f":
        return True
    large = np.flatnonzero(np.abs(floats) >= _EXACT)
    return all(int(value) == int(floats[k]) for k, value in zip(large, part[large].tolist(), strict=True))


def _reason(cell: str) -> str:
    if re.fullmatch(r"[+-]?0[xX][0-9a-fA-F]+", cell):
        return ", hexadecimals are not read"
    if re.fullmatch(r"[+-]?[0-9]{1,3}(?:[,.' _\u00a0\u202f][0-9]{3})+(?:[.,][0-9]*)?", cell):
        return ": write it without marks of thousands"
    return ""


def read_columns(
    text: bytes,
    dialect: Dialect,
    width: int,
    *,
    start: int = 0,
    end: int | None = None,
    first_line: int = 1,
    words: bool = False,
    trailing: bool = False,
) -> list[Column]:
    """Read lines of equally many cells; blank lines and comments are passed over.

    Args:
        text: UTF-8 lines, each with its end.
        dialect: how they are written.
        width: how many cells a line has.
        start: the byte at which they begin.
        end: the byte behind the last of them; None for the end of the text.
        first_line: the number of the first one in the file.
        words: whether some column is of words, and a fast look for numbers alone is in vain.
        trailing: whether a delimiter ends each line, and the last cell is empty.

    Returns:
        The columns.

    Raises:
        ValueError: a line of another width, or cells that are not understood; the message names the line.

    Examples:
        >>> columns = read_columns(b"1;0,5;a\\n2;1,5;b\\n", Dialect(";", ","), 3)
        >>> [column.values().tolist() for column in columns]
        [[1, 2], [0.5, 1.5], ['a', 'b']]
    """
    columns = [Column(place) for place in range(1, width + 1)]
    end = len(text) if end is None else end
    while start < end:
        stop = text.rfind(b"\n", start, min(start + _PIECE, end)) + 1
        if not stop:
            raise ValueError(f"line {first_line} has more than {MOST_CHARACTERS} characters")
        piece = text[start:stop]
        values = None if words else _fast(piece, dialect, width, trailing)
        if values is None:
            _slow(piece, dialect, columns, first_line)
        else:
            for column, part in zip(columns, values, strict=False):
                column.add_numbers(part)
            if trailing and values:
                columns[-1].add_nothing(len(values[0]))
        first_line += piece.count(b"\n")
        start = stop
    return columns


def _fast(piece: bytes, dialect: Dialect, width: int, trailing: bool) -> list[NDArray[Any]] | None:
    """Columns of a piece that is all numbers, or None: then the slow way finds out what else it is."""
    if b"_" in piece:
        return None
    delimiter = dialect.delimiter.encode()
    if b'"' in piece:
        # Quotes around whole cells with nothing in them that separates cells.
        around = re.compile(rb'(?<![^\n%b])"[^"\n%b]*"(?=[\n%b])' % ((re.escape(delimiter),) * 3))
        if 2 * len(around.findall(piece)) != piece.count(b'"'):
            return None
        piece = piece.replace(b'"', b"")
    piece = piece.rstrip(b"\n") + b"\n"
    if dialect.decimal == ",":
        if b"." in piece:
            return None
        piece = piece.replace(b",", b".")
    if b"D" in piece or b"d" in piece:
        piece = _FORTRAN.sub(b"e", piece)
    if not piece.isascii():
        piece = piece.replace(_MINUS, b"-")
    if trailing:
        piece, width = piece.replace(delimiter + b"\n", b"\n"), width - 1
    if not _has_width(piece, delimiter, width):
        return None
    cells = piece.split() if delimiter == b" " else piece[:-1].replace(b"\n", delimiter).split(delimiter)
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells)).reshape(-1, width)
        if np.isnan(values).any() and np.nanmax(np.abs(values), initial=0) >= _EXACT:
            return None
        return [_narrowed(values[:, k], cells, k, width) for k in range(width)]
    except ValueError:
        return None


def _has_width(piece: bytes, delimiter: bytes, width: int) -> bool:
    codes = np.frombuffer(piece, np.uint8)
    ends = np.flatnonzero(codes == 10)
    if np.diff(ends, prepend=-1).max(initial=0) > MOST_CHARACTERS:
        return False
    if delimiter == b" ":
        begins = codes > 32
        begins[1:] &= codes[:-1] <= 32
    else:
        begins = codes == delimiter[0]
    counts = np.diff(np.cumsum(begins, dtype=np.int32)[ends], prepend=np.int32(0))
    if delimiter == b" ":
        return bool(((counts == width) | (counts == 0)).all())
    return bool((counts == width - 1).all())


def _narrowed(values: NDArray[np.float64], cells: list[bytes], place: int, width: int) -> NDArray[Any]:
    """Integers where all cells of a column are written as such."""
    # Most columns have a fraction in the first line, which saves a look at all others.
    if b"." in cells[place] or not (values == np.floor(values)).all():
        return values.copy()
    if b"".join(cells[place::width]).translate(None, _INTEGER_BYTES):
        return values.copy()
    if np.abs(values).max(initial=0) < _EXACT:
        return values.astype(np.int64)
    return _integers([int(cell) for cell in cells[place::width]])


def _slow(piece: bytes, dialect: Dialect, columns: list[Column], first_line: int) -> None:
    rows, numbers, width = [], [], len(columns)
    commented = any(mark in piece for mark in (b"#", b"//", b"%", b"!", b";"))
    for number, raw in enumerate(piece.decode("utf-8").split("\n"), first_line):
        if len(raw) > MOST_CHARACTERS:
            raise ValueError(f"line {number} has more than {MOST_CHARACTERS} characters")
        line = dialect.without_comment(raw) if commented else raw
        if not line or line.isspace():
            continue
        try:
            row = dialect.cells(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not any(row):
            continue
        if len(row) != width:
            raise ValueError(f"line {number} has {len(row)} columns, the lines around it have {width}")
        rows.append(row)
        numbers.append(number)
    if rows:
        for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
            column.add(cells, numbers, dialect)


def _numbers(cells: Sequence[str], dialect: Dialect) -> NDArray[Any] | None:
    """Values of cells that all are numbers, NaN where they are empty; None where one is a word."""
    joined = "\n".join(cells)
    if not joined.translate(_INTEGERS) and all(cells):
        try:
            integers = [int(cell) for cell in cells]
        except ValueError:
            return None
        return _integers(integers)
    values: list[float | None] | None = None
    if dialect.decimal == "." and joined.isascii() and "_" not in joined:
        with contextlib.suppress(ValueError):
            values = list(map(float, cells))
    if values is None:
        values = list(map(dialect.number, cells))
        if None in values:
            return None
    floats = np.array(values, dtype=np.float64)
    if "." not in joined and np.nanmax(np.abs(floats), initial=0) >= _EXACT:
        # Whole numbers beside empty cells are kept or refused, and never rounded.
        for cell, value in zip(cells, floats.tolist(), strict=True):
            digits = cell.lstrip("+-")
            if digits.isdigit() and math.isfinite(value) and len(digits) < 400 and int(value) != int(cell):
                raise ValueError(f"{shortened(cell)} is a whole number that no float64 keeps")
    return floats


def _integers(values: list[int]) -> NDArray[Any]:
    low, high = min(values, default=0), max(values, default=0)
    if low >= -(1 << 63) and high < 1 << 63:
        return np.array(values, dtype=np.int64)
    if low >= 0 and high < 1 << 64:
        return np.array(values, dtype=np.uint64)
    if max(-low, high) < 1 << 1023 and all(int(float(value)) == value for value in values):
        return np.array(list(map(float, values)))
    raise ValueError("whole numbers of more than 64 bits, which no float64 keeps")

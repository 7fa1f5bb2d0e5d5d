"""Lines of numbers in a text, all at once: how many words each line has, and their values."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.ops.reading import shortened

__all__ = ["TextRows", "first_words", "pieces", "plain_text"]

# Text is looked at in pieces, which stay in the processor's cache.
_PIECE = 1 << 20
# Blanks before a line that are passed one by one.
_INDENTATION = 16
_INTEGERS = b"0123456789+- \t\n\v\f\r"
_DECIMALS = _INTEGERS + b"."
# All of them are exact, and so is a quotient by them but for its last rounding.
_POWERS = np.array([float(10**power) for power in range(23)])
# Beyond it a parser of integers may have clipped a value, and says nothing of it.
_LARGEST = 1 << 62
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_FORTRAN = re.compile(rb"(?<=[0-9.])[dD](?=[+-]?[0-9])")


def plain_text(data: bytes) -> bytes:
    """Bring the bytes of a text to one form: no byte order mark, and lines that end in a line feed.

    Args:
        data: the bytes of a file, in an encoding that extends ASCII, or in UTF-16 with its mark.

    Returns:
        Bytes of an encoding that extends ASCII; the last one is a line feed.

    Raises:
        ValueError: broken UTF-16.

    Examples:
        >>> plain_text(b"\\xef\\xbb\\xbf1 2\\r\\n3 4\\r5"), plain_text("1".encode("utf-16"))
        (b'1 2\\n3 4\\n5\\n', b'1\\n')
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16").encode("utf-8", "replace")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data if data.endswith(b"\n") else data + b"\n"


def first_words(codes: NDArray[np.uint8], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the first word of each line begins; at its line feed, if it has none.

    Args:
        codes: the bytes of a text.
        begins: (L,), where its lines begin.

    Returns:
        (L,).

    Examples:
        >>> first_words(np.frombuffer(b"  a b\\n\\nc\\n", np.uint8), np.array([0, 6, 7])).tolist()
        [2, 6, 7]
    """
    first = begins.copy()
    for _ in range(_INDENTATION):
        indented = (codes[first] <= 32) & (codes[first] != 10)
        if not indented.any():
            return first
        first += indented
    stops = np.flatnonzero((codes > 32) | (codes == 10))
    return stops[np.searchsorted(stops, first)]


class TextRows:
    """The lines of a text of numbers between blanks.

    Attributes:
        counts: how many words each line has, (L,).

    Args:
        text: what `plain_text` returned, comments taken out of it.
        first_line: the number of its first line in the file, or (L,) the numbers of them all, for errors.

    Examples:
        >>> rows = TextRows(b"1 2\\n\\n0.5\\n")
        >>> rows.counts.tolist(), rows.values(0, 3).tolist(), rows.values(0, 2).tolist()
        ([2, 0, 1], [1.0, 2.0, 0.5], [1, 2])
    """

    def __init__(self, text: bytes, first_line: int | NDArray[np.int64] = 1) -> None:
        self._text = text
        self._first_line = first_line
        parts = [_words_of_lines(text, start, stop) for start, stop in pieces(text, 0, len(text))]
        none = np.zeros(0, np.int64)
        self._ends = np.concatenate([none, *(ends for ends, _ in parts)])
        self.counts = np.concatenate([none, *(counts for _, counts in parts)])

    def line_number(self, row: int) -> int:
        """The number of a line in the file, counted from 1."""
        if isinstance(self._first_line, int):
            return self._first_line + int(row)
        return int(self._first_line[row])

    def values(self, first: int, last: int) -> NDArray[np.generic]:
        """All numbers of some lines, one after the other.

        Args:
            first: the first line, counted from 0.
            last: the line behind the last one.

        Returns:
            int64 where all of them are written as integers, and else float64.

        Raises:
            ValueError: a word that is no number; the message names its line.
        """
        start, stop = self._start(first), self._start(last)
        cuts = list(pieces(self._text, start, stop))
        parts = [self._piece(begin, end) for begin, end in cuts]
        values = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        if len(values) != self.counts[first:last].sum():
            self._complain(first, last)
        return values

    def words(self, first: int, last: int) -> list[bytes]:
        """All words of some lines, one after the other: what a float64 would round can be read from them."""
        return self._text[self._start(first) : self._start(last)].split()

    def _start(self, row: int) -> int:
        return int(self._ends[row - 1]) if row else 0

    def _piece(self, begin: int, end: int) -> NDArray[np.generic]:
        piece = self._text[begin:end]
        if not piece.translate(None, _INTEGERS):
            integers = _parse(piece, np.int64)
            if integers is not None and (not integers.size or np.abs(integers).max() < _LARGEST):
                return integers
        elif not piece.translate(None, _DECIMALS) and (decimals := _parse_decimals(piece)) is not None:
            return decimals
        numbers = _parse(piece, np.float64)
        if numbers is None:
            numbers = _parse(_FORTRAN.sub(b"e", piece), np.float64)
        if numbers is None:
            rows = np.searchsorted(self._ends, [begin, end - 1], side="right")
            self._complain(int(rows[0]), int(rows[1]) + 1)
            raise ValueError("words that are no numbers")
        return numbers

    def _complain(self, first: int, last: int) -> None:
        for row, line in enumerate(self._text[self._start(first) : self._start(last)].split(b"\n"), first):
            for word in line.split():
                if not _NUMBER.fullmatch(_FORTRAN.sub(b"e", word)):
                    raise ValueError(f"line {self.line_number(row)}: {shortened(word.decode('latin-1'))} is no number")
        raise ValueError(f"words that are no numbers between lines {self.line_number(first)} and {last}")


def pieces(text: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a part of a text into pieces of whole lines.

    Args:
        text: the text.
        start: where the part begins, at the begin of a line.
        stop: where it ends, behind a line feed.

    Yields:
        Where each piece begins and ends.

    Examples:
        >>> list(pieces(b"1 2\\n3 4\\n", 0, 8))
        [(0, 8)]
    """
    while start < stop:
        end = stop if stop - start <= _PIECE else text.find(b"\n", start + _PIECE, stop) + 1 or stop
        yield start, end
        start = end


def _words_of_lines(text: bytes, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    codes = np.frombuffer(text, np.uint8, stop - start, start)
    begins = codes > 32
    begins[1:] &= codes[:-1] <= 32
    ends = np.flatnonzero(codes == 10)
    so_far = np.cumsum(begins, dtype=np.int32)[ends]
    return ends + start + 1, np.diff(so_far, prepend=np.int32(0)).astype(np.int64)


def _parse(piece: bytes, kind: type) -> NDArray[np.generic] | None:
    with warnings.catch_warnings():
        # Older numpy stops at the first word that is no number, warns, and returns what it has.
        warnings.simplefilter("error")
        if piece.rstrip()[-1:] in (b"+", b"-"):
            # The parser of integers takes a sign at the very end for 0.
            return None
        try:
            return np.fromstring(piece, dtype=kind, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _parse_decimals(piece: bytes) -> NDArray[np.float64] | None:
    """Numbers without exponents and of few digits, as integers over powers of ten; nothing if there are others.

    A parser of integers is ten times as fast as one of real numbers.
    """
    codes = np.frombuffer(piece, np.uint8)
    blanks = codes <= 32
    ends = np.flatnonzero(blanks[1:] & ~blanks[:-1])
    points = np.flatnonzero(codes == ord("."))
    integers = _parse(piece.translate(None, b"."), np.int64)
    if integers is None or not len(integers) or len(integers) != len(ends) or np.abs(integers).max() >= 1 << 53:
        return None
    words = np.searchsorted(ends, points)
    places = np.zeros(len(ends), np.int64)
    places[words] = ends[words] - points
    if (np.diff(words) < 1).any() or places.max() >= len(_POWERS):
        return None
    return integers / _POWERS[places]

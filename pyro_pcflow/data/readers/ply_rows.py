"""Rows of the elements of a PLY file, text or binary: a column of each property, and lists end to end."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pyro_pcflow.data.readers.ply_header import Element, Header, Property
from pyro_pcflow.data.readers.text_rows import TextRows, plain_text

__all__ = ["Lists", "read_rows"]

# Behind the data, some writers end a line or fill a word.
_MOST_PADDING = 16
_PADDING = b"\0\n\r\x1a "
# Items of lists that are gathered at once.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Lists:
    """A list property of all rows: `counts` (N,), and their `values` end to end."""

    counts: NDArray[np.int64]
    values: NDArray[Any]


Rows: TypeAlias = dict[str, NDArray[Any] | Lists]


def read_rows(data: bytes, header: Header) -> dict[str, Rows]:
    """Read all elements of a PLY file.

    Args:
        data: the whole file.
        header: its header.

    Returns:
        Of each element its properties by name, in the machine's own byte order.

    Raises:
        ValueError: data that are no such elements, fewer than the header promises, or more.
    """
    if header.ascii:
        return _read_text(data, header)
    offset, found = header.start, {}
    for element in header.elements:
        found[element.name], offset = _read_binary(data, offset, element)
    rest = data[offset:]
    if len(rest) > _MOST_PADDING or rest.strip(_PADDING):
        raise ValueError(f"{len(rest)} bytes behind all that the header promises")
    return found


# Text.


def _read_text(data: bytes, header: Header) -> dict[str, Rows]:
    rows = TextRows(plain_text(data[header.start :]), header.lines + 1)
    lines = np.flatnonzero(rows.counts)
    # Elements without properties take no line.
    promised = sum(element.count for element in header.elements if element.properties)
    if promised != len(lines):
        words = "promises" if promised > len(lines) else "promises no more than"
        raise ValueError(f"header {words} {promised} lines, found {len(lines)}")
    first, found = 0, {}
    for element in header.elements:
        own = lines[first : first + element.count] if element.properties else lines[:0]
        first += len(own)
        found[element.name] = _read_lines(rows, own, element)
    return found


def _read_lines(rows: TextRows, lines: NDArray[np.int64], element: Element) -> Rows:
    counts = rows.counts[lines]
    values = rows.values(int(lines[0]), int(lines[-1]) + 1) if len(lines) else np.zeros(0, np.int64)
    stops = np.cumsum(counts)
    at = stops - counts
    found: Rows = {}
    for entry in element.properties:
        _check_ends(rows, lines, element, at < stops)
        column = values[at]
        if entry.type.itemsize == 8 and entry.type.kind != "f" and column.dtype.kind == "f" and _is_rounded(column):
            column = _exact(rows.words(int(lines[0]), int(lines[-1]) + 1), at, entry)
        at = at + 1
        if entry.count_type is None:
            found[entry.name] = _as_type(rows, lines, column, entry.name, entry.type)
            continue
        lengths = _as_type(rows, lines, column, entry.name, np.dtype(np.int64))
        _check_ends(rows, lines, element, (lengths >= 0) & (lengths <= stops - at))
        items = values[_spread(at, lengths, 1)]
        found[entry.name] = Lists(
            lengths, _as_type(rows, np.repeat(lines, lengths), items, entry.name, entry.type.newbyteorder("="))
        )
        at = at + lengths
    _check_ends(rows, lines, element, at == stops)
    return found


def _is_rounded(column: NDArray[Any]) -> bool:
    return bool((np.abs(column) >= 2.0**53).any())


def _exact(words: list[bytes], at: NDArray[np.int64], entry: Property) -> NDArray[Any]:
    """Integers beyond what a float64 holds exactly, as times in nanoseconds are."""
    own = [words[index] for index in at.tolist()]
    if not all(re.fullmatch(rb"[+-]?[0-9]{1,20}", word) for word in own):
        raise ValueError(f"values of {entry.name} that are no {entry.type.newbyteorder('=')}")
    try:
        return np.array([int(word) for word in own], entry.type.newbyteorder("="))
    except OverflowError:
        raise ValueError(f"values of {entry.name} beyond {entry.type.newbyteorder('=')}") from None


def _check_ends(rows: TextRows, lines: NDArray[np.int64], element: Element, right: NDArray[np.bool_]) -> None:
    if not right.all():
        line = int(lines[right.argmin()])
        raise ValueError(
            f"line {rows.line_number(line)}: {rows.counts[line]} words where the header promises another "
            f"number for each {element.name}"
        )


def _as_type(rows: TextRows, lines: NDArray[np.int64], values: NDArray[Any], name: str, kind: np.dtype) -> NDArray[Any]:
    kind = kind.newbyteorder("=")
    if kind.kind == "f":
        # A double that float32 cannot hold becomes infinite, which is refused later on.
        with np.errstate(all="ignore"):
            return values.astype(kind)
    limits = np.iinfo(kind)
    if values.dtype.kind == "f":
        with np.errstate(all="ignore"):
            right = (values == np.floor(values)) & (np.abs(values) < 2.0**53)
        right &= (values >= limits.min) & (values <= limits.max)
    else:
        most = min(limits.max, np.iinfo(values.dtype).max)
        right = (values >= max(limits.min, np.iinfo(values.dtype).min)) & (values <= most)
    if not right.all():
        line = int(lines[right.argmin()])
        raise ValueError(f"line {rows.line_number(line)}: '{values[right.argmin()]}' is no {kind} of {name}")
    return values.astype(kind)


# Binary.


def _read_binary(data: bytes, offset: int, element: Element) -> tuple[Rows, int]:
    if not element.properties:
        return {}, offset
    needed, there = element.count * element.least_bytes, len(data) - offset
    if needed > there:
        raise ValueError(f"header promises {needed} bytes or more of element {element.name}, found {there}")
    if element.count == 0:
        return _read_regular(data, offset, element, [0] * len(element.properties)) or {}, offset
    lengths = _lengths_of_a_row(data, offset, element)
    size = element.least_bytes + sum(
        length * entry.type.itemsize for length, entry in zip(lengths, element.properties, strict=True)
    )
    regular = _read_regular(data, offset, element, lengths) if element.count * size <= there else None
    if regular is not None:
        return regular, offset + element.count * size
    return _read_irregular(data, offset, element)


def _lengths_of_a_row(data: bytes, offset: int, element: Element) -> list[int]:
    lengths = []
    for entry in element.properties:
        length = 0
        if entry.count_type is not None:
            length = _length(data, offset, entry.count_type)
            offset += entry.count_type.itemsize + length * entry.type.itemsize
        else:
            offset += entry.type.itemsize
        lengths.append(length)
    return lengths


def _length(data: bytes, offset: int, kind: np.dtype) -> int:
    stop = offset + kind.itemsize
    if stop > len(data):
        raise ValueError("the file ends within a list")
    order = "big" if kind.str[0] == ">" else "little"
    length = int.from_bytes(data[offset:stop], order, signed=kind.kind == "i")  # type: ignore[arg-type]
    if length < 0:
        raise ValueError(f"a list of {length} values")
    return length


def _read_regular(data: bytes, offset: int, element: Element, lengths: list[int]) -> Rows | None:
    """Read rows whose lists are as long as those of the first; nothing if others are not."""
    # A dtype of numpy holds less than two gigabytes.
    if sum(length * entry.type.itemsize for length, entry in zip(lengths, element.properties, strict=True)) > 1 << 30:
        return None
    fields: list[tuple[Any, ...]] = []
    for number, (entry, length) in enumerate(zip(element.properties, lengths, strict=True)):
        if entry.count_type is not None:
            fields.append((f"count {number}", entry.count_type))
        fields.append((f"{number}", entry.type) if entry.count_type is None else (f"{number}", entry.type, (length,)))
    table = np.frombuffer(data, np.dtype(fields), element.count, offset)
    found: Rows = {}
    for number, (entry, length) in enumerate(zip(element.properties, lengths, strict=True)):
        column = table[f"{number}"]
        if entry.count_type is None:
            found[entry.name] = _native(column)
        elif (table[f"count {number}"] == length).all():
            found[entry.name] = Lists(np.full(element.count, length), _native(column).reshape(-1))
        else:
            return None
    return found


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("="), order="C")


def _read_irregular(data: bytes, offset: int, element: Element) -> tuple[Rows, int]:
    """Read rows one after the other: each begins where the lists of the one before it end."""
    starts, lengths, stop = _walk(data, offset, element)
    raw = np.frombuffer(data, np.uint8)
    found: Rows = {}
    at = starts
    for entry, counts in zip(element.properties, lengths, strict=True):
        if counts is None:
            found[entry.name] = _gather(raw, at, entry)
            at = at + entry.type.itemsize
            continue
        assert entry.count_type is not None
        at = at + entry.count_type.itemsize
        found[entry.name] = Lists(counts, _gather(raw, _spread(at, counts, entry.type.itemsize), entry))
        at = at + counts * entry.type.itemsize
    return found, stop


def _walk(data: bytes, offset: int, element: Element) -> tuple[NDArray[np.int64], list[NDArray[np.int64] | None], int]:
    """Where each row starts, how long its lists are, and where the last one ends."""
    # Bytes before each list's count since the end of the list before it, and behind the last one.
    steps: list[tuple[int, np.dtype, int]] = []
    gap = 0
    for entry in element.properties:
        if entry.count_type is None:
            gap += entry.type.itemsize
        else:
            steps.append((gap, entry.count_type, entry.type.itemsize))
            gap = 0
    starts, found = array("q"), array("q")
    if len(steps) == 1 and steps[0][1].itemsize == 1 and steps[0][1].kind == "u":
        # Nearly all files of mixed polygons are of this kind.
        before, _, size = steps[0]
        behind, end = gap + 1, len(data)
        for _ in range(element.count):
            starts.append(offset)
            offset += before
            if offset >= end:
                raise ValueError(f"the file ends within element {element.name}")
            length = data[offset]
            found.append(length)
            offset += behind + length * size
    else:
        for _ in range(element.count):
            starts.append(offset)
            for before, kind, size in steps:
                offset += before
                length = _length(data, offset, kind)
                found.append(length)
                offset += kind.itemsize + length * size
            offset += gap
    if offset > len(data):
        raise ValueError(f"the file ends within element {element.name}")
    table = np.frombuffer(found, np.int64).reshape(element.count, len(steps))
    columns = iter(np.ascontiguousarray(table.T))
    lengths = [None if entry.count_type is None else next(columns) for entry in element.properties]
    return np.frombuffer(starts, np.int64), lengths, offset


def _spread(starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Positions of the items of lists, which lie `size` apart behind `starts`."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before * size, lengths) + np.arange(int(lengths.sum())) * size


def _gather(raw: NDArray[np.uint8], positions: NDArray[np.int64], entry: Property) -> NDArray[Any]:
    size = entry.type.itemsize
    if not len(positions):
        return np.zeros(0, entry.type.newbyteorder("="))
    windows = sliding_window_view(raw, size)
    blocks = [
        np.ascontiguousarray(windows[positions[first : first + _BLOCK]]).view(entry.type)[:, 0]
        for first in range(0, len(positions), _BLOCK)
    ]
    return _native(np.concatenate(blocks))

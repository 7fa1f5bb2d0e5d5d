"""STL, binary and text: triangles without a common vertex."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pyro_pcflow.data.readers.text_rows import TextRows, first_words, plain_text
from pyro_pcflow.data.shapes import Surface
from pyro_pcflow.ops.reading import shortened

__all__ = ["read_stl"]

_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEAD = 84
# Zeros that fill a block of a disk, or of a transfer.
_MOST_ZEROS = 1 << 16
_KEYWORDS = (b"solid", b"facet", b"outer", b"vertex", b"endloop", b"endfacet", b"endsolid")
_FACET = [_KEYWORDS.index(word) for word in (b"facet", b"outer", *[b"vertex"] * 3, b"endloop", b"endfacet")]


def read_stl(path: Path) -> Surface:
    """Read an STL file, binary or text.

    A file whose size fits its count is binary, whatever its first word is. Less than a triangle may stand behind the
    triangles, or zeros.

    Args:
        path: the file.

    Returns:
        The triangles of all of its solids.

    Raises:
        ValueError: neither a whole binary file nor a whole text file.
    """
    data = path.read_bytes()
    if not data:
        raise ValueError("the file is empty")
    promised = _HEAD + _RECORD.itemsize * int.from_bytes(data[80:_HEAD], "little")
    if len(data) >= _HEAD and promised <= len(data):
        rest = data[promised:]
        if len(rest) < _RECORD.itemsize or (len(rest) <= _MOST_ZEROS and not rest.strip(b"\0")):
            return _surface(np.frombuffer(data, _RECORD, (promised - _HEAD) // _RECORD.itemsize, _HEAD)["corners"])
    text = plain_text(data)
    if not text.lstrip()[:5].lower() == b"solid":
        raise ValueError(f"header promises {promised} bytes, the file has {len(data)}")
    return _surface(_read_text(text))


def _surface(corners: NDArray[np.floating]) -> Surface:
    # A signalling NaN warns where it's cast; it is refused later on as any other.
    with np.errstate(invalid="ignore"):
        vertices = corners.reshape(-1, 3).astype(np.float64)
    if not len(vertices):
        raise ValueError("no faces and no points")
    return Surface(vertices, np.arange(len(vertices)).reshape(-1, 3))


def _read_text(text: bytes) -> NDArray[np.float64]:
    codes = np.frombuffer(text, np.uint8).copy()
    ends = np.flatnonzero(codes == 10)
    first = first_words(codes, np.concatenate([[0], ends[:-1] + 1]))
    kinds = _kinds(codes, first)
    lines = np.flatnonzero(first < ends)
    if (kinds[lines] < 0).any():
        line = int(lines[(kinds[lines] < 0).argmax()])
        word = text[first[line] : ends[line]].split()[0].decode("latin-1")
        raise ValueError(f"line {line + 1}: {shortened(word)} stands where a keyword of STL belongs")
    _check_order(kinds[lines], lines)
    is_vertex = kinds == _KEYWORDS.index(b"vertex")
    own = first[is_vertex]
    codes[own[:, None] + np.arange(len(b"vertex"))] = 32
    vertex_text = codes[np.repeat(is_vertex, np.diff(ends, prepend=-1))].tobytes()
    rows = TextRows(vertex_text, np.flatnonzero(is_vertex) + 1)
    if (rows.counts != 3).any():
        row = int((rows.counts != 3).argmax())
        raise ValueError(f"line {rows.line_number(row)}: a vertex of {rows.counts[row]} numbers")
    return rows.values(0, len(rows.counts)).astype(np.float64)


def _kinds(codes: NDArray[np.uint8], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which keyword each line begins with, or -1."""
    longest = max(map(len, _KEYWORDS))
    padded = np.concatenate([codes, np.full(longest + 1, 10, np.uint8)])
    letters = np.ascontiguousarray(sliding_window_view(padded, longest + 1)[first].T)
    # Letters differ from capitals in this bit alone.
    lower = letters | 32
    kinds = np.full(len(first), -1)
    for number, word in enumerate(_KEYWORDS):
        found = letters[len(word)] <= 32
        for place, letter in enumerate(word):
            found &= lower[place] == letter
        kinds[found] = number
    return kinds


def _check_order(kinds: NDArray[np.int64], lines: NDArray[np.int64]) -> None:
    begin, end = _KEYWORDS.index(b"solid"), _KEYWORDS.index(b"endsolid")
    bounds = np.flatnonzero((kinds == begin) | (kinds == end))
    if kinds[-1] != end:
        raise ValueError("no final 'endsolid' line")
    expected = np.tile([begin, end], len(bounds) // 2 + 1)[: len(bounds)]
    if (kinds[bounds] != expected).any():
        line = int(lines[bounds[(kinds[bounds] != expected).argmax()]])
        raise ValueError(f"line {line + 1}: 'solid' and 'endsolid' don't alternate")
    if (np.diff(bounds)[1::2] != 1).any():
        raise ValueError("triangles between two solids")
    inner = np.flatnonzero((kinds != begin) & (kinds != end))
    place = (inner - bounds[np.searchsorted(bounds, inner) - 1] - 1) % len(_FACET)
    wrong = kinds[inner] != np.array(_FACET)[place]
    if wrong.any():
        line = int(lines[inner[wrong.argmax()]])
        raise ValueError(f"line {line + 1}: not where a triangle has it; a facet is an outer loop of three vertices")
    if ((np.diff(bounds)[::2] - 1) % len(_FACET)).any():
        raise ValueError("'endsolid' within a triangle")

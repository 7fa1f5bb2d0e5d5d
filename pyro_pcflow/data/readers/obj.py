"""Wavefront OBJ: surfaces of polygons, and points without any."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.polygons import triangulate
from pyro_pcflow.data.readers.text_rows import TextRows, first_words, pieces, plain_text
from pyro_pcflow.data.shapes import PointTable, Shape, Surface
from pyro_pcflow.ops.reading import shortened

__all__ = ["read_obj"]

_HUGE = 1 << 53
_BLANK, _LINE_FEED = 32, 10
_STARTS_NUMBER = np.isin(np.arange(256), list(b"0123456789+-."))
# Names may end in a backslash, as folders do; only statements of numbers go on behind one.
_CONTINUED = re.compile(rb"[ \t]*(?:v|vn|vt|vp|f|fo|l|p)[ \t\\]")
_CORNERS = b"0123456789+-/ \t\v\f\n"
_FREE_FORM = re.compile(rb"^[ \t]*(curv2?|surf)[ \t]", re.MULTILINE)


def read_obj(path: Path) -> Shape:
    """Read a Wavefront OBJ file.

    Groups, materials, normals and texture coordinates are left out, as are elements of points and lines. A fourth
    number of a vertex is its weight, which polygons have no use for; six are a position and a colour.

    Args:
        path: the file.

    Returns:
        A surface where the file has faces; and else one table of its vertices: x, y, z, and red, green, blue where all
        have a colour.

    Raises:
        ValueError: damaged, or with free-form surfaces.
    """
    text = _logical_lines(path.read_bytes())
    found = _Statements(text)
    if (b"curv" in text or b"surf" in text) and (free_form := _FREE_FORM.search(text)) is not None:
        raise ValueError(f"free-form curves or surfaces ('{free_form[1].decode()}'), export polygons")
    del text
    vertices, colours = _vertices(TextRows(found.vertices, found.vertex_lines))
    if not len(vertices):
        raise ValueError("no faces and no points")
    if not len(found.face_lines):
        columns = dict(zip("xyz", vertices.T.copy(), strict=True))
        if colours is not None:
            columns |= dict(zip(("red", "green", "blue"), colours.T.copy(), strict=True))
        return [PointTable(columns)]
    counts, corners = _faces(found.faces, found.face_lines, found.known, len(vertices))
    faces = triangulate(counts, corners, vertices)
    if not len(faces):
        raise ValueError(f"none of its {len(counts)} faces has three corners")
    return Surface(vertices, faces)


def _logical_lines(data: bytes) -> bytes:
    """The text without comments, and with all of a statement on its first line; the others stay, empty."""
    text = plain_text(data)
    if b"#" in text:
        text = re.sub(rb"#[^\n]*", b"", text)
    if b"\\" not in text:
        return text
    lines = text.split(b"\n")
    joined: list[bytes] = []
    number = 0
    while number < len(lines):
        parts = [lines[number]]
        if _CONTINUED.match(lines[number]):
            while parts[-1].rstrip().endswith(b"\\") and number + len(parts) < len(lines):
                parts[-1] = parts[-1].rstrip()[:-1]
                parts.append(lines[number + len(parts)])
        joined += [b" ".join(parts), *[b""] * (len(parts) - 1)]
        number += len(parts)
    return b"\n".join(joined)


class _Statements:
    """Vertices and faces of a text, told apart.

    Attributes:
        vertices, faces: their texts, without keywords; of faces only the vertex of each corner is left.
        vertex_lines, face_lines: (V,) and (F,), the numbers of their lines.
        known: (F,), how many vertices stand before each face.
    """

    def __init__(self, text: bytes) -> None:
        vertices, faces, vertex_lines, face_lines = [], [], [], []
        before = 0
        for start, stop in pieces(text, 0, len(text)):
            piece = _Piece(text[start:stop], before)
            before += piece.num_lines
            vertices.append(piece.take(piece.is_vertex))
            vertex_lines.append(piece.lines(piece.is_vertex))
            if piece.is_face.any():
                face_lines.append(piece.lines(piece.is_face))
                faces.append(_vertices_of_corners(piece.take(piece.is_face), face_lines[-1]))
        none = np.zeros(0, np.int64)
        self.vertices, self.faces = b"".join(vertices), b"".join(faces)
        self.vertex_lines = np.concatenate([none, *vertex_lines])
        self.face_lines = np.concatenate([none, *face_lines])
        self.known = np.searchsorted(self.vertex_lines, self.face_lines)


class _Piece:
    """Some lines of a text, behind `before` others, and which of them are vertices and faces."""

    def __init__(self, text: bytes, before: int) -> None:
        self._codes = codes = np.frombuffer(text, np.uint8).copy()
        self._ends = ends = np.flatnonzero(codes == _LINE_FEED)
        self._before = before
        self.num_lines = len(ends)
        begins = np.concatenate([[0], ends[:-1] + 1])
        first = first_words(codes, begins)
        padded = np.concatenate([codes, np.full(2, _LINE_FEED, np.uint8)])
        one, two, three = (padded[first + step] for step in range(3))
        ends_there = two <= _BLANK
        self.is_vertex = (one == ord("v")) & ends_there
        # An old keyword of faces is 'fo'.
        outline = (one == ord("f")) & (two == ord("o")) & (three <= _BLANK)
        self.is_face = ((one == ord("f")) & ends_there) | outline
        numbers = _STARTS_NUMBER[one] | (((one == ord("v")) | (one == ord("f"))) & _STARTS_NUMBER[two])
        if numbers.any():
            line = int(numbers.argmax())
            word = shortened(text[first[line] : ends[line]].split()[0].decode("latin-1"))
            raise ValueError(f"line {before + line + 1}: {word} stands where 'v', 'f' or another keyword belongs")
        codes[first[self.is_vertex | self.is_face]] = _BLANK
        codes[first[outline] + 1] = _BLANK

    def take(self, which: NDArray[np.bool_]) -> bytes:
        if which.all():
            return self._codes.tobytes()
        return self._codes[np.repeat(which, np.diff(self._ends, prepend=-1))].tobytes()

    def lines(self, which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.flatnonzero(which) + (self._before + 1)


def _vertices_of_corners(text: bytes, lines: NDArray[np.int64]) -> bytes:
    """Leave only the vertex of each corner: a slash, and what follows in the same word, becomes blank."""
    if text.translate(None, _CORNERS):
        _complain_of_corner(text, lines)
    if b"/" not in text:
        return text
    codes = np.frombuffer(text, np.uint8).copy()
    blanks, slashes = codes <= _BLANK, codes == ord("/")
    if slashes[0] or (slashes[1:] & blanks[:-1]).any():
        _complain_of_corner(text, lines)
    # Odd from a slash on, and even from a blank on.
    marks = np.arange(0, 2 * len(codes), 2, dtype=np.int32)
    marks += slashes
    marks *= blanks | slashes
    codes[np.maximum.accumulate(marks) % 2 == 1] = _BLANK
    return codes.tobytes()


def _vertices(rows: TextRows) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    counts = rows.counts
    # Seven are a position, a colour and something else, whose order no two programs agree on.
    wrong = ~np.isin(counts, (3, 4, 6, 7))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"line {rows.line_number(row)}: a vertex of {counts[row]} numbers")
    values = rows.values(0, len(counts)).astype(np.float64)
    if len(counts) and counts.min() == counts.max():
        table = values.reshape(len(counts), -1)
        return np.ascontiguousarray(table[:, :3]), table[:, 3:] if counts[0] == 6 else None
    starts = np.cumsum(counts) - counts
    return values[starts[:, None] + np.arange(3)], None


def _faces(
    text: bytes, lines: NDArray[np.int64], known: NDArray[np.int64], num_vertices: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners of all faces, counted from 0: how many each has, and their vertices."""
    rows = TextRows(text, lines)
    counts = rows.counts
    if not counts.all():
        raise ValueError(f"line {rows.line_number(int(counts.argmin()))}: a face without corners")
    values = rows.values(0, len(counts))
    # Numbers too long for an integer came as real ones.
    corners = np.clip(values, -_HUGE, _HUGE).astype(np.int64)
    wrong = (corners == 0) | (corners > num_vertices)
    negative = corners < 0
    if negative.any():
        resolved = corners + np.repeat(known, counts)
        wrong |= negative & (resolved < 0)
        resolved = np.where(negative, resolved, corners - 1)
    else:
        resolved = corners - 1
    if wrong.any():
        at = int(wrong.argmax())
        line = rows.line_number(int(np.searchsorted(np.cumsum(counts), at, side="right")))
        index = int(corners[at])
        says = "OBJ counts from 1" if index == 0 else f"there are {num_vertices} vertices"
        raise ValueError(f"line {line}: face index {index}: {says}")
    return counts, resolved


_CORNER = re.compile(rb"[+-]?\d+(?:/[+-]?\d*){0,2}")


def _complain_of_corner(text: bytes, lines: NDArray[Any]) -> None:
    for line, row in zip(lines.tolist(), text.split(b"\n"), strict=False):
        for word in row.split():
            if not _CORNER.fullmatch(word):
                raise ValueError(f"line {line}: {shortened(word.decode('latin-1'))} is no corner of a face")
    raise ValueError("corners of faces that are no numbers")

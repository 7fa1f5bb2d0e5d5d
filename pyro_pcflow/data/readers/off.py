"""OFF: surfaces of polygons, and points without any."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.polygons import triangulate
from pyro_pcflow.data.readers.text_rows import TextRows, plain_text
from pyro_pcflow.data.shapes import PointTable, Shape, Surface

__all__ = ["read_off"]

# Normals, colours, texture coordinates; a fourth coordinate; another number of dimensions.
_KEYWORD = re.compile(rb"\s*((?P<st>ST)?(?P<c>C)?(?P<n>N)?(?P<other>(?:4|n|4n)?)OFF)(?![A-Za-z])")
_LOWER_KEYWORD = re.compile(rb"\s*((?P<st>ST)?(?P<c>C)?(?P<n>N)?(?P<other>4?)OFF)(?![A-Za-z])", re.IGNORECASE)


def read_off(path: Path) -> Shape:
    """Read an OFF file of text.

    Colours of faces, and texture coordinates, are left out. A file without the word OFF is taken for one where its
    counts fit its lines.

    Args:
        path: the file.

    Returns:
        A surface where the file has faces; and else one table of its vertices: x, y, z, normals and colours as its
        first word says.

    Raises:
        ValueError: damaged, binary, or of other than three coordinates.
    """
    text = plain_text(path.read_bytes())
    if b"#" in text:
        text = re.sub(rb"#[^\n]*", b"", text)
    keyword = _KEYWORD.match(text) or _LOWER_KEYWORD.match(text)
    if keyword is not None:
        _check_keyword(keyword, text)
        # As many blanks keep the numbers of lines.
        text = re.sub(rb"[^\n]", b" ", text[: keyword.end()]) + text[keyword.end() :]
    rows = TextRows(text)
    lines = np.flatnonzero(rows.counts)
    num_vertices, num_faces = _counts(rows, lines, keyword is not None)
    vertices, columns = _vertices(rows, lines[1 : 1 + num_vertices], keyword)
    if num_faces == 0:
        return [PointTable(columns)]
    counts, corners = _faces(rows, lines[1 + num_vertices :])
    faces = triangulate(counts, corners, vertices)
    if not len(faces):
        raise ValueError(f"none of its {num_faces} faces has three corners")
    return Surface(vertices, faces)


def _check_keyword(keyword: re.Match[bytes], text: bytes) -> None:
    name = keyword[1].decode()
    if re.match(rb"[ \t]*BINARY", text[keyword.end() : keyword.end() + 80], re.IGNORECASE):
        raise ValueError(f"a binary {name} file, export it as text")
    if keyword["other"]:
        raise ValueError(f"a {name} file, whose vertices have other than three coordinates; export OFF")


def _counts(rows: TextRows, lines: NDArray[np.int64], named: bool) -> tuple[int, int]:
    missing = "no OFF header" if not named else "an OFF file without its counts"
    if not len(lines) or rows.counts[lines[0]] not in (2, 3):
        raise ValueError(missing)
    try:
        head = rows.values(int(lines[0]), int(lines[0]) + 1)
    except ValueError:
        if named:
            raise
        raise ValueError(missing) from None
    if head.dtype.kind == "f" or min(head.tolist()) < 0:
        raise ValueError(f"header promises {head[0]} vertices and {head[1]} faces" if named else missing)
    num_vertices, num_faces = int(head[0]), int(head[1])
    if num_vertices + num_faces != len(lines) - 1:
        if not named:
            raise ValueError(missing)
        raise ValueError(f"header promises {num_vertices} + {num_faces} lines, found {len(lines) - 1}")
    if num_vertices == 0:
        raise ValueError("no faces and no points" if named else missing)
    return num_vertices, num_faces


def _vertices(
    rows: TextRows, lines: NDArray[np.int64], keyword: re.Match[bytes] | None
) -> tuple[NDArray[np.float64], dict[str, NDArray[Any]]]:
    counts = rows.counts[lines]
    width = int(counts[0])
    if (counts != width).any():
        row = int((counts != width).argmax())
        line = rows.line_number(int(lines[row]))
        raise ValueError(f"line {line}: a vertex of {counts[row]} numbers, others of {width}")
    normals = bool(keyword and keyword["n"])
    colours = bool(keyword and keyword["c"])
    texture = 2 if keyword and keyword["st"] else 0
    least = 3 + 3 * normals + colours + texture
    if width < least:
        raise ValueError(f"line {rows.line_number(int(lines[0]))}: a vertex of {width} numbers instead of {least}")
    table = rows.values(int(lines[0]), int(lines[-1]) + 1).astype(np.float64).reshape(len(lines), width)
    names = ["x", "y", "z", *(["nx", "ny", "nz"] if normals else [])]
    if colours and width - texture - len(names) in (3, 4):
        names += ["red", "green", "blue", "alpha"][: width - texture - len(names)]
    columns = {name: table[:, number].copy() for number, name in enumerate(names)}
    return np.ascontiguousarray(table[:, :3]), columns


def _faces(rows: TextRows, lines: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    words = rows.counts[lines]
    values = rows.values(int(lines[0]), int(lines[-1]) + 1)
    starts = np.cumsum(words) - words
    counts = _whole(rows, lines, values[starts])
    # What stands behind the corners is a colour.
    wrong = (counts < 0) | (counts > words - 1)
    if wrong.any():
        row = int(wrong.argmax())
        line = rows.line_number(int(lines[row]))
        raise ValueError(f"line {line}: a face of {counts[row]} corners in {words[row]} numbers, cut short")
    before = np.cumsum(counts) - counts
    at = np.repeat(starts + 1 - before, counts) + np.arange(int(counts.sum()))
    return counts, _whole(rows, np.repeat(lines, counts), values[at])


def _whole(rows: TextRows, lines: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind == "f":
        with np.errstate(all="ignore"):
            wrong = ~((values == np.floor(values)) & (np.abs(values) < 2.0**53))
        if wrong.any():
            at = int(wrong.argmax())
            raise ValueError(f"line {rows.line_number(int(lines[at]))}: {values[at]} is no index or number of corners")
    return values.astype(np.int64)

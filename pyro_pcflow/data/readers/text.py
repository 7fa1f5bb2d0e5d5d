"""Tables of numbers in text, one point a line, as people's programs write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pyro_pcflow.data.readers.encoding import plain_lines
from pyro_pcflow.data.readers.text_columns import Column, read_columns
from pyro_pcflow.data.readers.text_layout import Layout, find_layout
from pyro_pcflow.data.readers.text_names import name_columns
from pyro_pcflow.data.shapes import PointTable

__all__ = ["read_text"]

_COUNT = re.compile(rb"[ \t]*\+?([0-9]{1,12})[ \t]*(?:#[^\n]*)?\n")
_NEXT_COUNT = re.compile(rb"^[ \t]*\+?[0-9]+[ \t]*$", re.MULTILINE)
_PASSED_OVER = re.compile(rb"(?:[ \t\v\f]*(?:(?://|[#%!])[^\n]*)?\n)*")
_TITLE_COUNT = re.compile(r"(?:number of |num_?|n_?)?points? ?[:=]? ?([0-9]{1,12})", re.IGNORECASE)
_MOST_BLOCKS = 10_000


def read_text(path: Path) -> list[PointTable]:
    """Read a table of numbers, one point per line.

    White space, commas, semicolons, bars or tabs stand between cells; decimal commas are understood where something
    else does. Lines that begin with `#`, `//`, `%`, `!` or `;` are comments, and so is what follows a `#`. Names of
    columns stand in a line before the numbers, perhaps as a comment. A count on the first line, as in PTS and in the
    XYZ files of chemists, must be that of the lines that follow; several such blocks are several clouds. Columns of
    words are kept.

    Args:
        path: the file.

    Returns:
        A table; several where the file has several blocks with counts. Integers are int64, other numbers float64.

    Raises:
        ValueError: no table, lines of different lengths, words among numbers, a wrong count, or numbers that may be
            read in two ways.
    """
    text = plain_lines(path.read_bytes())
    layout = find_layout(text)
    ending = path.suffix.lower()
    if layout.counted:
        blocks = _read_blocks(text, layout)
        several = len(blocks) > 1
        return [
            _as_table(layout, block, ending, f"block {number}" if several else None)
            for number, block in enumerate(blocks, 1)
        ]
    columns = _read(text, layout, layout.start, len(text), layout.first_line)
    table = _as_table(layout, columns, ending)
    for number, cells in layout.headers:
        promised = _TITLE_COUNT.fullmatch(" ".join(cells))
        if promised is not None and int(promised[1]) != len(table):
            raise ValueError(f"line {number} counts {int(promised[1])} points, and {len(table)} follow")
    if layout.numbered and not layout.indexed and all(values.dtype.kind in "iu" for values in table.columns.values()):
        first = layout.first_line - 1
        raise ValueError(
            f"line {first} may be a point, or number the columns: name these, or write that point as 0.0 1.0"
        )
    return [table]


def _read(text: bytes, layout: Layout, start: int, end: int, first_line: int) -> list[Column]:
    return read_columns(
        text,
        layout.dialect,
        layout.width,
        start=start,
        end=end,
        first_line=first_line,
        words=any(layout.words),
        trailing=layout.trailing,
    )


def _as_table(layout: Layout, columns: Sequence[Column], ending: str, name: str | None = None) -> PointTable:
    by_name, named = name_columns(layout, columns, ending)
    table = PointTable({key: column.values() for key, column in by_name.items()}, named, name)
    if not len(table):
        raise ValueError("no numbers in it")
    if not named:
        _refuse_strange_words(table)
    return table


def _refuse_strange_words(table: PointTable) -> None:
    """Words without a name may be a table of another kind, or numbers that went wrong."""
    for place, values in table.columns.items():
        if values.dtype.kind != "U":
            continue
        words = set(values.tolist())
        if place == "1" and "v" in words and words <= {"v", "vn", "vt", "vp", "f", "l"}:
            raise ValueError("an OBJ file: let its name end in .obj")
        strange = next((word for word in words if re.match(r"[+-]?\.?[0-9]", word)), None)
        if strange is not None:
            raise ValueError(f"column {place} holds {strange[:40]!a}, no number, and has no name that says what it is")


def _read_blocks(text: bytes, layout: Layout) -> list[list[Column]]:
    """Blocks of lines, each behind its count."""
    blocks: list[list[Column]] = []
    position, line = layout.start, layout.first_line
    while True:
        found = _PASSED_OVER.match(text, position)
        assert found is not None  # it matches nothing, too
        line += text.count(b"\n", position, found.end())
        position = found.end()
        if position >= len(text):
            return blocks
        if len(blocks) == _MOST_BLOCKS:
            raise ValueError(f"more than {_MOST_BLOCKS} blocks with a count")
        count = _COUNT.match(text, position)
        if count is None:
            raise ValueError(f"line {line}: the count of the lines that follow was expected")
        start, first_line = count.end(), line + 1
        if layout.headers or any(layout.words):
            # Chemists' comments may be of any kind, a count included.
            behind = text.find(b"\n", start) + 1
            if not _fits(text[start:behind], layout):
                start, first_line = behind, first_line + 1
        following = _NEXT_COUNT.search(text, start)
        end = len(text) if following is None else following.start()
        block = _read(text, layout, start, end, first_line)
        if any(layout.words) and start == count.end() and block[0].lines == int(count[1]) + 1:
            # A comment that looks like a point.
            start, first_line = text.find(b"\n", start) + 1, first_line + 1
            block = _read(text, layout, start, end, first_line)
        if block[0].lines != int(count[1]):
            raise ValueError(f"line {line} counts {int(count[1])} points, and {block[0].lines} follow")
        if not block[0].lines:
            raise ValueError(f"line {line} counts no points")
        blocks.append(block)
        line = first_line + text.count(b"\n", start, end)
        position = end


def _fits(raw: bytes, layout: Layout) -> bool:
    """Whether a line is one of the table."""
    try:
        cells = layout.dialect.cells(layout.dialect.without_comment(raw.decode("utf-8").rstrip("\n")))
    except ValueError:
        return False
    if len(cells) != layout.width:
        return False
    return all(word or layout.dialect.number(cell) is not None for cell, word in zip(cells, layout.words, strict=True))

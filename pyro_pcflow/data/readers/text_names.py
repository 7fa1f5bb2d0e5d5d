"""Names of the columns of a table of text, from the lines before it or from the ending of the file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyro_pcflow.data.column_names import bare_name, is_known, is_numbered, unique_names
from pyro_pcflow.data.readers.text_columns import Column
from pyro_pcflow.data.readers.text_layout import Layout

__all__ = ["name_columns"]

_LABEL = re.compile(r"(?:(?:columns?|fields?|format|header|variables?)\s*[:=]|fields\s)\s*", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s,;|]+")
# What formats fix by the number of their columns.
_ENDINGS = {
    (".pts", 3): "x y z",
    (".pts", 4): "x y z intensity",
    (".pts", 6): "x y z r g b",
    (".pts", 7): "x y z intensity r g b",
    (".xyzn", 6): "x y z nx ny nz",
    (".xyzrgb", 6): "x y z r g b",
}


def name_columns(layout: Layout, columns: Sequence[Column], ending: str) -> tuple[dict[str, Column], bool]:
    """Give names to columns, and leave out those that are empty and have none.

    Args:
        layout: what the first lines say.
        columns: what was read.
        ending: of the file's name, in small letters.

    Returns:
        The columns by their names, and whether these are the file's; without names they are called "1", "2" and so on.

    Raises:
        ValueError: a line of names whose number is not that of the columns.
    """
    empty = [column.filled == 0 for column in columns]
    names = None if layout.numbered else _from_headers(layout, empty, columns)
    if names is None and not layout.numbered:
        names = _from_comments(layout, empty)
    names = names or [""] * len(columns)
    kept = [k for k in range(len(columns)) if names[k] or not empty[k]]
    names, left = [names[k] for k in kept], [columns[k] for k in kept]
    indexed = layout.indexed
    if any(names):
        indexed = not names[0] and not is_known(names[0])
        if not is_numbered(names[1:] if indexed else names):
            if indexed and "index" not in names:
                names[0] = "index"
            return dict(zip(unique_names(names), left, strict=True)), True
    if indexed and len(left) > 1:
        left = left[1:]
    fixed = _ENDINGS.get((ending, len(left)))
    if fixed is None and layout.counted and len(left) >= 4 and layout.words[:4] == (True, False, False, False):
        # Chemists' files: an element and its place, and perhaps more.
        fixed = "element x y z " + " ".join(str(place) for place in range(5, len(left) + 1))
    if fixed is not None:
        return dict(zip(fixed.split(), left, strict=True)), True
    return {str(place): column for place, column in enumerate(left, 1)}, False


def _from_headers(layout: Layout, empty: Sequence[bool], columns: Sequence[Column]) -> list[str] | None:
    best: list[str] | None = None
    best_score, wrong = -1, ""
    for number, cells in layout.headers:
        if any((value := layout.dialect.number(cell)) is not None and value == value for cell in cells):
            continue  # a title with a number in it
        cells = _cleaned(cells)
        fitted = _fitted(cells, empty, layout)
        score = sum(map(is_known, cells))
        if fitted is None:
            if score >= 2:
                wrong = f"line {number} names {len(cells)} columns, the lines after it have {len(columns)}"
        elif score >= best_score:
            best, best_score = fitted, score
    if wrong and best_score < 2:
        raise ValueError(wrong)
    return best


def _from_comments(layout: Layout, empty: Sequence[bool]) -> list[str] | None:
    """Names in a comment: as many words as columns, most of which are names as programs use them."""
    for _, comment in reversed(layout.comments):
        comment = _LABEL.sub("", comment.strip().strip('"'), count=1)
        try:
            in_dialect = layout.dialect.cells(comment)
        except ValueError:
            continue
        for cells in (in_dialect, [cell for cell in _SEPARATORS.split(comment) if cell]):
            cells = [cell.strip("\"' ") for cell in cells]
            fitted = _fitted(cells, empty, layout)
            # Letters alone may be of any text.
            known = sum(is_known(cell) and (len(cell) > 1 or cell in "xyzXYZ") for cell in cells)
            if fitted is not None and (2 * known >= len(cells) or {"x", "y"} <= {*map(bare_name, cells)}):
                return fitted
    return None


def _cleaned(cells: Sequence[str]) -> list[str]:
    """Names of a header without a label before them: `VARIABLES = "X", "Y"` and `//X`."""
    cells = list(cells)
    if len(cells) > 2 and cells[1] in ("=", ":") and _LABEL.match(f"{cells[0]} ="):
        cells = cells[2:]
    elif cells and (found := _LABEL.match(cells[0])) is not None:
        rest = cells[0][found.end() :]
        cells = [rest, *cells[1:]] if rest else cells[1:]
    cells = [cell.strip(", ") for cell in cells]
    if cells:
        cells[0] = cells[0].removeprefix("//").removeprefix("#").strip()
    return cells


def _fitted(cells: list[str], empty: Sequence[bool], layout: Layout) -> list[str] | None:
    """One name for each column, or None where the numbers differ by more than empty cells at the end, or an index."""
    width = len(empty)
    trailing = 0
    while trailing < width and empty[width - 1 - trailing]:
        trailing += 1
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    if len(cells) == width:
        return list(cells)
    if len(cells) == width - trailing:
        return [*cells, *[""] * trailing]
    # R leaves out the name of the names of rows.
    if len(cells) == width - 1 and layout.rows_are_named:
        return ["", *cells]
    return None

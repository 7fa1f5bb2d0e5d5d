"""Where the table begins in a file of text, how it is written, and what its first lines say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pyro_pcflow.data.readers.text_dialect import DIALECTS, MOST_CHARACTERS, Dialect, comment_mark, is_integer
from pyro_pcflow.ops.reading import shortened

__all__ = ["Layout", "find_layout"]

# By so many lines the dialect is known.
_SAMPLE_LINES = 64
_MOST_COMMENTS = 1000
_MOST_COLUMNS = 4096
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
# Numbers that could as well be whole ones with marks of thousands, and those that could not.
_DECIMAL_COMMA = re.compile(
    rb"(?<![0-9,.])(?:,[0-9]|0[0-9]*,[0-9]|[0-9]{4,},[0-9]|[0-9]{1,3},(?:[0-9]{4}|[0-9]{1,2}(?![0-9])))"
)
_BLANK_LINES = re.compile(rb"(?:[ \t\v\f]*\n)*")
_COMMENT_LINES = re.compile(rb"(?:[ \t\v\f]*(?:(?://|[#%!;])[^\n]*)?\n)*")
_GRID = frozenset({"ncols", "nrows", "xllcorner", "xllcenter", "cellsize"})
_FOREIGN = {
    "ply": ("a PLY file", ".ply"),
    "off": ("an OFF file", ".off"),
    "coff": ("an OFF file", ".off"),
    "noff": ("an OFF file", ".off"),
    "solid": ("an STL file", ".stl"),
}


@dataclass(frozen=True)
class Line:
    """A line at the start of a file: its number from 1, and the byte at which it begins."""

    number: int
    start: int
    text: str


@dataclass(frozen=True)
class Layout:
    """What the first lines tell of a table.

    Attributes:
        dialect: how the table is written.
        width: how many cells its lines have.
        start: the byte at which its first line begins, or the first count where `counted`.
        first_line: the number of that line.
        words: which columns are of words.
        trailing: whether a delimiter ends each line.
        headers: cells of the lines before the table, and their numbers.
        comments: texts of comments before the table, and their numbers.
        numbered: whether a line that counts the columns stood before the table.
        indexed: whether that line has an empty cell at first, above an index.
        counted: whether a count of lines begins the file.
        rows_are_named: whether the first column may be an index: words, or integers that count from 1.
    """

    dialect: Dialect
    width: int
    start: int
    first_line: int
    words: tuple[bool, ...]
    trailing: bool
    headers: list[tuple[int, list[str]]] = field(default_factory=list)
    comments: list[tuple[int, str]] = field(default_factory=list)
    numbered: bool = False
    indexed: bool = False
    counted: bool = False
    rows_are_named: bool = False


def find_layout(text: bytes) -> Layout:
    """Decide from the first lines how a table is written.

    Args:
        text: UTF-8 lines, each with its end.

    Raises:
        ValueError: no table, one of another format, or lines that don't go together.

    Examples:
        >>> layout = find_layout(b"x;y\\n1,5;2\\n3;4\\n")
        >>> layout.dialect, layout.width, layout.headers
        (Dialect(delimiter=';', decimal=','), 2, [(1, ['x', 'y'])])
    """
    forced: str | None = None
    sample: list[Line] = []
    comments: list[tuple[int, str]] = []
    for line in _lines(text):
        if not sample and not comments and (found := _SEPARATOR.fullmatch(line.text)) is not None:
            forced = found[1]
            continue
        # At a semicolon the delimiter is not known yet.
        if (mark := comment_mark(line.text)) in (None, ";"):
            sample.append(line)
        elif not sample and len(comments) < _MOST_COMMENTS:
            comments.append((line.number, line.text.strip().removeprefix(mark).strip()))
        if len(sample) >= _SAMPLE_LINES:
            break
    if not sample or (all(comment_mark(line.text) for line in sample) and ";" not in sample[0].text.strip()[1:]):
        raise ValueError("no numbers in it")
    _refuse_other_formats(sample[0].text, comments)
    counted = is_integer(Dialect().without_comment(sample[0].text).split()) and len(sample) > 1
    table = _first_block(sample) if counted else sample
    layout = _best(table, forced, counted)
    if counted:
        layout = replace(layout, start=sample[0].start, first_line=sample[0].number)
    if layout.dialect.decimal == "," and not _DECIMAL_COMMA.search(text, layout.start):
        raise ValueError("'1,234' in all its numbers may be 1.234 or 1234: write points for commas, or leave them out")
    return replace(layout, comments=comments, counted=counted)


def _lines(text: bytes) -> Iterator[Line]:
    """Lines that are not blank; of very many comments in a row only the first."""
    number, start, comments = 1, 0, 0
    while True:
        passed = (_BLANK_LINES if comments < _MOST_COMMENTS else _COMMENT_LINES).match(text, start)
        assert passed is not None  # it matches nothing, too
        number += text.count(b"\n", start, passed.end())
        start = passed.end()
        if start >= len(text):
            return
        end = text.find(b"\n", start, start + 4 * MOST_CHARACTERS + 1)
        if end < 0 or len(line := text[start:end].decode("utf-8")) > MOST_CHARACTERS:
            raise ValueError(f"line {number} has more than {MOST_CHARACTERS} characters")
        yield Line(number, start, line)
        comments = comments + 1 if comment_mark(line) else 0
        number += 1
        start = end + 1


def _first_block(sample: Sequence[Line]) -> Sequence[Line]:
    """The lines behind a count, up to the next count; a comment of chemists may stand in the first of them."""
    for k in range(2, len(sample)):
        if is_integer(sample[k].text.split()):
            return sample[1:k]
    return sample[1:]


def _refuse_other_formats(first: str, comments: Sequence[tuple[int, str]]) -> None:
    word = first.split()[0].lower()
    if word in _FOREIGN and (word == "solid" or len(first.split()) == 1):
        found, ending = _FOREIGN[word]
        raise ValueError(f"{found}: let its name end in {ending}")
    if word in _GRID:
        raise ValueError("a grid of heights (ESRI), no table of points")
    if any(text.startswith(".PCD") for _, text in comments[:3]):
        raise ValueError("a PCD file: let its name end in .pcd")


def _best(sample: Sequence[Line], forced: str | None, counted: bool) -> Layout:
    complaints: list[tuple[int, str]] = []
    for dialect in DIALECTS:
        if forced is not None and dialect.delimiter != forced:
            continue
        if dialect.delimiter != " " and not any(dialect.delimiter in line.text for line in sample):
            continue
        try:
            found = _try(sample, dialect, counted)
        except ValueError as error:
            complaints.append((-1, str(error)))
            continue
        if isinstance(found, Layout):
            return found
        complaints.append(found)
    if not complaints:
        raise ValueError(f"its first line says that {shortened(forced)} separates cells, and none is there")
    # The dialect that understood most lines knows best what is wrong with the others.
    raise ValueError(max(complaints, key=lambda complaint: complaint[0])[1])


def _try(sample: Sequence[Line], dialect: Dialect, counted: bool) -> Layout | tuple[int, str]:
    """The layout in a dialect; or how many lines it understood, and what is wrong with the others."""
    rows: list[tuple[Line, list[str]]] = []
    broken: dict[int, str] = {}
    for line in sample:
        text = dialect.without_comment(line.text)
        try:
            cells = dialect.cells(text)
        except ValueError as error:
            # A title may have quotes of any kind.
            broken[line.number] = str(error)
            cells = [cell for cell in re.split(r'[\s,;"]+', text) if cell]
        if any(cells):
            rows.append((line, cells))
    if not rows:
        return 0, "no numbers in it"
    number, last = rows[-1][0].number, rows[-1][1]
    if number in broken:
        return 0, f"line {number}: {broken[number]}"
    if len(last) > _MOST_COLUMNS:
        return 0, f"line {number} has more than {_MOST_COLUMNS} columns"
    width, kinds = len(last), [_kind(cell, dialect) for cell in last]
    first = len(rows) - 1
    if "x" not in kinds:
        while first > 0 and rows[first - 1][0].number not in broken:
            merged = _merged(kinds, rows[first - 1][1], dialect)
            if merged is None:
                break
            kinds, first = merged, first - 1
    table = [cells for _, cells in rows[first:]]
    understood = len(table) if width > 1 else 0
    if "x" in kinds:
        line, cell = rows[-1][0], last[kinds.index("x")]
        return 0, f"line {line.number}: {shortened(cell)} is no number"
    headers = rows[:first]
    # Chemists' files have a comment of any kind behind their count.
    free = counted and len(headers) == 1 and "w" in kinds
    for line, cells in reversed(headers) if not free else ():
        wrong = _no_header(cells, kinds, width, dialect)
        if line.number in broken and (wrong or not cells[0][0].isalpha()):
            wrong = f"has {broken[line.number]}"
        if wrong:
            return understood, f"line {line.number} {wrong}"
    if width < 2:
        return understood, "a single column, and points need two or more"
    if kinds.count("n") < 2:
        return (
            0,
            f"line {rows[-1][0].number} holds no numbers of a point" if "n" not in kinds else "one column of numbers",
        )
    numbered, indexed = _numbered(table[0], any(len(cells) == width for _, cells in headers), counted)
    start = rows[first + numbered][0] if first + numbered < len(rows) else None
    if start is None:
        return understood, f"line {rows[first][0].number} numbers the columns, and no line of numbers follows"
    return Layout(
        dialect=dialect,
        width=width,
        start=start.start,
        first_line=start.number,
        words=tuple(kind == "w" for kind in kinds),
        trailing=width > 2 and dialect.delimiter != " " and all(not cells[-1] for cells in table),
        headers=[] if free else [(line.number, cells) for line, cells in headers],
        numbered=numbered,
        indexed=indexed,
        rows_are_named=kinds[0] == "w" or (len(table) > 1 and _counts([cells[0] for cells in table])),
    )


def _counts(cells: Sequence[str]) -> bool:
    return list(cells) == [str(k) for k in range(1, len(cells) + 1)]


def _kind(cell: str, dialect: Dialect) -> str:
    """A number, nothing, a word or what is none of them, by its first letter; `x` is the last."""
    value = dialect.number(cell)
    if value is not None:
        return "n" if value == value else "e"
    return "w" if dialect.is_word(cell) else "x"


def _merged(kinds: Sequence[str], cells: Sequence[str], dialect: Dialect) -> list[str] | None:
    """Kinds of columns with one more line, or None where it is of another kind."""
    if len(cells) != len(kinds):
        return None
    merged = []
    for kind, cell in zip(kinds, cells, strict=True):
        other = _kind(cell, dialect)
        if other == "x" or ("e" not in (kind, other) and kind != other):
            return None
        merged.append(other if kind == "e" else kind)
    return merged


def _no_header(cells: Sequence[str], kinds: Sequence[str], width: int, dialect: Dialect) -> str | None:
    """What is wrong with a line before the table, if it is no names and no title."""
    own = [_kind(cell, dialect) for cell in cells]
    text = " ".join(cells)
    if re.search(r"\bBLOCK\b", text):
        return "tells of blocks, one column after the other, which are not read"
    if "n" not in own:
        if any(map(str.isalpha, text)) and not any(re.match(r"[+-]?\.?[0-9]", cell) for cell in cells):
            return None
        if not any(character.isdecimal() for character in text) and len(cells) == 1:
            return None  # a line of dashes
        return "is neither names nor numbers"
    if set(own) <= {"n", "e"}:
        found = f"has {len(cells)} columns" if len(cells) != width else "holds numbers only"
        return f"{found}, the lines after it have {width}" if len(cells) != width else f"{found}, unlike those after it"
    if "w" not in kinds and re.match(r"[^\W\d_]{2}[\w-]*[:=]?$", cells[0]):
        return None
    if len(cells) != width and (":" in text or "=" in text) and own[0] == "w":
        return None
    bad = next((cell for cell, kind in zip(cells, own, strict=True) if kind not in "ne"), "")
    return (
        f"is neither names nor numbers, for {shortened(bad)}"
        if len(cells) == width
        else (f"has {len(cells)} columns, the lines after it have {width}")
    )


def _numbered(cells: Sequence[str], named: bool, counted: bool) -> tuple[bool, bool]:
    """Whether a line numbers the columns from 0, and whether an empty cell stands above an index before them."""
    if named or counted:
        return False, False
    indexed = not cells[0]
    filled = list(cells[1:] if indexed else cells)
    while filled and not filled[-1]:
        filled.pop()
    numbered = len(filled) > 1 and filled == [str(k) for k in range(len(filled))]
    return numbered, numbered and indexed

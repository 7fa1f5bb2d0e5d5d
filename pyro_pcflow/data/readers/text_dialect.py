"""How a table of text is written: what stands between its cells, and what is a number, a word or a comment."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DIALECTS", "MOST_CHARACTERS", "Dialect", "comment_mark", "is_integer"]

# Room for points of hundreds of coordinates in full digits.
MOST_CHARACTERS = 1 << 16

_EMPTY = frozenset(
    {"", "na", "n/a", "#n/a", "null", "none", "#num!", "#div/0!", "#value!", "#ref!", "#name?", "#null!"}
)
_NUMBER = {
    ".": re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?"),
    # "1," may be the cell before a comma, and is no number here.
    ",": re.compile(r"[+-]?(?:[0-9]+(?:,[0-9]+)?|,[0-9]+)(?:[eEdD][+-]?[0-9]+)?"),
}
_INFINITE = re.compile(r"([+-]?)(?:inf|infinity|1\.#inf0*)", re.IGNORECASE)
_NAN = re.compile(r"[+-]?(?:nan(?:\([a-z0-9]*\))?|1\.#(?:qnan|snan|ind)[0-9]*)", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]+")
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F.]+(?:[pP][+-]?[0-9]+)?")
# A hash begins a comment, but not in what Excel and old C libraries write for values that are none.
_HASH = r"#(?!N/A|QNAN|SNAN|IND|INF|NUM!|DIV/0!|VALUE!|REF!|NAME\?|NULL!)"
_COMMENT = re.compile(_HASH, re.IGNORECASE)
_QUOTED_OR_COMMENT = re.compile(rf'"(?:[^"]|"")*"|({_HASH})', re.IGNORECASE)
_TOKEN = re.compile(r'(?<!\S)(?:"(?:[^"]|"")*"|[^\s"]+)(?!\S)', re.ASCII)
# A space that must not break may stand within a number, and separates nothing.
_BLANK = " \t\v\f"
_BLANKS = re.compile(f"[{_BLANK}]+")
_MARKS = ("//", "#", "%", "!", ";")
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Dialect:
    """What separates cells, a blank standing for any white space, and what separates whole from decimal digits."""

    delimiter: str = " "
    decimal: str = "."

    def cells(self, line: str) -> list[str]:
        """Split a line without comments.

        Args:
            line: a line without its end.

        Raises:
            ValueError: a quote that never ends, or within a word.

        Examples:
            >>> Dialect(";").cells('1; "a;b" ;3'), Dialect().cells(' 1\\t2  "a b"')
            (['1', 'a;b', '3'], ['1', '2', 'a b'])
        """
        if '"' not in line:
            if self.delimiter == " ":
                return line.split() if line.isascii() else [word for word in _BLANKS.split(line) if word]
            return [cell.strip(_BLANK) for cell in line.split(self.delimiter)]
        if line.count('"') % 2:
            raise ValueError("a quote that never ends")
        if self.delimiter == " ":
            if _TOKEN.sub("", line).strip():
                raise ValueError("a quote within a word")
            return [_unquoted(token) for token in _TOKEN.findall(line)]
        # Blanks around a quoted cell are no part of it.
        delimiter = re.escape(self.delimiter)
        line = re.sub(rf'"[ \v\f\t]+(?={delimiter}|$)', '"', re.sub(rf'(^|{delimiter})[ \v\f\t]+(?=")', r"\1", line))
        try:
            (cells,) = csv.reader([line], delimiter=self.delimiter, skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise ValueError(f"quotes that are not understood ({error})") from error
        return [cell.strip(_BLANK) for cell in cells]

    def number(self, cell: str) -> float | None:
        """The value of a cell: NaN where it says that there is none, None where it is no number.

        Examples:
            >>> Dialect().number("1.0D-01"), Dialect(";", ",").number("0,5"), Dialect().number("1,5")
            (0.1, 0.5, None)
        """
        cell = cell.replace(_MINUS, "-")
        if _NUMBER[self.decimal].fullmatch(cell):
            return float(cell.replace(",", ".").replace("d", "e").replace("D", "e"))
        if cell.lower() in _EMPTY or _NAN.fullmatch(cell):
            return math.nan
        infinite = _INFINITE.fullmatch(cell)
        return None if infinite is None else float(f"{infinite[1]}inf")

    def is_word(self, cell: str) -> bool:
        """Whether a cell is a name of something, and no number that went wrong."""
        return any(map(str.isalpha, cell)) and not _HEXADECIMAL.fullmatch(cell) and self.number(cell) is None

    def is_empty(self, cell: str) -> bool:
        """Whether a cell says nothing, or that there is nothing to say."""
        value = self.number(cell)
        return value is not None and math.isnan(value)

    def without_comment(self, line: str) -> str:
        """A line without the comment in it: what remains may be blank.

        Examples:
            >>> Dialect().without_comment("1 2 # first"), Dialect().without_comment("% all of it")
            ('1 2 ', '')
        """
        if comment_mark(line, self.delimiter) is not None:
            return ""
        if "#" not in line:
            return line
        if '"' not in line:
            found = _COMMENT.search(line)
            return line if found is None else line[: found.start()]
        for found in _QUOTED_OR_COMMENT.finditer(line):
            if found[1]:
                return line[: found.start()]
        return line


# In the order in which they are tried: blanks may stand around every other delimiter. The last is for decimal commas
# in quotes.
DIALECTS = (
    *(Dialect(delimiter, decimal) for delimiter in ";|\t" for decimal in ".,"),
    Dialect(",", "."),
    Dialect(" ", "."),
    Dialect(" ", ","),
    Dialect(",", ","),
)


def comment_mark(line: str, delimiter: str = " ") -> str | None:
    """The characters that make a whole line a comment, or None.

    Args:
        line: a line.
        delimiter: of the table; at a semicolon that separates cells, an empty cell begins the line.

    Examples:
        >>> comment_mark("// X Y Z"), comment_mark("; old"), comment_mark(";1;2", ";"), comment_mark("#N/A 1")
        ('//', ';', None, None)
    """
    start = line.lstrip()[:16]
    for mark in _MARKS:
        if start.startswith(mark) and mark != delimiter:
            return mark if mark != "#" or _COMMENT.match(start) else None
    return None


def is_integer(cells: Sequence[str]) -> bool:
    """Whether a line is one integer alone, as a count of the lines that follow is."""
    return len(cells) == 1 and _INTEGER.fullmatch(cells[0]) is not None


def _unquoted(token: str) -> str:
    return token[1:-1].replace('""', '"').strip() if token.startswith('"') else token

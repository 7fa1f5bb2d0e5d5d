"""Tables of results as Markdown, HTML, LaTeX and CSV."""

from __future__ import annotations

import csv
import html
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pyro_pcflow.ops.files import new_file

__all__ = ["Cell", "Interval", "Measure", "Number", "Table", "cell_text", "html_table", "markdown_table", "write_text"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Measure:
    """A mean over draws, and the standard deviation between them.

    Args:
        mean: of the draws.
        deviation: NaN for one draw.
        percent: whether it is a rate, which is shown in percent.
    """

    mean: float
    deviation: float = math.nan
    percent: bool = False


@dataclass(frozen=True)
class Number:
    """A number with the text that is shown for it.

    Args:
        value: for CSV; NaN for none.
        text: for all else.
        kind: of the number, a column of its own in CSV.
    """

    value: float
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Interval:
    """An interval of a rate; NaN where there is none."""

    low: float
    high: float


Cell: TypeAlias = str | Number | Measure | Interval


@dataclass(frozen=True)
class Table:
    """A table of results: print it for Markdown, look at it in a notebook, or write it as LaTeX or CSV.

    Args:
        keys: of the columns, for CSV.
        titles: of the columns, for all else.
        rows: a cell for each column.
        baselines: rows below them to compare with, such as the training set; CSV has those of numbers only.
        headline: a line above the table, in Markdown.
        notes: what the columns mean, in Markdown.

    Examples:
        >>> table = Table(("name", "cov-cd"), ("samples", "COV cd"), (("a_b", Measure(0.5, 0.01, percent=True)),))
        >>> print(table)
        | samples | COV cd |
        | --- | --- |
        | a_b | 50.0% ± 1.0 |
        >>> print(table.to_csv(), end="")
        name,cov-cd (%),cov-cd std (%)
        a_b,50,1
        >>> print(table.to_latex(), end="")
        % needs \\usepackage{booktabs}
        \\begin{tabular}{lr}
        \\toprule
        samples & COV cd (\\%) \\\\
        \\midrule
        a\\_b & 50.0 $\\pm$ 1.0 \\\\
        \\bottomrule
        \\end{tabular}
    """

    keys: tuple[str, ...]
    titles: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    baselines: tuple[tuple[Cell, ...], ...] = ()
    headline: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        rows = [list(map(cell_text, row)) for row in (*self.rows, *self.baselines)]
        return f"<p>{_inline(self.headline)}</p>{html_table([list(self.titles), *rows])}{notes_html(self.notes)}"

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """The table as Markdown.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        rows = [*self.rows, *((f"*{cell_text(first)}*", *rest) for first, *rest in self.baselines)]
        body = markdown_table([self.titles, *(list(map(cell_text, row)) for row in rows)])
        notes = "\n".join(f"- {note}" for note in self.notes)
        parts = [part for part in (self.headline, body, notes) if part]
        return write_text("\n\n".join(parts) + ("\n" if len(parts) > 1 else ""), path)

    def to_latex(self, path: str | os.PathLike[str] | None = None) -> str:
        r"""The table as a LaTeX `tabular` with the rules of booktabs; rates in percent, names escaped.

        The rows alone are the lines between `\midrule` and `\bottomrule`.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        titles = [
            _escaped(title) + (r" (\%)" if percent else "")
            for title, percent in zip(self.titles, self._are_percent(), strict=True)
        ]
        groups = [[" & ".join(map(_latex_cell, row)) + r" \\" for row in rows] for rows in (self.rows, self.baselines)]
        lines = [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
            r"\toprule",
            " & ".join(titles) + r" \\",
            r"\midrule",
            *groups[0],
            *([r"\midrule", *groups[1]] if groups[1] else []),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return write_text("\n".join(lines) + "\n", path)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The table as CSV: a header, a row per report and one for the training set, numbers in ten digits.

        Rates are in percent. Where some report has several draws, a column of standard deviations follows each metric.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        rows = [row for row in (*self.rows, *self.baselines) if not any(isinstance(cell, Interval) for cell in row)]
        several = any(isinstance(cell, Measure) and not math.isnan(cell.deviation) for row in rows for cell in row)
        columns: list[list[str]] = []
        for index, (key, percent) in enumerate(zip(self.keys, self._are_percent(), strict=True)):
            cells, unit = [row[index] for row in rows], " (%)" if percent else ""
            factor = 100 if percent else 1
            columns.append([key + unit, *(_number(cell, factor) for cell in cells)])
            measures = [cell if isinstance(cell, Measure) else None for cell in cells]
            if several and any(measures):
                deviations = [math.nan if cell is None else cell.deviation for cell in measures]
                columns.append([f"{key} std{unit}", *(_digits(factor * value) for value in deviations)])
            kinds = [cell.kind if isinstance(cell, Number) else "" for cell in cells]
            if any(kinds):
                columns.append([f"{key}, kind", *kinds])
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(zip(*columns, strict=True))
        return write_text(stream.getvalue(), path)

    def _are_percent(self) -> list[bool]:
        columns = zip(*self.rows, *self.baselines, strict=True)
        return [any(isinstance(cell, Measure) and cell.percent for cell in column) for column in columns]


def write_text(text: str, path: str | os.PathLike[str] | None) -> str:
    """The text, written to a new file as well where a path is given."""
    if path is not None:
        with new_file(path) as file:
            file.write(text.encode())
    return text


def cell_text(cell: Cell) -> str:
    """What Markdown, HTML and a terminal show of a cell."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Number):
        return cell.text
    if isinstance(cell, Interval):
        return "too few samples" if math.isnan(cell.low) else f"{100 * cell.low:.1f} to {100 * cell.high:.1f}%"
    shown = f"{100 * cell.mean:.1f}%" if cell.percent else f"{cell.mean:.4g}"
    if math.isnan(cell.deviation):
        return shown
    return f"{shown} ± " + (f"{100 * cell.deviation:.1f}" if cell.percent else f"{cell.deviation:.2g}")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, the head first; bars within cells would end them."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def html_table(rows: Sequence[Sequence[str]], *, right: bool = True) -> str:
    """A table of HTML, the head first, which scrolls where it is wide; `right` aligns all but the first column."""

    def line(row: Sequence[str], kind: str) -> str:
        sides = ["left", *["right" if right else "left"] * (len(row) - 1)]
        return "".join(
            f'<{kind} style="text-align: {side}; white-space: nowrap">{html.escape(cell)}</{kind}>'
            for cell, side in zip(row, sides, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows[1:])
    head = f"<thead><tr>{line(rows[0], 'th')}</tr></thead>"
    return f'<div style="overflow-x: auto"><table>{head}<tbody>{body}</tbody></table></div>'


def notes_html(notes: Sequence[str], summary: str = "What the metrics mean") -> str:
    """Notes that open on a click."""
    items = "".join(f"<li>{_inline(note)}</li>" for note in notes)
    return f"<details><summary>{summary}</summary><ul>{items}</ul></details>" if notes else ""


def _inline(text: str) -> str:
    """Escaped text, with the code spans of Markdown."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text.replace("\n", " "))


def _latex_cell(cell: Cell) -> str:
    if isinstance(cell, Interval) and not math.isnan(cell.low):
        return f"{100 * cell.low:.1f}--{100 * cell.high:.1f}"
    # The percent sign is in the title of the column.
    text = cell_text(cell).replace("%", "", 1) if isinstance(cell, Measure) else cell_text(cell)
    return _escaped(text)


def _number(cell: Cell, factor: float) -> str:
    if isinstance(cell, Measure):
        return _digits(factor * cell.mean)
    return _digits(cell.value) if isinstance(cell, Number) else cell_text(cell)


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.10g}"

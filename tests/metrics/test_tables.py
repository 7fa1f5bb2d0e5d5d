"""Cells and tables: what each format makes of them, and that a compiler takes the LaTeX."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from pyro_pcflow.metrics.tables import Interval, Measure, Number, Table, cell_text

ODD = "a\\b ~ ^ ± < > & % $ # _ { } | é\nc"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("a", "a"),
        (Measure(0.5, percent=True), "50.0%"),
        (Measure(0.5, 0.0125, percent=True), "50.0% ± 1.2"),
        (Measure(0.0123456), "0.01235"),
        (Measure(12.0, 0.5), "12 ± 0.5"),
        (Measure(math.inf), "inf"),
        (Number(3.0, "3 of 10"), "3 of 10"),
        (Interval(0.25, 0.875), "25.0 to 87.5%"),
        (Interval(math.nan, math.nan), "too few samples"),
    ],
)
def test_texts_of_cells(cell, text):
    assert cell_text(cell) == text


def test_latex_escapes_every_character_that_is_one_of_its_own():
    row = Table(("name", "x"), ("name", "x"), ((ODD, "1"),)).to_latex().splitlines()[5]
    assert row == (
        r"a\textbackslash{}b \textasciitilde{} \textasciicircum{} $\pm$ \textless{} \textgreater{} \& \% \$ \# \_ "
        r"\{ \} | é c & 1 \\"
    )
    plain = re.sub(r"\\(text\w+\{\}|[&%$#_{}])|\$\\pm\$", "", row.removesuffix(r" & 1 \\"))
    assert not set(plain) & set("\\~^<>&%$#_{}±")


def test_html_has_the_cells_of_the_table():
    class Cells(HTMLParser):
        def __init__(self):
            super().__init__()
            self.cells, self.inside = [], False

        def handle_starttag(self, tag, attrs):
            self.inside = tag in ("td", "th")

        def handle_data(self, data):
            if self.inside:
                self.cells.append(data)

        def handle_endtag(self, tag):
            self.inside = False

    parser = Cells()
    rows = ((ODD, Measure(0.5, percent=True)),)
    page = Table(("name", "x"), ("name", "x"), rows, notes=("`x`: a < b",))._repr_html_()
    parser.feed(page)
    assert parser.cells == ["name", "x", ODD, "50.0%"]
    assert "<li><code>x</code>: a &lt; b</li>" in page


def test_bars_do_not_end_cells_of_markdown():
    lines = Table(("name", "x"), ("name", "x"), (("a | b\nc", "1"),)).to_markdown().splitlines()
    assert lines == ["| name | x |", "| --- | --- |", "| a \\| b c | 1 |"]


def test_nothing_is_overwritten(tmp_path):
    table = Table(("name",), ("name",), (("a",),))
    for write in (table.to_markdown, table.to_latex, table.to_csv):
        path = tmp_path / write.__name__
        text = write(path)
        assert path.read_text() == text
        with pytest.raises(FileExistsError):
            write(path)

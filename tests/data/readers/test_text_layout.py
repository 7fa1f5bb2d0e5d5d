"""First lines of tables of text: dialects, headers, counts, and what is another format."""

from __future__ import annotations

import pytest

from pyro_pcflow.data.readers.text_dialect import Dialect
from pyro_pcflow.data.readers.text_layout import find_layout


@pytest.mark.parametrize(
    ("text", "dialect", "width", "line"),
    [
        ("1 2 3\n", Dialect(), 3, 1),
        ("1\t2\n", Dialect("\t"), 2, 1),
        ("1,2;3\n", Dialect(";", ","), 2, 1),
        ("1,2,3\n", Dialect(","), 3, 1),
        ("1,5 2,5\n", Dialect(" ", ","), 2, 1),
        ('"1,5","2,5"\n', Dialect(",", ","), 2, 1),
        ("# a\n\nx y z\n1 2 3\n", Dialect(), 3, 4),
        ("sep=|\nx|y\n1|2\n", Dialect("|"), 2, 3),
        ("0,1,2\n0.5,1,2\n", Dialect(","), 3, 2),
        (",0,1\n0,5,6\n", Dialect(","), 3, 2),
    ],
)
def test_where_a_table_begins_and_how_it_is_written(text, dialect, width, line):
    layout = find_layout(text.encode())
    assert (layout.dialect, layout.width, layout.first_line) == (dialect, width, line)
    assert text[layout.start :] == "".join(text.splitlines(keepends=True)[line - 1 :])


def test_headers_and_comments():
    layout = find_layout(b"# by me\nScan\nx;y;name\n// no more\n1;2;a\n")
    assert layout.comments == [(1, "by me")]
    assert layout.headers == [(2, ["Scan"]), (3, ["x", "y", "name"])]
    assert layout.words == (False, False, True)
    assert [layout.trailing, layout.numbered, layout.indexed, layout.counted] == [False] * 4


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1,2,\n3,4,\n", "trailing"),
        ("0,1\n0.5,2\n", "numbered"),
        (",0,1\n0,5,6\n", "indexed"),
        ("1\n1 2 3\n", "counted"),
        ("1 5 6\n2 7 8\n", "rows_are_named"),
        ("a 5 6\nb 7 8\n", "rows_are_named"),
    ],
)
def test_what_the_first_lines_say(text, what):
    assert getattr(find_layout(text.encode()), what)
    assert not getattr(find_layout(b"5 6 7\n8 9 1\n"), what)


def test_a_count_is_part_of_the_table():
    layout = find_layout(b"# a\n2\n1 2 3\n4 5 6\n")
    assert (layout.start, layout.first_line, layout.width) == (4, 2, 3)


OTHER_FORMATS = {
    "ply\nformat ascii 1.0\n": "a PLY file",
    "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n": "an OFF file",
    "solid a\nfacet normal 0 0 1\n": "an STL file",
    "ncols 2\nnrows 2\nxllcorner 0\n1 2\n3 4\n": "a grid of heights",
    "# .PCD v.7 - Point Cloud Data\nVERSION .7\nFIELDS x y z\n1 2 3\n": "a PCD file",
    "VARIABLES = x y z\nZONE F=BLOCK\n1 2 3\n4 5 6\n": "blocks",
}


@pytest.mark.parametrize("text", OTHER_FORMATS)
def test_other_formats_are_refused(text):
    with pytest.raises(ValueError, match=OTHER_FORMATS[text]):
        find_layout(text.encode())

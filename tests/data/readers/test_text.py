"""Tables of text in all dialects: their right values, or an error that says what is wrong."""

from __future__ import annotations

import contextlib
import math
import random
import time

import numpy as np
import pytest

from helpers.text_files import DIALECTS, ENCODINGS, ROWS, VALUES, damaged, written
from pyro_pcflow.data.columns import choose_columns
from pyro_pcflow.data.readers.text import read_text

XYZ = ["x", "y", "z"]
NUMBERED = ["1", "2", "3"]


def read(tmp_path, text, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read_text(path)


def only(tmp_path, text, name="a.txt"):
    (table,) = read(tmp_path, text, name)
    return table


def rows_of(table):
    return [list(row) for row in zip(*(values.tolist() for values in table.columns.values()), strict=True)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("header", ["", "x~y~z", "# x~y~z", "//X~Y~Z", '"x"~"y"~"z"'])
@pytest.mark.parametrize(("delimiter", "decimal"), DIALECTS)
def test_dialects(tmp_path, delimiter, decimal, header, end):
    table = only(tmp_path, written(ROWS, delimiter, decimal, header, end))
    assert rows_of(table) == VALUES
    assert table.named is bool(header)
    assert [name.lower() for name in table.columns] == (XYZ if header else NUMBERED)
    assert all(values.dtype == np.float64 for values in table.columns.values())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("delimiter", "decimal"), DIALECTS[::3])
def test_encodings(tmp_path, delimiter, decimal, encoding):
    text = written(ROWS, delimiter, decimal, "x~y~H\u00f6he[m]", "\r\n", last_end=False)
    table = only(tmp_path, ENCODINGS[encoding](text))
    assert rows_of(table) == VALUES
    assert list(table.columns) == ["x", "y", "H\u00f6he[m]"]


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize(("before", "behind"), [("", "D"), ("D", ""), ("D", "D"), ("  ", "  "), ("", " # a, b; c")])
@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", ","), ("\t", "."), ("|", "."), (";", ".")])
def test_edges(tmp_path, delimiter, decimal, before, behind, quoted):
    edges = {"before": before.replace("D", delimiter), "behind": behind.replace("D", delimiter)}
    table = only(tmp_path, written(ROWS, delimiter, decimal, quoted=quoted, **edges))
    assert rows_of(table) == VALUES
    assert list(table.columns) == NUMBERED


@pytest.mark.parametrize("comment", ["# a", "#", "// a b c", "% 1 2 3", "! a", "; a", "  # 7 8 9", "# 1 2 3", "//"])
@pytest.mark.parametrize("place", [0, 1, 3, 4])
def test_comments(tmp_path, comment, place):
    lines = written(ROWS).splitlines()
    lines.insert(place, comment)
    lines.insert(place, "")
    table = only(tmp_path, "\n".join(lines))
    assert rows_of(table) == VALUES
    assert not table.named


TABLES = {
    # Names.
    "CloudCompare with a count": ("//X Y Z\n1\n1 2 3\n", {"X": [1], "Y": [2], "Z": [3]}),
    "a title": ("Scan of the garden\nx y z\n1 2 3\n", {"x": [1], "y": [2], "z": [3]}),
    "a title with a number": ("Station 5\nx y z\n1 2 3\n", {"x": [1], "y": [2], "z": [3]}),
    "an airfoil": ("NACA 2412\n1.0 0.5\n0.5 1.5\n", {"1": [1, 0.5], "2": [0.5, 1.5]}),
    "a title that counts": ("Points: 2\n1 2 3\n4 5 6\n", {"1": [1, 4], "2": [2, 5], "3": [3, 6]}),
    "a title without names": ("Scan\n1 2 3\n", {"1": [1], "2": [2], "3": [3]}),
    "names of German": (
        "Rechtswert;Hochwert;H\u00f6he\n1,5;2;3\n",
        {"Rechtswert": [1.5], "Hochwert": [2], "H\u00f6he": [3]},
    ),
    "bytes of Latin-1": (b"x y H\xf6he\n1 2 3\n", {"x": [1], "y": [2], "H\u00f6he": [3]}),
    # pandas and R.
    "pandas with numbers": ("0,1,2\n1.5,2,3\n", {"1": [1.5], "2": [2], "3": [3]}),
    "pandas with numbers and an index": (",0,1,2\n0,1.5,2,3\n1,4,5,6\n", {"1": [1.5, 4], "2": [2, 5], "3": [3, 6]}),
    "pandas with whole numbers and an index": (",0,1\n0,1,2\n1,4,5\n", {"1": [1, 4], "2": [2, 5]}),
    "Excel": ("sep=;\nx;y\n1,5;2\n", {"x": [1.5], "y": [2]}),
    "Excel, a comma in quotes": ('"sep=,"\r\nx,y\r\n"1,5","2,25"\r\n', {"x": [1.5], "y": [2.25]}),
    "Excel, a tab": ("sep=\t\nx\ty\n1\t2\n", {"x": [1], "y": [2]}),
    "Excel, lines of nothing": ("x,y,z\n1,2,3\n,,\n,,\n", {"x": [1], "y": [2], "z": [3]}),
    # Numbers.
    "Fortran": ("1.0D-01 2d0 3\n", {"1": [0.1], "2": [2], "3": [3]}),
    "Fortran with a plus": ("0.1D+01 -.5E+00 3.\n", {"1": [1], "2": [-0.5], "3": [3]}),
    "Fortran with words": ("1.0D-01 2d0 Ada\n", {"1": [0.1], "2": [2], "3": ["Ada"]}),
    "a minus of typographers": ("\u22121.5 2 \u22123\n", {"1": [-1.5], "2": [2], "3": [-3]}),
    "integers": ("1 2 3\n-4 +5 06\n", {"1": [1, -4], "2": [2, 5], "3": [3, 6]}),
    "large integers": ("16777217 9007199254740993 1\n", {"1": [16777217], "2": [9007199254740993], "3": [1]}),
    "integers of 64 bits without sign": ("1 2 18446744073709551615\n", {"1": [1], "2": [2], "3": [2**64 - 1]}),
    "a decimal comma among integers": ("1 2,3 4\n5 6 7\n", {"1": [1, 5], "2": [2.3, 6], "3": [4, 7]}),
    "integers or floats": ("1 2\n1.5 3\n", {"1": [1, 1.5], "2": [2, 3]}),
    "three integers and commas": ("1,234,567\n", {"1": [1], "2": [234], "3": [567]}),
    "decimal commas and blanks": ("1,5 2,5 3,5\n", {"1": [1.5], "2": [2.5], "3": [3.5]}),
    "decimal commas, one of thousands": ("1,234 2,345 0,5\n", {"1": [1.234], "2": [2.345], "3": [0.5]}),
    "map coordinates and commas": ("701362,085;4485513,123\n", {"1": [701362.085], "2": [4485513.123]}),
    "commas in quotes": ('"0,5","1,25"\n"2","3"\n', {"1": [0.5, 2], "2": [1.25, 3]}),
    "NaN": ("1 2 nan\nNaN 3 -NAN\n", {"1": [1, math.nan], "2": [2, 3], "3": [math.nan] * 2}),
    "empty cells": ("x,y,z\n1,,3\n4,5,6\n", {"x": [1, 4], "y": [math.nan, 5], "z": [3, 6]}),
    "NA of R": ("x y z\n1 NA 3\n4 5 6\n", {"x": [1, 4], "y": [math.nan, 5], "z": [3, 6]}),
    "missing in Excel": (
        "1,2,#N/A\n3,4,#DIV/0!\n5,6,7\n",
        {"1": [1, 3, 5], "2": [2, 4, 6], "3": [math.nan, math.nan, 7]},
    ),
    "old C libraries": ("1 1.#QNAN\n-1.#IND 1.#INF\n", {"1": [1, math.nan], "2": [math.nan, math.inf]}),
    "infinite": ("1 inf\n-Infinity 2\n", {"1": [1, -math.inf], "2": [math.inf, 2]}),
    "beyond doubles": ("1 1e400\n2 3\n", {"1": [1, 2], "2": [math.inf, 3]}),
    # Words.
    "words behind": ("1 2 3 chair\n4 5 6 table\n", {"1": [1, 4], "2": [2, 5], "3": [3, 6], "4": ["chair", "table"]}),
    "words with delimiters": ('x,y,name\n1,2,"a, b"\n3,4,c\n', {"x": [1, 3], "y": [2, 4], "name": ["a, b", "c"]}),
    "words with blanks": ("x;y;name\n1,5;2;a b\n", {"x": [1.5], "y": [2], "name": ["a b"]}),
    "words with a hash in quotes": ('x,y,name\n1,2,"a#b"\n', {"x": [1], "y": [2], "name": ["a#b"]}),
    "words and empty cells": ("x,y,name\n1,2,\n3,4,c\n5,6,\n", {"x": [1, 3, 5], "y": [2, 4, 6], "name": ["", "c", ""]}),
    "words in quotes and blanks": ('1 2 "a b"\n', {"1": [1], "2": [2], "3": ["a b"]}),
    "words of Latin-1": (b"x y name\n1 2 B\xe4ume\n", {"x": [1], "y": [2], "name": ["B\u00e4ume"]}),
    "words that begin with a digit": ("x y name\n1 2 3D\n4 5 2nd\n", {"x": [1, 4], "y": [2, 5], "name": ["3D", "2nd"]}),
    # Blanks.
    "lines of blanks": ("\n  \n1 2\n\t\n\n3 4\n\n", {"1": [1, 3], "2": [2, 4]}),
    "blanks between commas and tabs": ("1,\t2 # first\n\n 3 ,4\n", {"1": [1, 3], "2": [2, 4]}),
    "doubled tabs": ("1.5\t\t2\t\t3\n", {"1": [1.5], "2": [2], "3": [3]}),
    "form feeds": ("1 2\f\n3\v4\n", {"1": [1, 3], "2": [2, 4]}),
    "DOS": (b"1 2\r\n3 4\r\n\x1a", {"1": [1, 3], "2": [2, 4]}),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    text, expected = TABLES[name]
    table = only(tmp_path, text)
    assert list(table.columns) == list(expected)
    for column, values in expected.items():
        np.testing.assert_array_equal(table.columns[column], values)
    numbered = [str(place) for place in range(1, len(expected) + 1)]
    assert table.named is (list(expected) != numbered)


REFUSED = {
    "": "no numbers in it",
    "\n\n": "no numbers in it",
    "# a\n": "no numbers in it",
    "; a\n": "no numbers in it",
    "hello\nworld\n": "no number|single column",
    "a b c\nd e f\n": "no numbers of a point",
    "1\n2\n3\n": "a single column",
    "x\n1.5\n2.5\n": "a single column",
    "x y z\n": "no numbers of a point",
    "0,1,2\n": "numbers the columns, and no line of numbers follows",
    # Lines that don't go together.
    "1 2 3\n4 5\n": "line 1 has 3 columns, the lines after it have 2",
    "1 2 3\n4 5\n6 7 8\n": "line 2 has 2 columns",
    "1 2 3\n" * 500 + "4 5\n" + "1 2 3\n" * 500: "line 501 has 2 columns, the lines around it have 3",
    "1,2,3\n" * 500 + "4,5\n": "line 501 has 2 columns",
    "1,2,3\n" * 500 + "4,5,6,7\n": "line 501 has 4 columns",
    "1 2 3\n" * 500 + "4 5 x\n": "line 501: 'x' is no number",
    "1 2 3\n" * 500 + "x y z\n" + "1 2 3\n": "line 501: 'x' is no number",
    "1 2 a\n" * 500 + "4 5 6\n": "line 501: '6' stands in column 3, which is of words",
    "1 2 3\n4 5 x\n": "line 1 holds numbers only",
    "1 2 x\n4 5 6\n": "line 1 is neither names nor numbers, for 'x'",
    "1 2 3 4x\n4 5 6\n": "line 1 has 4 columns",
    "x,y,z\n1,2,3,4\n": "line 1 names 3 columns, the lines after it have 4",
    "x,y\n1,2,3\n": "line 1 names 2 columns, the lines after it have 3",
    "x,y,z\n1,5,2,5,3,5\n": "line 1 names 3 columns, the lines after it have 6",
    "1,2;3\n4;5\n6,7;8,9;1\n": "line",
    # Numbers that may be two.
    "1,234 5,678\n": "may be 1.234 or 1234",
    "1,234;5,678\n": "may be 1.234 or 1234",
    "1,234\t-5,678\t12,345\n": "may be 1.234 or 1234",
    "x;y\n1.234,5;2\n": "line 2: '1.234,5' is no number",
    "1,234,567 2,345,678\n0 1\n": "line",
    "0.5 2\n" * 300 + "1,234.5 3\n": "line 301: '1,234.5' is no number: write it without marks of thousands",
    "0.5 2\n" * 300 + "1'234 3\n": 'line 301: "1\'234" is no number: write it without marks of thousands',
    "0.5;2\n" * 300 + "1 234;3\n": "line 301: '1 234' is no number: write it without marks of thousands",
    "0.5 2\n" * 300 + "1\u00a0234 3\n": "line 301: .* is no number: write it without marks of thousands",
    "0.5 2\n" * 300 + "1_000 3\n": "line 301: '1_000' is no number",
    "0.5 2\n" * 300 + "0x1F 3\n": "line 301: '0x1F' is no number, hexadecimals are not read",
    "0.5 2\n" * 300 + "\u0661 3\n": "line 301: .* is no number",
    "0.5 2\n" * 300 + "1.5-2.5 3\n": "line 301: '1.5-2.5' is no number",
    "0.5 2\n" * 300 + "***** 3\n": "line 301: '.*' is no number",
    "0,5;2\n" * 300 + "1.5;3\n": "line 301: '1.5' is no number",
    "0x1F 0x2F 3\n": "no number",
    "0x1F 1 2 3\n": "no number",
    "1.5.2 1 2 3\n": "no number",
    "12ab 1 2 3\n": "no number, and has no name",
    "1.5 99999999999999999999999999999999\n1.5 1\n": "no float64 keeps",
    "x y\nNA 1\n9007199254740993 2\n": "no float64 keeps",
    "x y\nnan 1\n9007199254740993 2\n": "no float64 keeps",
    "0 1 2\n3 4 5\n": "line 1 may be a point, or number the columns",
    "(1, 2, 3)\n(4, 5, 6)\n": "no number",
    # Quotes.
    '"1,2\n3,4\n': "line 1 has a quote that never ends",
    '"1","2"\n' * 300 + '"3,"4"\n': "line 301: a quote that never ends",
    '"1","2"\n' * 300 + '"3"5,"4"\n': "line 301: quotes that are not understood",
    '1 2\n3"4" 5"6"\n': "line 2: a quote within a word",
    "sep=;\n1,2\n": "';' separates cells, and none is there",
    # Counts.
    "3\n1 2 3\n4 5 6\n": "line 1 counts 3 points, and 2 follow",
    "1\n1 2 3\n4 5 6\n": "line 1 counts 1 points, and 2 follow",
    "1\n1 2 3\n2\n4 5 6\n": "line 3 counts 2 points, and 1 follow",
    "999999999999\n1 2 3\n": "line 1 counts 999999999999 points, and 1 follow",
    "99999999999999999999\n1 2 3\n": "line 1",
    "Points: 3\n1 2 3\n4 5 6\n": "line 1 counts 3 points, and 2 follow",
    "num_points = 3\nx y z\n1 2 3\n4 5 6\n": "line 1 counts 3 points, and 2 follow",
    "0\n1 2 3\n": "line 1 counts 0 points, and 1 follow",
    "-1\n1 2 3\n": "line 1: the count",
    "1\n1 2 3\n0\n": "line 3 counts no points",
    "2\ncomment\nC 0 0 0\n": "line 1 counts 2 points, and 1 follow",
    "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n": "an OBJ file",
    "1 2 \0": "binary",
    "1 2 \x01": "binary",
    "1 " * 40_000 + "\n": "more than 65536 characters",
    "1 2\n" + "3 " * 40_000 + "\n": "more than 65536 characters",
    "1 " * 5000 + "\n": "more than 4096 columns",
    "1 2\n" * 300 + "3 " * 40_000 + "\n": "line 301 has more than 65536 characters",
    "x y name\n" + "1 2 a\n" * 300 + f"1 2 {'a' * 300}\n": "a word of more than 256 characters",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[-40:]))
def test_refused(tmp_path, text):
    with pytest.raises(ValueError, match=REFUSED[text]):
        read(tmp_path, text)


def test_a_file_of_several_megabytes(tmp_path):
    values = np.arange(150_000).reshape(-1, 3) / 8
    text = "\n".join("{} {} {}".format(*row) for row in values.tolist())
    table = only(tmp_path, text)
    assert len(text) > 1 << 20
    assert np.array_equal(np.stack(list(table.columns.values()), axis=1), values)


# Counts.


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (3, "x y z"),
        (4, "x y z intensity"),
        (5, "1 2 3 4 5"),
        (6, "x y z r g b"),
        (7, "x y z intensity r g b"),
    ],
)
@pytest.mark.parametrize("counted", [False, True])
def test_pts(tmp_path, width, names, counted):
    rows = [[str(10 * k + column) for column in range(1, width + 1)] for k in range(3)]
    table = only(tmp_path, ("3\n" if counted else "") + written(rows), "a.pts")
    assert " ".join(table.columns) == names
    assert rows_of(table) == [[int(cell) for cell in row] for row in rows]


def test_blocks(tmp_path):
    tables = read(tmp_path, "2\n1 2 3\n4 5 6\n\n1\n7 8 9\n# end\n", "a.pts")
    assert [rows_of(table) for table in tables] == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]
    assert [table.name for table in tables] == ["block 1", "block 2"]


def test_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_pcflow.data.readers.text._MOST_BLOCKS", 100)
    assert len(read(tmp_path, "1\n7 8 9\n" * 100)) == 100
    with pytest.raises(ValueError, match="more than 100 blocks"):
        read(tmp_path, "1\n7 8 9\n" * 101)


@pytest.mark.parametrize(
    "comment", ["water", "", "0 0 0", "17", "H 0 0 0", "3.5", 'Lattice="1 0 0" Properties=pos:R:3']
)
@pytest.mark.parametrize("frames", [1, 2])
def test_xyz_of_chemists(tmp_path, comment, frames):
    text = f"3\n{comment}\nO 0.5 0 0\nH 1 2 3\nHe 4 5 6.5\n"
    tables = read(tmp_path, text * frames, "a.xyz")
    assert len(tables) == frames
    for table in tables:
        assert rows_of(table) == [["O", 0.5, 0, 0], ["H", 1, 2, 3], ["He", 4, 5, 6.5]]
        assert list(table.columns) == ["element", "x", "y", "z"]
        assert choose_columns(table).points.tolist() == [[0.5, 0, 0], [1, 2, 3], [4, 5, 6.5]]


def test_elements_without_a_count(tmp_path):
    table = only(tmp_path, "O 0.5 0 0\nH 1 2 3\n", "a.xyz")
    assert choose_columns(table).points.tolist() == [[0.5, 0, 0], [1, 2, 3]]


# Hostile files.


@pytest.mark.parametrize(
    "data",
    [
        b"1\n" * 100_000,
        b"1 2\n" * 50_000 + b"1 2 3",
        b"#" * 1_000_000,
        b"#\n" * 300_000,
        b"\n" * 500_000,
        b'"' * 500_000,
        b'"a" ' * 100_000,
        b"x " * 30_000 + b"\n" + b"1 " * 30_000,
        b"a,b,c\n" * 50_000,
        b",\n" * 200_000,
        b"9" * 60_000 + b" 1\n2 3\n",
        b"1 2 " + b"a" * 200 + b"\n" + b"1 2 a\n" * 50_000,
        b"1\n1 2 3\n" * 1000 + b"2\n",
    ],
    ids=range(13),
)
def test_hostile_files_end_soon(tmp_path, data):
    start = time.process_time()
    with contextlib.suppress(ValueError):
        assert all(len(table) for table in read(tmp_path, data))
    assert time.process_time() - start < 10


GOOD = [
    written(ROWS),
    written(ROWS, ",", header="x~y~z"),
    written(ROWS, ";", ","),
    written(ROWS, "\t", header="# x~y~z", behind="\t"),
    "4\n" + written(ROWS),
    "2\nab c\nC 0 0 0\nH 1 2 3\n" * 2,
    ",x,y,z,name\n0,1,2,3,a\n1,,5,6,b\n",
    '"x","y","z"\n"1.5","2","3"\n"4","5","6"\n',
    "0,1,2\n0.5,1,2\n3,4,5\n",
    "//X Y Z\n2\n1 2 3\n4 5 6\n",
]


def check_damaged(tmp_path, seed):
    generator = random.Random(seed)
    data = generator.choice(GOOD).encode(generator.choice(["utf-8", "utf-8", "utf-16"]))
    data = damaged(data, generator)
    try:
        tables = read(tmp_path, data, generator.choice(["a.txt", "a.pts", "a.xyz"]))
    except ValueError:
        return False
    for table in tables:
        assert len({values.shape for values in table.columns.values()}) == 1
        assert {values.dtype.kind for values in table.columns.values()} <= set("fiuU")
        assert len(table)
    return True


def test_damaged_files(tmp_path):
    results = [check_damaged(tmp_path, seed) for seed in range(400)]
    assert 20 < sum(results) < 380


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path):
    for seed in range(400, 5000):
        check_damaged(tmp_path, seed)


def test_numbers_survive_in_full(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3)) * 10.0 ** np.arange(-10, 40)[:, None]
    table = only(tmp_path, "\n".join(" ".join(map(repr, row)) for row in values.tolist()))
    assert np.array_equal(np.stack(list(table.columns.values()), axis=1), values)

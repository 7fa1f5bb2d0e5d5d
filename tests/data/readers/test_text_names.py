"""Names of columns of text: from headers, comments and endings, each above its own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyro_pcflow.data.readers.text_columns import read_columns
from pyro_pcflow.data.readers.text_layout import find_layout
from pyro_pcflow.data.readers.text_names import name_columns


def name(text, ending=".txt"):
    """Values by their names, and whether these are the file's."""
    data = text.encode()
    layout = find_layout(data)
    columns = read_columns(data, layout.dialect, layout.width, start=layout.start, first_line=layout.first_line)
    found, named = name_columns(layout, columns, ending)
    return {key: column.values() for key, column in found.items()}, named


TABLES = {
    "CloudCompare": ("//X Y Z\n1 2 3\n", {"X": [1], "Y": [2], "Z": [3]}),
    "CloudCompare with a title": ("//cloud name\n//X,Y,Z,R\n1,2,3,4\n", {"X": [1], "Y": [2], "Z": [3], "R": [4]}),
    "CloudCompare in quotes": ('"//X","Y","Z"\n1,2,3\n', {"X": [1], "Y": [2], "Z": [3]}),
    "numpy": ("# x y z intensity\n1 2 3 4\n", {"x": [1], "y": [2], "z": [3], "intensity": [4]}),
    "numpy, commas for blanks": ("# x,y,z\n1 2 3\n", {"x": [1], "y": [2], "z": [3]}),
    "a label before names": ("# columns: x y z\n1 2 3\n", {"x": [1], "y": [2], "z": [3]}),
    "a comment of as many words": ("# made by me\n1 2 3\n", {"1": [1], "2": [2], "3": [3]}),
    "a comment of other numbers": ("# x y z\n1 2 3 4\n", {"1": [1], "2": [2], "3": [3], "4": [4]}),
    "units": ("x [m];y [m];z [m]\n1,5;2;3\n", {"x [m]": [1.5], "y [m]": [2], "z [m]": [3]}),
    "units in a line": ("x,y,z\nm,m,m\n1,2,3\n", {"x": [1], "y": [2], "z": [3]}),
    "ParaView": ('"Points:0","Points:1","Points:2"\n1,2,3\n', {"Points:0": [1], "Points:1": [2], "Points:2": [3]}),
    "Tecplot": ('TITLE = "a"\nVARIABLES = "X", "Y", "Z"\nZONE T="b", I=2\n1 2 3\n', {"X": [1], "Y": [2], "Z": [3]}),
    "a delimiter behind names only": ("x,y,z,\n1,2,3\n", {"x": [1], "y": [2], "z": [3]}),
    "a delimiter behind numbers only": ("x,y,z\n1,2,3,\n", {"x": [1], "y": [2], "z": [3]}),
    "an empty column with a name": ("x,y,label\n1,2,\n3,4,\n", {"x": [1, 3], "y": [2, 4], "label": [math.nan] * 2}),
    "doubled quotes": ('x,y,"a ""b"""\n1,2,3\n', {"x": [1], "y": [2], 'a "b"': [3]}),
    "a comma in a name": ('x,y,"a, b"\n1,2,3\n', {"x": [1], "y": [2], "a, b": [3]}),
    "a name twice": ("x,y,x\n1,2,3\n", {"x": [1], "y": [2], "x (2)": [3]}),
    "a name without words": ("x,,z\n1,2,3\n", {"x": [1], "column 2": [2], "z": [3]}),
    "pandas with an index": (",x,y\n0,1.5,2\n1,3,4\n", {"index": [0, 1], "x": [1.5, 3], "y": [2, 4]}),
    "R": ('"x" "y"\n"1" 1.5 2\n"2" 3 4\n', {"index": [1, 2], "x": [1.5, 3], "y": [2, 4]}),
    "R without names": ('"V1","V2","V3"\n1,2,3\n', {"1": [1], "2": [2], "3": [3]}),
    "numbered names": ("col 0, col 1\n1.0,2\n3,4\n", {"1": [1, 3], "2": [2, 4]}),
}


@pytest.mark.parametrize("case", TABLES)
def test_names(case):
    text, expected = TABLES[case]
    found, named = name(text)
    assert list(found) == list(expected)
    for column, values in expected.items():
        np.testing.assert_array_equal(found[column], values)
    assert named is (list(expected) != [str(place) for place in range(1, len(expected) + 1)])


@pytest.mark.parametrize(
    ("ending", "names"),
    [
        (".pts", "x y z"),
        (".pts", "x y z intensity"),
        (".pts", "x y z r g b"),
        (".pts", "x y z intensity r g b"),
        (".xyzn", "x y z nx ny nz"),
        (".xyzrgb", "x y z r g b"),
    ],
)
def test_endings_that_name_columns(ending, names):
    numbers = list(range(10, 10 + len(names.split())))
    text = " ".join(map(str, numbers)) + "\n"
    found, named = name(text, ending)
    assert {key: values.tolist() for key, values in found.items()} == {
        key: [number] for key, number in zip(names.split(), numbers, strict=True)
    }
    assert named
    assert not name(text, ".xyz")[1]


@pytest.mark.parametrize(("header", "count"), [("x y", 3), ("x y z intensity", 3)])
def test_another_number_of_names_is_refused(header, count):
    with pytest.raises(ValueError, match=f"line 1 names {len(header.split())} columns, .* have {count}"):
        name(header + "\n" + " ".join("123"[:count]) + "\n")

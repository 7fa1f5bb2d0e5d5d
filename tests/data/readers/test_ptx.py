"""PTX: grids of points with poses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from helpers.text_files import damaged
from pyro_pcflow.data.readers.ptx import read_ptx

IDENTITY = ["1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1"]
# A quarter turn about z, which takes x to y; the shift is the last line.
TURNED = ["0 1 0 0", "-1 0 0 0", "0 0 1 0", "100 200 300 1"]
AXES = ["0 0 0", "1 0 0", "0 1 0", "0 0 1"]
POINTS = ["1 2 3 0.25", "4 5 6 0.75"]


def station(points=POINTS, matrix=IDENTITY, columns=None, rows=1, axes=AXES):
    return [str(len(points) if columns is None else columns), str(rows), *axes, *matrix, *points]


def read(tmp_path, lines, end="\n"):
    path = tmp_path / "a.ptx"
    path.write_bytes(lines if isinstance(lines, bytes) else (end.join(lines) + end).encode())
    return read_ptx(path)


def xyz(table):
    return np.stack([table.columns[axis] for axis in "xyz"], axis=1).tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_station(tmp_path, end):
    (table,) = read(tmp_path, station(), end)
    assert list(table.columns) == ["x", "y", "z", "intensity"]
    assert xyz(table) == [[1, 2, 3], [4, 5, 6]]
    assert table.columns["intensity"].tolist() == [0.25, 0.75]
    assert table.columns["x"].dtype == np.float64
    assert table.named
    assert table.name == "station 1"


def test_stations_in_one_frame(tmp_path):
    tables = read(tmp_path, [*station(), *station(["1 2 3 0.5"], TURNED), "", ""])
    assert [table.name for table in tables] == ["station 1", "station 2"]
    assert xyz(tables[1]) == [[100 - 2, 200 + 1, 303]]


def test_doubles_of_map_coordinates(tmp_path):
    matrix = [*IDENTITY[:3], "701362.085 4485513.123 0 1"]
    (table,) = read(tmp_path, station(["0.001 0.002 0.003 0.5"], matrix))
    np.testing.assert_allclose(xyz(table), [[701362.086, 4485513.125, 0.003]], rtol=0, atol=1e-9)


def test_cells_without_a_measurement(tmp_path):
    (table,) = read(tmp_path, station(["0 0 0 0.5", "0 1 0 0.5", "0.0 -0 0 0.5"], TURNED))
    assert np.isnan(xyz(table)).all(axis=1).tolist() == [True, False, True]
    assert xyz(table)[1] == [99, 200, 300]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("1 2 3", "x y z"),
        ("1 2 3 0.5", "x y z intensity"),
        ("1 2 3 10 20 30", "x y z r g b"),
        ("1 2 3 0.5 10 20 30", "x y z intensity r g b"),
    ],
)
def test_columns(tmp_path, line, names):
    (table,) = read(tmp_path, station([line, line], rows=1))
    assert " ".join(table.columns) == names
    if "r" in table.columns:
        assert table.columns["r"].tolist() == [10, 10]
        assert table.columns["r"].dtype == np.int64


def test_grid(tmp_path):
    points = [f"{k} 1 1 0" for k in range(6)]
    (table,) = read(tmp_path, station(points, columns=2, rows=3))
    assert table.columns["x"].tolist() == list(range(6))


REFUSED = {
    "empty": ([], "no numbers"),
    "cut header": (station()[:7], "line 1: a station begins, and its header of 10 lines is cut short"),
    "cut points": (station()[:-1], "line 1: columns and rows promise 2 points, 1 lines follow"),
    "more points": ([*station(), "7 8 9 1"], "line 13: a station begins, and its header"),
    "huge": (station(columns=999_999_999, rows=999_999_999), "promise 999999998000000001 points, 2 lines follow"),
    "none": (station(columns=0), "line 1: '0' stands where a number of columns or rows belongs"),
    "negative": (station(columns=-2), "line 1: '-2' stands"),
    "a word": (station(["1 2 3 0.25", "4 5 x 0.75"]), "line 12: 'x' is no number"),
    "short line": (station(["1 2 3 0.25", "4 5 6"]), "line 12 has 3 columns, the lines around it have 4"),
    "five columns": (station(["1 2 3 4 5"]), "line 11 has 5 columns instead of 3, 4, 6 or 7"),
    "blank line": ([*station(["1 2 3 0.25", ""]), *station()], "2 points are promised, 1 lines"),
    "words only": (station(["a b c"]), "x is a word|no number"),
    "axes": (station(axes=["0 0 0", "1 0", "0 1 0", "0 0 1"]), "line 4: '1 0' stands where 3 numbers"),
    "a matrix of words": (station(matrix=["1 0 0 a", *IDENTITY[1:]]), "line 7: '1 0 0 a' stands where 4 numbers"),
    "NaN in a matrix": (station(matrix=["nan 0 0 0", *IDENTITY[1:]]), "line 7"),
    "columns of a shift": (station(matrix=["1 0 0 100", *IDENTITY[1:]]), "line 7: a matrix whose last column"),
    "a flat matrix": (station(matrix=["0 0 0 0", *IDENTITY[1:]]), "line 7: a matrix that flattens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    lines, found = REFUSED[name]
    with pytest.raises(ValueError, match=found):
        read(tmp_path, lines)


def test_binary(tmp_path):
    with pytest.raises(ValueError, match="binary"):
        read(tmp_path, b"1\n1\n\0")


def check_damaged(tmp_path, seed):
    generator = random.Random(seed)
    good = "\n".join([*station(), *station(["1 2 3 0.5 1 2 3", "0 0 0 0.5 0 0 0"], TURNED)]).encode() + b"\n"
    try:
        tables = read(tmp_path, damaged(good, generator))
    except ValueError:
        return False
    for table in tables:
        assert len({values.shape for values in table.columns.values()}) == 1
    return True


def test_damaged_files(tmp_path):
    results = [check_damaged(tmp_path, seed) for seed in range(300)]
    assert 10 < sum(results) < 290


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path):
    for seed in range(300, 5000):
        check_damaged(tmp_path, seed)

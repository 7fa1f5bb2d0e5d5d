"""Which columns of tables are coordinates and features."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_pcflow.data.column_names import unique_names
from pyro_pcflow.data.columns import choose_columns
from pyro_pcflow.data.shapes import PointTable


def table(names, named=True, dtype=np.float64):
    """Column k of row r holds 10 k + r."""
    return PointTable({name: np.arange(3).astype(dtype) + 10 * k for k, name in enumerate(names)}, named)


def unnamed(count):
    return table([str(place) for place in range(1, count + 1)], named=False)


def places(chosen):
    """Which columns were taken, from 0."""
    return [int(value) // 10 for value in chosen.points[0]]


TRIPLES = [
    "x y z",
    "X Y Z",
    "x [m]|Y [m]|z [m]",
    "X(m)|Y(m)|Z(m)",
    "x_m y_m z_m",
    "//X Y Z",
    "point_x point_y point_z",
    "PointX PointY PointZ",
    "Points:0 Points:1 Points:2",
    "Points_0 Points_1 Points_2",
    "px py pz",
    "pos_x pos_y pos_z",
    "position.x position.y position.z",
    "xcoord ycoord zcoord",
    "X_Coordinate Y_Coordinate Z_Coordinate",
    "Coord X|Coord Y|Coord Z",
    "cartesianX cartesianY cartesianZ",
    "Easting Northing Elevation",
    "easting northing height",
    "Easting [m]|Northing [m]|Z [m]",
    "east north up",
    "Rechtswert Hochwert H\u00f6he",
    "x0 x1 x2",
    "x1 x2 x3",
]


@pytest.mark.parametrize("columns", [None, "xyz"])
@pytest.mark.parametrize("names", TRIPLES)
def test_names_decide(names, columns):
    x, y, z = names.split("|") if "|" in names else names.split()
    chosen = choose_columns(table(["time", z, "intensity", y, "index", x]), columns)
    assert places(chosen) == [5, 3, 1]
    assert chosen.names == (x, y, z)
    assert chosen.features is None
    assert chosen.feature_names == ()
    two = table(["intensity", y, x])
    if columns is None:
        assert places(choose_columns(two)) == [2, 1]
    else:
        with pytest.raises(ValueError, match=r"only .* and three coordinates were asked for"):
            choose_columns(two, columns)


def test_plain_names_come_first():
    assert places(choose_columns(table(["px", "py", "pz", "z", "y", "x", "easting", "northing"]))) == [5, 4, 3]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["lon", "lat", "h"], "longitude and latitude are degrees"),
        (["Longitude [deg]", "Latitude [deg]"], "longitude and latitude are degrees"),
        (["x [deg]", "y [deg]", "z [m]"], "are angles"),
        (["x [m]", "y [m]", "z [mm]"], r"several units, x \[m\], y \[m\], z \[mm\]"),
        (["x", "y", "height"], 'no z, and a height: say columns="x,y,height" or columns="x,y"'),
        (["a", "b", "c"], 'no column is named as a coordinate: say which are, as columns="x,y,z"; there are a, b, c'),
        (["index", "intensity"], "no column is named"),
        (["x", "z"], "no column is named"),
        (["x", "y", "z", "X"], "two columns are named x"),
        (["x", "y", "z", "x (2)"], "two columns are named x"),
        (["px", "py", "pz", "coordx", "coordy", "coordz"], "several kinds of coordinates"),
    ],
)
def test_refused_names(names, found):
    with pytest.raises(ValueError, match=found):
        choose_columns(table(names))


@pytest.mark.parametrize("count", [2, 3])
def test_without_names(count):
    assert places(choose_columns(unnamed(count))) == list(range(count))


@pytest.mark.parametrize("count", [4, 6, 7, 30])
def test_more_without_names(count):
    with pytest.raises(
        ValueError, match=f'{count} columns without names, .* as columns="1,2,3"; they hold 1: 0 to 2, 2: 10'
    ):
        choose_columns(unnamed(count))


def test_xyz_without_names():
    assert places(choose_columns(unnamed(3), "xyz")) == [0, 1, 2]
    assert places(choose_columns(unnamed(3), "x,y,z")) == [0, 1, 2]
    with pytest.raises(ValueError, match="2 columns of numbers, and coordinates need three"):
        choose_columns(unnamed(2), "xyz")
    with pytest.raises(ValueError, match="no column 'x': columns have no names here, say places, as columns=\"1,2,3\""):
        choose_columns(unnamed(4), "x,y,z")


def test_words_without_names():
    words = np.array(["a", "b", "c"])
    numbers = {str(place): np.arange(3.0) + 10 * place for place in (2, 3, 4)}
    assert places(choose_columns(PointTable({"1": words, **numbers}, False))) == [2, 3, 4]
    apart = {"1": numbers["2"], "2": words, "3": numbers["3"], "4": numbers["4"]}
    with pytest.raises(ValueError, match=r'columns="1,3,4"; they hold 1: 20 to 22, 2: words as .a.'):
        choose_columns(PointTable(apart, False))
    with pytest.raises(ValueError, match="column '1' holds words, no real numbers for a coordinate"):
        choose_columns(PointTable({"1": words, **numbers}, False), "1,2,3")


NAMES = ["time", "X", "Y", "Z", "scalar_Intensity", "red", "green", "Blue", "normal_x", "ny", "Nz", "Roughness (0.1)"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("x,y,z", [1, 2, 3]),
        ("z, x", [3, 1]),
        ("X,Y,Z,scalar_Intensity", [1, 2, 3, 4]),
        ("2,3,4", [1, 2, 3]),
        ("2,y,4", [1, 2, 3]),
        (["X", "Y"], [1, 2]),
        ([2, 3, 4], [1, 2, 3]),
        ((np.int64(2), "Y"), [1, 2]),
        (["2", 3], [1, 2]),
        ("x,y,z,intensity,r,g,b", list(range(1, 8))),
        ("time,Roughness (0.1)", [0, 11]),
    ],
)
def test_columns_by_name_and_place(columns, expected):
    chosen = choose_columns(table(NAMES), columns)
    assert places(chosen) == expected
    assert chosen.names == tuple(NAMES[place] for place in expected)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("intensity", [4]),
        ("I", [4]),
        ("reflectance", [4]),
        ("scalar_Intensity", [4]),
        ("r,g,b", [5, 6, 7]),
        ("R,G,B", [5, 6, 7]),
        ("diffuse_red,diffuse_green,blue", [5, 6, 7]),
        ("nx,ny,nz", [8, 9, 10]),
        ("normal_x,normal_y,NormalZ", [8, 9, 10]),
        ("t", [0]),
        ("5,time", [4, 0]),
        (["Roughness (0.1)", 1], [11, 0]),
        ("roughness", [11]),
        ("z", [3]),
    ],
)
def test_features(features, expected):
    chosen = choose_columns(table(NAMES), None, features)
    assert places(chosen) == [1, 2, 3]
    assert chosen.feature_names == tuple(NAMES[place] for place in expected)
    assert chosen.features.tolist() == [[10 * place + row for place in expected] for row in range(3)]


@pytest.mark.parametrize(
    ("columns", "features", "found"),
    [
        ("x,y,w", None, "no column 'w'"),
        ("x,y,greeen", None, "no column 'greeen', did you mean 'green'\\? there are time, X, Y"),
        (None, "intensitty", "did you mean 'scalar_Intensity'"),
        (None, "confidence", "no column 'confidence': there are time, X"),
        ("x", None, "columns= names 1 column; points need two or more"),
        ("x,,z", None, "columns= has an empty name"),
        ("", None, "columns= has an empty name"),
        ([], None, "columns= names no column"),
        (None, [], "features= names no column"),
        ("x,y,X", None, "names the column 'X' twice"),
        ("2,x", None, "names the column 'X' twice"),
        (None, "r,red", "names the column 'red' twice"),
        ([0, 1], None, "columns= names column 0; places count from 1 to 12"),
        ("0,1,2", None, "columns= names column 0"),
        ([-1, 1], None, "columns= names column -1"),
        ("11,12,13", None, "columns= names column 13"),
        ([True, 1], None, "takes names and places of columns, not True"),
        ([1.5, 1], None, "takes names and places of columns, not 1.5"),
        ("9" * 5000, None, "no column"),
    ],
)
def test_refused_choices(columns, features, found):
    with pytest.raises(ValueError, match=found):
        choose_columns(table(NAMES), columns, features)


def test_names_that_occur_twice():
    twice = table(unique_names(["x", "y", "z", "i", "i", "Red", "red"]))
    assert places(choose_columns(twice)) == [0, 1, 2]
    with pytest.raises(ValueError, match="two columns are named 'i': name it by its place"):
        choose_columns(twice, features="i")
    with pytest.raises(ValueError, match=r"'intensity' may be 'i' or 'i \(2\)'"):
        choose_columns(twice, features="intensity")
    assert choose_columns(twice, features="5").features[0].tolist() == [40]
    assert choose_columns(twice, features="red").feature_names == ("red",)
    with pytest.raises(ValueError, match="'RED' may be 'Red' or 'red'"):
        choose_columns(twice, features="RED")


def test_a_number_as_a_name():
    odd = table(["2", "x", "y"])
    with pytest.raises(ValueError, match="the name of one column and the place of another"):
        choose_columns(odd, "x,y", "2")
    assert places(choose_columns(odd, "x,3")) == [1, 2]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["f4", "f4"], np.float32),
        ([">f4", "f2"], np.float32),
        (["f4", "f8"], np.float64),
        (["i4", "i4"], np.float64),
        (["f4", "u1"], np.float64),
        (["g", "f4"], np.float64),
        (["u8", "i8"], np.float64),
    ],
)
def test_types(types, expected):
    columns = {name: np.array([1, 2], kind) for name, kind in zip("xy", types, strict=True)}
    chosen = choose_columns(PointTable(columns), features="y")
    assert chosen.points.dtype == expected
    assert chosen.points.dtype.isnative
    assert chosen.points.tolist() == [[1, 1], [2, 2]]
    assert chosen.features.dtype == (np.float32 if types[1] in ("f4", "f2") else np.float64)


@pytest.mark.parametrize("kind", ["i8", "u8"])
def test_whole_numbers_that_floats_keep(kind):
    for value, kept in {2**53: True, 2**53 + 2: True, 2**53 + 1: False, 2**63 - 1: False, 2**62: True}.items():
        columns = {"x": np.array([1, value], kind), "y": np.zeros(2)}
        if kept:
            assert int(choose_columns(PointTable(columns)).points[1, 0]) == value
        else:
            with pytest.raises(
                ValueError, match=r"column 'x' holds whole numbers beyond 2\^53, which no float64 keeps"
            ):
                choose_columns(PointTable(columns))
    # Nobody asked for that column.
    columns = {"x": np.zeros(2), "y": np.zeros(2), "id": np.array([1, 2**53 + 1], kind)}
    assert choose_columns(PointTable(columns)).points.shape == (2, 2)


@pytest.mark.parametrize("values", [np.array(["a", "b"]), np.zeros(2, complex), np.zeros(2, "M8[s]")])
def test_values_that_are_no_numbers(values):
    columns = {"x": values, "y": np.zeros(2)}
    with pytest.raises(ValueError, match=r"column 'x' holds .*, no real numbers for a coordinate"):
        choose_columns(PointTable(columns))
    with pytest.raises(ValueError, match="no real numbers for a feature"):
        choose_columns(PointTable({**columns, "z": np.zeros(2)}), ["y", 3], [1])


def test_flags_are_features_only():
    columns = {"x": np.zeros(2), "y": np.zeros(2), "seen": np.array([True, False])}
    assert choose_columns(PointTable(columns), features="seen").features.tolist() == [[1], [0]]
    with pytest.raises(ValueError, match="column 'seen' holds bool"):
        choose_columns(PointTable(columns), "x,seen")


def test_nan_stays():
    columns = {"x": np.array([np.nan, 1]), "y": np.array([np.inf, 2])}
    np.testing.assert_array_equal(choose_columns(PointTable(columns)).points, [[np.nan, np.inf], [1, 2]])

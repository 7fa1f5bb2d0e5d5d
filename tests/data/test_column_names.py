"""Names of columns as programs write them: their bare forms, units and meanings."""

from __future__ import annotations

import pytest

from pyro_pcflow.data.column_names import AXES, bare_name, is_known, is_numbered, meaning, unique_names, unit_of


@pytest.mark.parametrize(
    ("name", "bare", "unit"),
    [
        ("X", "x", None),
        ("//X [m]", "x", "m"),
        ('"Y(MM)"', "y", "mm"),
        ("z_km", "z", "km"),
        ("z_max", "zmax", None),
        ("scalar_GPS Time", "gpstime", None),
        ("Points:0", "points:0", None),
        ("Roughness (0.1)", "roughness", "0.1"),
        ("x []", "x", None),
    ],
)
def test_bare_names_and_units(name, bare, unit):
    assert (bare_name(name), unit_of(name)) == (bare, unit)


def test_the_names_of_axes_are_bare_and_known():
    for axes in AXES:
        assert len(set(axes)) == 3
        assert all(name == bare_name(name) and is_known(name) for name in axes)
    assert not is_known("made")


@pytest.mark.parametrize("height", ["z", "elevation", "height"])
def test_eastings_come_before_northings(height):
    assert ("easting", "northing", height) in AXES
    assert ("northing", "easting", height) not in AXES


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        (["0", "1"], True),
        (["1", "2", "3"], True),
        (["Column 0", "Column 1"], True),
        (["V1", "V2"], True),
        (["f_0", "f_1"], True),
        (["0", "2"], False),
        (["2", "3"], False),
        (["V1", "W2"], False),
        (["scan1", "scan2"], False),
        (["x", "y"], False),
        ([], False),
    ],
)
def test_numbered_names(names, numbered):
    assert is_numbered(names) is numbered


def test_unique_names():
    assert unique_names(["x", "x", "x (2)", "x", ""]) == ["x", "x (3)", "x (2)", "x (4)", "column 5"]
    many = unique_names(["x"] * 20_000 + [f"x ({k})" for k in range(2, 5000)])
    assert len(set(many)) == len(many)


@pytest.mark.parametrize("name", ["GPS Time", "gps_time", "gpsTime", "t"])
def test_meanings(name):
    assert meaning(name) == "time"

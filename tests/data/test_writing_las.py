"""What the writer of LAS and LAZ makes of columns, and what it refuses."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from pyro_pcflow.data.readers.las import read_las
from pyro_pcflow.data.readers.las_guard import check_las
from pyro_pcflow.data.writing_las import write_las

pytest.importorskip("laspy", reason="laspy is not installed")
pytest.importorskip("lazrs", reason="lazrs is not installed")


def columns_of(number=50):
    rng = np.random.default_rng(number)
    return {name: rng.normal(size=number) * 100 for name in "xyz"}


@pytest.mark.parametrize("name", ["a.las", "a.laz", "a.LAZ"])
def test_written_columns_come_back(tmp_path, name):
    rng = np.random.default_rng(0)
    columns = columns_of() | {
        "intensity": rng.integers(0, 65536, 50),
        "classification": rng.integers(0, 256, 50).astype(np.uint8),
        "return_number": rng.integers(1, 16, 50).astype(np.float64),
        "number_of_returns": rng.integers(1, 16, 50),
        "gps_time": rng.normal(size=50),
        "red": rng.integers(0, 256, 50).astype(np.uint8),
        "green": rng.integers(0, 65536, 50).astype(np.uint16),
        "blue": rng.integers(0, 256, 50).astype(np.uint8),
        "withheld": rng.random(50) < 0.5,
        "single": rng.normal(size=50).astype(np.float32),
        "double": rng.normal(size=50),
        "half": rng.normal(size=50).astype(np.float16),
        "long": rng.integers(-(2**62), 2**62, 50),
        "unsigned": rng.integers(0, 2**63, 50).astype(np.uint64) * np.uint64(2),
        "flag": rng.random(50) < 0.5,
        "flag_byte": np.arange(50, dtype=np.int8),
    }
    write_las(tmp_path / name, columns)
    path = tmp_path / name
    assert check_las(path).compressed == (name != "a.las")
    back = read_las(path)[0].columns
    for axis in "xyz":
        assert np.abs(back[axis] - columns[axis]).max() <= 0.51e-6
    for key in list(columns)[3:]:
        assert back[key].tolist() == columns[key].tolist(), key
    assert back["single"].dtype == np.float32
    assert back["long"].dtype == np.int64
    assert back["scan_angle"].tolist() == [0] * 50


@pytest.mark.parametrize(
    ("extent", "scale"),
    [(1.0, 1e-9), (4.0, 1e-9), (10.0, 1e-8), (100.0, 1e-7), (1000.0, 1e-6), (1e4, 1e-5), (4e5, 1e-4)],
)
@pytest.mark.parametrize("middle", [0.0, 5e6])
def test_the_scale_follows_the_extent(tmp_path, extent, scale, middle):
    line = np.linspace(middle - extent / 2, middle + extent / 2, 11)
    path = tmp_path / "a.las"
    write_las(path, {"x": line, "y": np.zeros(11, np.int64), "z": line.astype(np.float32)})
    assert struct.unpack_from("<d", path.read_bytes(), 131)[0] == pytest.approx(scale)
    back = read_las(path)[0].columns
    # The last bits of large coordinates are float64's own.
    assert np.abs(back["x"] - line).max() <= 0.51 * scale + 2e-9 * (middle > 0)
    assert back["y"].tolist() == [0] * 11


def test_one_point_and_a_given_scale(tmp_path):
    path = tmp_path / "a.las"
    write_las(path, {name: np.array([value]) for name, value in zip("xyz", (1.26, -7.0, 3.5), strict=True)}, scale=0.1)
    back = read_las(path)[0].columns
    assert [back[name][0] for name in "xyz"] == pytest.approx([1.3, -7, 3.5])


def test_a_stream(tmp_path):
    for compress in (False, True):
        stream = io.BytesIO()
        write_las(stream, columns_of(), compress=compress)
        path = tmp_path / "a.laz"
        path.write_bytes(stream.getvalue())
        assert check_las(path).compressed == compress
        assert len(read_las(path)[0]) == 50


@pytest.mark.parametrize(
    ("name", "values", "stored"),
    [
        ("intensity", np.full(50, 0.5), "intensity_value"),
        ("intensity", np.full(50, -1), "intensity_value"),
        ("red", np.full(50, 70000), "red_value"),
        ("return_number", np.full(50, 16), "return_number_value"),
        ("classification", np.full(50, np.nan), "classification_value"),
        ("gps_time", np.full(50, 2**53 + 1), "gps_time_value"),
        ("X", np.arange(50), "X_value"),
    ],
)
def test_values_that_a_dimension_cannot_hold_become_extra_ones(tmp_path, name, values, stored):
    write_las(tmp_path / "a.las", columns_of() | {name: values})
    back = read_las(tmp_path / "a.las")[0].columns
    np.testing.assert_array_equal(back[stored], values)
    assert back[stored].dtype == values.dtype


@pytest.mark.parametrize(
    ("columns", "scale", "message"),
    [
        ({"x": np.zeros(2), "z": np.zeros(2)}, None, "y is missing"),
        ({name: np.zeros(0) for name in "xyz"}, None, "no points"),
        (columns_of() | {"x": np.full(50, np.nan)}, None, "NaN or infinite"),
        (columns_of() | {"z": np.full(50, np.inf)}, None, "NaN or infinite"),
        (columns_of() | {"a": np.zeros(49)}, None, r"shape \(49,\)"),
        (columns_of() | {"a": np.zeros((50, 2))}, None, r"shape \(50, 2\)"),
        (columns_of() | {"a": np.array(["word"] * 50)}, None, "numbers only"),
        (columns_of() | {"a": np.zeros(50, complex)}, None, "numbers only"),
        (columns_of() | {"a" * 33: np.zeros(50)}, None, "1 to 32 bytes"),
        (columns_of() | {"ä" * 17: np.zeros(50)}, None, "1 to 32 bytes"),
        (columns_of() | {"": np.zeros(50)}, None, "1 to 32 bytes"),
        (columns_of() | {"intensity": np.full(50, 0.5), "intensity_value": np.zeros(50)}, None, "two columns"),
        (columns_of() | {f"a{index}": np.zeros(50) for index in range(301)}, None, "301 extra columns"),
        (columns_of() | {"x": np.linspace(0, 1e6, 50)}, None, "too far for LAS"),
        (columns_of(), 1e-9, "too far for LAS"),
        (columns_of(), 0.0, "scale must be positive"),
    ],
)
def test_columns_that_las_cannot_hold(tmp_path, columns, scale, message):
    with pytest.raises(ValueError, match=message):
        write_las(tmp_path / "a.las", columns, scale)
    assert not list(tmp_path.iterdir())

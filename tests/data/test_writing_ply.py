"""Binary PLY files of points, byte by byte."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import table_of
from pyro_pcflow.data import writing_ply
from pyro_pcflow.data.readers.ply import read_ply
from pyro_pcflow.data.writing_ply import write_ply


def written(columns):
    stream = io.BytesIO()
    write_ply(stream, columns)
    return stream.getvalue()


COLUMNS = {
    "x": np.array([1.5, -2], np.float32),
    "y": np.array([701362.0856491672, 1e300]),
    "z": np.array([7, -7], np.int32),
    "red": np.array([0, 255], np.uint8),
    "scalar_Class": np.array([-128, 127], np.int8),
    "a": np.array([-(2**15), 2**15 - 1], np.int16),
    "b": np.array([0, 2**16 - 1], np.uint16),
    "c": np.array([0, 2**32 - 1], np.uint32),
}


def test_bytes():
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nproperty double y\nproperty int z\n"
        "property uchar red\nproperty char scalar_Class\nproperty short a\nproperty ushort b\n"
        "property uint c\nend_header\n"
    )
    rows = zip(*(column.tolist() for column in COLUMNS.values()), strict=True)
    assert written(COLUMNS) == head.encode() + b"".join(struct.pack("<fdiBbhHI", *row) for row in rows)


def test_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(writing_ply, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=100) * 50 for name in "xyz"}
    columns |= {"big": np.arange(100, dtype=">i4"), "every second": np.arange(200.0)[::2]}
    columns["every_second"] = columns.pop("every second")
    found = table_of(read_ply(put(tmp_path, "a.ply", written(columns))))
    assert [*found] == [*columns]
    for name, column in columns.items():
        assert found[name].tolist() == column.tolist()
        assert found[name].dtype == column.dtype.newbyteorder("=")


def test_no_points():
    assert b"element vertex 0\n" in written({"x": np.zeros(0)})


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.array([True, False]), "uchar"),
        (np.array([1.5, np.nan], np.float16), "float"),
        (np.array([-(2**31), 2**31 - 1]), "int"),
        (np.array([0, 2**31]), "double"),
        (np.array([0, 2**32 - 1], np.uint64), "uint"),
        (np.array([0, 2**53], np.uint64), "double"),
    ],
)
def test_values_that_another_type_holds(tmp_path, column, kind):
    data = written({"x": column, "y": column, "z": column})
    assert f"property {kind} x\n".encode() in data
    found = table_of(read_ply(put(tmp_path, "a.ply", data)))["x"]
    assert np.array_equal(found.astype(float), column.astype(float), equal_nan=True)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({}, "columns of one length"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "columns of one length"),
        ({"x": np.zeros((2, 2))}, "columns of one length"),
        ({"x": np.array(["a", "b"])}, "the column 'x' of <U1, whose values no type of PLY holds"),
        ({"x": np.array([None, 1])}, "of object"),
        ({"x": np.array([2**53 + 1])}, "the column 'x' of int64, whose values no type of PLY holds"),
        ({"x": np.array([2**64 - 1], np.uint64)}, "of uint64"),
        ({"x": np.zeros(2, complex)}, "of complex128"),
        ({"a b": np.zeros(2)}, "'a b' is no name of a property"),
        ({"": np.zeros(2)}, "'' is no name"),
        ({"x\nelement": np.zeros(2)}, "is no name"),
        ({"é": np.zeros(2)}, "'é' is no name"),
    ],
)
def test_what_cannot_be_written(columns, found):
    stream = io.BytesIO()
    with pytest.raises(ValueError, match=found):
        write_ply(stream, columns)
    assert stream.getvalue() == b""

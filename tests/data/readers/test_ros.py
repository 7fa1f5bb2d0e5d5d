"""Messages of ROS, made by hand."""

from __future__ import annotations

import array
import random
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from pyro_pcflow.data.readers.ros import from_pointcloud2

POINTS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5], [-1.0, 0.5, 7.0], [0.0, 0.25, 8.0]]


def fields(*parts):
    return [SimpleNamespace(name=n, offset=o, datatype=d, count=c) for n, o, d, c in parts]


XYZ = fields(("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1))


def message(points=POINTS, height=1, step=16, padding=0, order="<", **changes):
    width = len(points) // height
    rows = []
    for row in range(height):
        cells = [
            struct.pack(order + "3f", *point).ljust(step, b"\xaa") for point in points[row * width : (row + 1) * width]
        ]
        rows.append(b"".join(cells) + b"\xbb" * padding)
    made = {
        "fields": XYZ,
        "height": height,
        "width": width,
        "point_step": step,
        "row_step": width * step + padding,
        "data": b"".join(rows),
        "is_bigendian": order == ">",
        "is_dense": True,
        **changes,
    }
    return SimpleNamespace(**made)


def xyz(table):
    return np.stack([table.columns[axis] for axis in "xyz"], axis=1).tolist()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("height", "padding"), [(1, 0), (1, 8), (2, 0), (2, 4), (4, 12)])
@pytest.mark.parametrize("step", [12, 16, 33])
def test_layouts(order, height, padding, step):
    table = from_pointcloud2(message(height=height, padding=padding, step=step, order=order))
    assert xyz(table) == POINTS
    assert table.named
    assert all(values.dtype == np.dtype("=f4") and values.flags.owndata for values in table.columns.values())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, list, tuple, lambda d: array.array("B", d)])
def test_kinds_of_data(kind):
    good = message()
    assert xyz(from_pointcloud2(message(data=kind(good.data)))) == POINTS
    assert xyz(from_pointcloud2(message(data=np.frombuffer(good.data, np.uint8)))) == POINTS


@pytest.mark.parametrize(
    ("datatype", "code", "value"),
    [
        (1, "b", -5),
        (2, "B", 200),
        (3, "h", -300),
        (4, "H", 60000),
        (5, "i", -70000),
        (6, "I", 2**32 - 1),
        (7, "f", 0.5),
        (8, "d", 701362.0851),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_types(datatype, code, value, order):
    data = struct.pack(f"{order}3{code}", value, 1, 2)
    size = struct.calcsize(code)
    one = fields(("x", 0, datatype, 1), ("y", size, datatype, 1), ("z", 2 * size, datatype, 1))
    sizes = {"width": 1, "point_step": 3 * size, "row_step": 3 * size}
    table = from_pointcloud2(message(fields=one, data=data, is_bigendian=order == ">", **sizes))
    assert [values.tolist() for values in table.columns.values()] == [[value], [1], [2]]
    assert table.columns["x"].dtype == np.dtype(code)


def test_fields_of_several_values_and_padding():
    parts = fields(("x", 0, 7, 1), ("", 4, 7, 1), ("more", 4, 7, 2))
    table = from_pointcloud2(message(fields=parts))
    assert list(table.columns) == ["x", "more:0", "more:1"]
    assert table.columns["more:1"].tolist() == [point[2] for point in POINTS]


@pytest.mark.parametrize("datatype", [5, 6, 7])
def test_packed_colours(datatype):
    data = struct.pack("<3f", 1, 2, 3) + bytes([30, 20, 10, 255])  # b, g, r, a
    parts = [*XYZ, *fields(("rgb", 12, datatype, 1))]
    table = from_pointcloud2(message(fields=parts, data=data, width=1, row_step=16))
    assert [table.columns[name].tolist() for name in "rgb"] == [[10], [20], [30]]
    parts = [*XYZ, *fields(("rgba", 12, datatype, 1))]
    table = from_pointcloud2(message(fields=parts, data=data, width=1, row_step=16))
    assert [table.columns[name].tolist() for name in "rgba"] == [[10], [20], [30], [255]]


def test_nan_points_stay():
    table = from_pointcloud2(message([[np.nan] * 3, [1.0, 2.0, 3.0]], is_dense=False))
    assert np.isnan(table.columns["x"]).tolist() == [True, False]


def test_the_message_may_change_later():
    data = bytearray(message().data)
    table = from_pointcloud2(message(data=data))
    data[:] = bytes(len(data))
    assert xyz(table) == POINTS


def test_last_row_without_padding():
    good = message(height=2, padding=8)
    assert xyz(from_pointcloud2(message(height=2, padding=8, data=good.data[:-8]))) == POINTS


def test_row_step_of_drivers():
    assert xyz(from_pointcloud2(message(row_step=0))) == POINTS


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"width": 0}, "no points"),
        ({"height": 0}, "no points"),
        ({"point_step": 0}, "point_step is 0"),
        ({"width": -1}, "width is -1, no size"),
        ({"width": "4"}, "width is '4', no size"),
        ({"width": 2**50}, "width is"),
        ({"width": True}, "width is True, no size"),
        ({"width": 10**9}, "promise 16000000000 bytes of data, there are 64"),
        ({"height": 2, "width": 2, "row_step": 31}, "row_step is 31, and 2 points of 16 bytes need 32"),
        ({"data": b""}, "there are 0"),
        ({"data": message().data + b"x"}, "promise 64 bytes of data, there are 65"),
        ({"data": message().data[:-1]}, "promise 64 bytes of data, there are 63"),
        ({"data": "text"}, "data is a str, no bytes"),
        ({"data": [1, 2, 999]}, "data is a list, no bytes"),
        ({"fields": []}, "without fields"),
        ({"fields": fields(("x", 13, 7, 1))}, "field 'x' ends at byte 17 of points of 16 bytes"),
        ({"fields": fields(("x", 0, 7, 5))}, "ends at byte 20"),
        ({"fields": fields(("x", -4, 7, 1))}, "offset is -4, no size"),
        ({"fields": fields(("x", 0, 9, 1))}, "datatype 9; known are 1 to 8"),
        ({"fields": fields(("x", 0, 0, 1))}, "datatype 0"),
        ({"fields": [SimpleNamespace(name="x")]}, "without `datatype`"),
    ],
)
def test_refused(changes, found):
    made = message()
    made.__dict__.update(changes)
    with pytest.raises(ValueError, match=found):
        from_pointcloud2(made)


def test_another_object():
    with pytest.raises(ValueError, match="a int without `height`, no message of PointCloud2"):
        from_pointcloud2(3)


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 10_000), marks=pytest.mark.exhaustive)])
def test_random_sizes(seeds):
    read = 0
    for seed in seeds:
        generator = random.Random(seed)
        changes = {name: generator.choice([0, 1, 2, 3, 12, 16, 32, 64, 2**31]) for name in ("height", "width")}
        parts = fields(*((n, generator.randrange(20), generator.randrange(10), generator.randrange(4)) for n in "xyz"))
        made = message(fields=parts, row_step=generator.choice([0, 16, 32, 64, 2**31]))
        made.__dict__.update(generator.choice([{}, changes]))
        try:
            table = from_pointcloud2(made)
        except ValueError:
            continue
        read += 1
        assert {values.shape for values in table.columns.values()} == {(made.height * made.width,)}
    assert read

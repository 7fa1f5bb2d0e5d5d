"""LAS files written by hand, and LAZ through its library."""

import struct
from contextlib import suppress

import numpy as np
import pytest

from helpers.scan_files import (
    LAS_OFFSETS,
    LAS_SCALES,
    LAS_SIZES,
    change,
    damaged,
    extra_bytes,
    las,
    las_record,
    las_vlr,
    laz,
)
from pyro_pcflow.data.readers.las import read_las
from pyro_pcflow.data.readers.las_guard import check_las

pytest.importorskip("laspy", reason="laspy is not installed")
pytest.importorskip("lazrs", reason="lazrs is not installed")

FORMATS = [
    (minor, kind) for kind in range(11) for minor in range(5) if minor >= (0, 0, 2, 2, 3, 3, 4, 4, 4, 4, 4)[kind]
]


def values_of(seed, number, point_format):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        old = point_format < 6
        rows.append(
            {
                "XYZ": rng.integers(-(2**31), 2**31, 3).tolist(),
                "intensity": int(rng.integers(65536)),
                "returns": int(rng.integers(8 if old else 16)),
                "number": int(rng.integers(8 if old else 16)),
                "direction": int(rng.integers(2)),
                "edge": int(rng.integers(2)),
                "class": int(rng.integers(32 if old else 256)),
                "flags": int(rng.integers(8 if old else 16)),
                "channel": int(rng.integers(4)),
                "user": int(rng.integers(256)),
                "angle": int(rng.integers(-90, 91)),
                "source": int(rng.integers(65536)),
                "time": float(rng.normal() * 1e6),
                **{name: int(rng.integers(65536)) for name in ("red", "green", "blue", "nir")},
            }
        )
    return rows


def expected_columns(rows, point_format):
    columns = {}
    for axis, name in enumerate("xyz"):
        columns[name] = [row["XYZ"][axis] * LAS_SCALES[axis] + LAS_OFFSETS[axis] for row in rows]
    names = {"intensity": "intensity", "return_number": "returns", "number_of_returns": "number"}
    names |= {"scan_direction_flag": "direction", "edge_of_flight_line": "edge", "classification": "class"}
    names |= {"user_data": "user", "point_source_id": "source"}
    if point_format < 6:
        names["scan_angle_rank"] = "angle"
    else:
        names |= {"scan_angle": "angle", "scanner_channel": "channel"}
    if point_format not in (0, 2):
        names["gps_time"] = "time"
    if point_format in (2, 3, 5, 7, 8, 10):
        names |= {name: name for name in ("red", "green", "blue")}
    if point_format in (8, 10):
        names["nir"] = "nir"
    columns |= {name: [row[key] for row in rows] for name, key in names.items()}
    flags = ["synthetic", "key_point", "withheld", "overlap"][: 3 if point_format < 6 else 4]
    return columns | {name: [row["flags"] >> bit & 1 for row in rows] for bit, name in enumerate(flags)}


def build(number=5, minor=2, point_format=0, seed=0, extra=(), **options):
    rows = values_of(seed, number, point_format)
    extra = extra or [b""] * number
    records = [las_record(point_format, row, more) for row, more in zip(rows, extra, strict=True)]
    return rows, las(records, minor, point_format, scales=LAS_SCALES, offsets=LAS_OFFSETS, **options)


def load(tmp_path, data, name="a.las"):
    path = tmp_path / name
    path.write_bytes(data)
    [table] = read_las(path)
    return table.columns


def refuse(tmp_path, data, message, name="a.las"):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_las(path)


@pytest.mark.parametrize(("minor", "point_format"), FORMATS)
@pytest.mark.parametrize("number", [1, 23])
def test_every_version_and_format(tmp_path, minor, point_format, number):
    rows, data = build(number, minor, point_format, vlrs=[las_vlr(b"somebody", 7, b"abc")], gap=b"xy")
    columns = load(tmp_path, data)
    expected = expected_columns(rows, point_format)
    assert set(columns) == set(expected)
    assert list(columns)[:4] == ["x", "y", "z", "intensity"]
    for name, values in expected.items():
        assert columns[name].tolist() == values, name
    assert columns["x"].dtype == np.float64
    assert columns["intensity"].dtype == np.uint16


EXTRAS = {
    1: ("B", [0, 200]),
    2: ("b", [-128, 5]),
    3: ("H", [65535, 1]),
    4: ("h", [-30000, 1]),
    5: ("I", [2**32 - 1, 1]),
    6: ("i", [-(2**31), 1]),
    7: ("Q", [2**64 - 1, 1]),
    8: ("q", [-(2**63), 2**53 + 1]),
    9: ("f", [0.1, -5.0]),
    10: ("d", [0.1, -5.0]),
}


@pytest.mark.parametrize("kind", EXTRAS)
@pytest.mark.parametrize("point_format", [1, 6])
def test_extra_dimensions_of_every_type(tmp_path, kind, point_format):
    code, numbers = EXTRAS[kind]
    record = las_vlr(b"LASF_Spec", 4, extra_bytes(b"value", kind) + extra_bytes(b"after", 1))
    packed = [struct.pack(f"<{code}B", number, 9) for number in numbers]
    rows, data = build(2, 4, point_format, extra=packed, vlrs=[record])
    columns = load(tmp_path, data)
    assert list(columns)[-2:] == ["value", "after"]
    assert columns["value"].tolist() == [struct.unpack(f"<{code}", struct.pack(f"<{code}", n))[0] for n in numbers]
    assert columns["value"].dtype == np.dtype(code)
    assert columns["after"].tolist() == [9, 9]
    assert columns["intensity"].tolist() == [row["intensity"] for row in rows]


@pytest.mark.parametrize(
    ("options", "expected"),
    [(8, [0.5, -1.5]), (16, [102.0, 94.0]), (24, [100.5, 98.5]), (0, [2, -6])],
)
def test_scaled_extra_dimensions(tmp_path, options, expected):
    description = extra_bytes(b"height", 4, options=options, scale=(0.25, 0, 0), offset=(100.0, 0, 0))
    packed = [struct.pack("<h", number) for number in (2, -6)]
    columns = load(tmp_path, build(2, 4, 6, extra=packed, vlrs=[las_vlr(b"LASF_Spec", 4, description)])[1])
    assert columns["height"].tolist() == expected


def test_extra_dimensions_of_several_numbers_and_undescribed_bytes(tmp_path):
    descriptions = extra_bytes(b"normal", 29, options=8, scale=(1.0, 2.0, 4.0)) + extra_bytes(b"raw", 0, options=2)
    packed = [struct.pack("<3fBB3x", 1, 2, 3, 4, 5)] * 2
    columns = load(tmp_path, build(2, 4, 6, extra=packed, vlrs=[las_vlr(b"LASF_Spec", 4, descriptions)])[1])
    assert list(columns)[-5:] == ["normal_0", "normal_1", "normal_2", "raw_0", "raw_1"]
    assert [columns[name].tolist()[0] for name in list(columns)[-5:]] == [1, 4, 12, 4, 5]
    assert "raw_0" not in load(tmp_path, build(2, 4, 6, extra=packed)[1])


@pytest.mark.parametrize("name", [b"flag_byte", b"return_num", b"pt_src_id"])
def test_an_extra_dimension_with_an_old_name_of_another(tmp_path, name):
    vlrs = [las_vlr(b"LASF_Spec", 4, extra_bytes(name, 1))]
    columns = load(tmp_path, build(2, 4, 6, extra=[b"\x07", b"\x08"], vlrs=vlrs)[1])
    assert columns[name.decode()].tolist() == [7, 8]


@pytest.mark.parametrize("name", [b"classification", b"x", b"intensity"])
def test_an_extra_dimension_with_the_name_of_another(tmp_path, name):
    vlrs = [las_vlr(b"LASF_Spec", 4, extra_bytes(name, 1))]
    refuse(tmp_path, build(2, 4, 1, extra=[b"\x07", b"\x08"], vlrs=vlrs)[1], "name|more than once|damaged")


def test_names_that_are_no_utf_8(tmp_path):
    refuse(tmp_path, build(1, 4, 6, extra=[b"\0"], vlrs=[las_vlr(b"\xff", 4, b"")])[1], "'utf-8' codec")


def test_points_are_read_in_steps(tmp_path, monkeypatch):
    """Of millions of points each step has a place of its own."""
    monkeypatch.setattr("pyro_pcflow.data.readers.las._STEP", 4)
    rows, data = build(11, 4, 6)
    columns = load(tmp_path, data)
    for name, values in expected_columns(rows, 6).items():
        assert columns[name].tolist() == values, name


# ---- LAZ


@pytest.mark.parametrize("point_format", range(11))
@pytest.mark.parametrize("number", [1, 300])
@pytest.mark.parametrize("extra", [False, True])
def test_laz_is_what_was_packed(tmp_path, point_format, number, extra):
    points, data = laz(number, point_format, extra)
    assert check_las(write(tmp_path, data)).compressed
    columns = load(tmp_path, data, "a.laz")
    for axis, name in enumerate("xyz"):
        assert columns[name].tolist() == (points.array[name.upper()] * LAS_SCALES[axis] + LAS_OFFSETS[axis]).tolist()
    for name in ("intensity", "return_number", "classification", *["quality"] * extra):
        assert columns[name].tolist() == np.asarray(points[name]).tolist()


def write(tmp_path, data, name="a.laz"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("point_format", [1, 6])
def test_laz_of_several_chunks(tmp_path, point_format):
    points, data = laz(120_000, point_format)
    assert load(tmp_path, data)["intensity"].tolist() == points.array["intensity"].tolist()


def start_of(data):
    return struct.unpack_from("<I", data, 96)[0]


def table_of(data):
    return struct.unpack_from("<q", data, start_of(data))[0]


def with_gap(data):
    """A byte between the chunks and their table."""
    table = table_of(data)
    return change(data[:table] + b"\0" + data[table:], start_of(data), "<q", table + 1)


def laszip_of(data):
    return data.index(b"laszip encoded") + 52


@pytest.mark.parametrize("point_format", [1, 7])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: data[:-1], "damaged|cut short|chunk"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: data[: start_of(data) + 4], "cut short"),
        (lambda data: change(data, start_of(data), "<q", 10**15), "lies outside"),
        (lambda data: change(data, start_of(data), "<q", 0), "lies outside"),
        (lambda data: change(data, start_of(data), "<q", -1), "lies outside|table of"),
        (lambda data: change(data, start_of(data), "<q", table_of(data) - 1), "chunk"),
        (with_gap, "compressed chunks of .* before their table"),
        (lambda data: change(data, table_of(data) + 4, "<I", 2**32 - 1), "table of 4294967295 compressed chunks"),
        (lambda data: change(data, table_of(data) + 4, "<I", 0), "table of 0 compressed chunks"),
        (lambda data: change(data, table_of(data), "<I", 1), "table of 1 compressed chunks"),
        (lambda data: change(data, 247, "<Q", 10**6), "disagree|1000000"),
        (lambda data: change(data, 247, "<Q", 10**12), "would be unpacked|1000000000000"),
        (lambda data: change(data, laszip_of(data), "<H", 1), "compressed in a way"),
        (lambda data: change(data, laszip_of(data) + 12, "<I", 1), "chunks of up to 1|damaged|point"),
        (lambda data: change(data, laszip_of(data) + 12, "<I", 0), "chunks of up to 0|damaged|point"),
        (lambda data: change(data, laszip_of(data) + 32, "<H", 60000), "cut short"),
        (lambda data: change(data, laszip_of(data) + 34, "<H", 3), "disagrees with its point format"),
        (lambda data: change(data, laszip_of(data) + 36, "<H", 65535), "disagrees with its point format"),
        (lambda data: change(data, 104, "<B", 128), "points of|disagrees|compressed in a way"),
    ],
)
def test_damaged_laz_is_refused(tmp_path, point_format, make, message):
    refuse(tmp_path, make(laz(300, point_format)[1]), message)


def test_unpacked_points_far_from_the_box_are_damage(tmp_path):
    _, data = laz(300, 1)
    far = change(data, 179, "<6d", *[value / 1000 for value in struct.unpack_from("<6d", data, 179)])
    refuse(tmp_path, far, "far outside of the box")
    assert len(load(tmp_path, change(data, 179, "<6d", *[0.0] * 6))["x"]) == 300


@pytest.mark.parametrize("point_format", [3, 7])
def test_damaged_chunks_end_no_process_and_say_nothing(tmp_path, capfd, point_format):
    """The parser is no Python: it would print past Python, or end the whole run."""
    fuzz_chunks(tmp_path, capfd, point_format, range(60))


@pytest.mark.exhaustive
@pytest.mark.parametrize("point_format", range(11))
def test_many_damaged_chunks(tmp_path, capfd, point_format):
    fuzz_chunks(tmp_path, capfd, point_format, range(60, 560))


def fuzz_chunks(tmp_path, capfd, point_format, seeds):
    _, data = laz(300, point_format)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        body = bytearray(data)
        for _ in range(int(rng.integers(1, 5))):
            body[int(rng.integers(start_of(data), len(body)))] = int(rng.integers(256))
        path = write(tmp_path, body)
        with suppress(ValueError):
            assert len(read_las(path)[0]) == 300
    assert capfd.readouterr() == ("", "")


# ---- damage


def fuzz(tmp_path, seeds):
    good = [build(20, minor, kind)[1] for minor, kind in ((2, 1), (4, 7))]
    good += [laz(60, kind)[1] for kind in (0, 3, 5, 6, 8, 10)]
    names = las_vlr(b"LASF_Spec", 4, extra_bytes(b"a", 4, options=24, scale=(1.0, 0, 0)) + extra_bytes(b"b", 22))
    good.append(build(20, 4, 3, extra=[bytes(8)] * 20, vlrs=[names, las_vlr(b"b", 1, b"abc")])[1])
    read = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        path = write(tmp_path, damaged(good[seed % len(good)], rng))
        try:
            [table] = read_las(path)
        except ValueError:
            continue
        read += 1
        assert len({len(values) for values in table.columns.values()}) == 1
    assert read


def test_damaged_files(tmp_path):
    fuzz(tmp_path, range(225))


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path):
    fuzz(tmp_path, range(1000, 6000))


def test_sizes_of_records():
    assert [len(las_record(kind, {"XYZ": (0, 0, 0)})) for kind in range(11)] == list(LAS_SIZES)

"""PCD files written by hand: every type and encoding, and what a header may get wrong."""

import struct
import time

import numpy as np
import pytest

from helpers.scan_files import XYZ, damaged, lzf, pcd
from pyro_pcflow.data.readers.pcd import read_pcd

ENCODINGS = ["ascii", "binary", "binary_compressed", "stored"]
KINDS = {
    f"{letter}{size}": (letter, size)
    for letter, sizes in (("F", (4, 8)), ("I", (1, 2, 4, 8)), ("U", (1, 2, 4, 8)))
    for size in sizes
}


def load(tmp_path, data):
    path = tmp_path / "a.pcd"
    path.write_bytes(data)
    [table] = read_pcd(path)
    assert table.named
    return table.columns


def refuse(tmp_path, data, message):
    path = tmp_path / "a.pcd"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_pcd(path)


def cloud(seed, number=20):
    return list(np.random.default_rng(seed).normal(size=(3, number)).astype(np.float32))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("number", [1, 2, 77])
def test_coordinates(tmp_path, encoding, number):
    points = cloud(0, number)
    columns = load(tmp_path, pcd(XYZ, points, encoding))
    assert list(columns) == ["x", "y", "z"]
    for name, values in zip("xyz", points, strict=True):
        assert columns[name].dtype == np.float32
        assert columns[name].tolist() == values.tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_keeps_its_values(tmp_path, encoding, kind):
    letter, size = KINDS[kind]
    dtype = np.dtype(f"{letter.lower()}{size}")
    limits = np.finfo(dtype) if letter == "F" else np.iinfo(dtype)
    values = np.array([limits.min, limits.max, 0, 1, 7], dtype=dtype)
    columns = load(tmp_path, pcd([*XYZ, ("value", letter, size, 1)], [*cloud(0, 5), values], encoding))
    assert columns["value"].dtype == dtype
    assert columns["value"].tolist() == values.tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fields_of_several_numbers_and_padding(tmp_path, encoding):
    rng = np.random.default_rng(1)
    fields = [XYZ[0], ("_", "U", 1, 4), XYZ[1], ("fpfh", "F", 4, 3), ("_", "F", 4, 1), XYZ[2], ("pair", "I", 2, 2)]
    x, y, z = cloud(1)
    fpfh, pair = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(-9, 9, (20, 2))
    padding = [rng.integers(0, 200, (20, 4)), np.full(20, 3.5)]
    columns = load(tmp_path, pcd(fields, [x, padding[0], y, fpfh, padding[1], z, pair], encoding))
    assert list(columns) == ["x", "y", "fpfh_0", "fpfh_1", "fpfh_2", "z", "pair_0", "pair_1"]
    assert columns["z"].tolist() == z.tolist()
    assert columns["fpfh_2"].tolist() == fpfh[:, 2].tolist()
    assert columns["pair_1"].tolist() == pair[:, 1].tolist()
    assert columns["pair_1"].dtype == np.int16


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("letter", ["U", "I"])
@pytest.mark.parametrize("name", ["rgb", "rgba", "RGB"])
def test_packed_colours(tmp_path, encoding, letter, name):
    packed = np.array([0x00102030, 0xFFFF8001, 0x7F000000], np.uint32)
    values = packed if letter == "U" else packed.view(np.int32)
    columns = load(tmp_path, pcd([*XYZ, (name, letter, 4, 1)], [*cloud(0, 3), values], encoding))
    assert columns["red"].tolist() == [0x10, 0xFF, 0]
    assert columns["green"].tolist() == [0x20, 0x80, 0]
    assert columns["blue"].tolist() == [0x30, 1, 0]
    assert columns["blue"].dtype == np.uint8
    assert list(columns)[3:] == ["red", "green", "blue"] + ["alpha"] * (name == "rgba")
    assert name != "rgba" or columns["alpha"].tolist() == [0, 0xFF, 0x7F]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_colours_in_the_bits_of_a_float(tmp_path, encoding):
    packed = np.array([0x00102030, 0x00FFFFFF, 0x3F800102], np.uint32)
    columns = load(tmp_path, pcd([*XYZ, ("rgb", "F", 4, 1)], [*cloud(0, 3), packed.view(np.float32)], encoding))
    assert columns["red"].tolist() == [0x10, 0xFF, 0x80]
    assert columns["blue"].tolist() == [0x30, 0xFF, 0x02]


def test_opaque_colours_of_a_float_are_nan_and_right_in_binary(tmp_path):
    packed = np.array([0xFFFFFFFF, 0xFF010203], np.uint32)
    columns = load(tmp_path, pcd([*XYZ, ("rgb", "F", 4, 1)], [*cloud(0, 2), packed.view(np.float32)]))
    assert [columns[name].tolist() for name in ("red", "green", "blue")] == [[255, 1], [255, 2], [255, 3]]
    text = pcd([*XYZ, ("rgb", "F", 4, 1)], [*cloud(0, 2), packed.view(np.float32)], "ascii")
    refuse(tmp_path, text, "rgb is NaN in text")


@pytest.mark.parametrize("field", [("rgb", "F", 8, 1), ("rgb", "U", 1, 3), ("rgb", "U", 1, 1)])
def test_other_fields_of_that_name_are_ordinary_columns(tmp_path, field):
    columns = load(tmp_path, pcd([*XYZ, field], [*cloud(0, 2), np.arange(2 * field[3])]))
    assert list(columns)[3:] == (["rgb"] if field[3] == 1 else ["rgb_0", "rgb_1", "rgb_2"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_organised_clouds_are_flat_lists_with_their_nan(tmp_path, encoding):
    points = cloud(3, 12)
    for axis in points:
        axis[[2, 7]] = np.nan
    columns = load(tmp_path, pcd(XYZ, points, encoding, height=3))
    np.testing.assert_array_equal(columns["y"], points[1])


@pytest.mark.parametrize("version", [".5", ".6", ".7", "0.5", "0.6", "0.7"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "  \n", " # a comment\n"])
def test_versions_and_ends_of_lines(tmp_path, version, end):
    points = cloud(4, 3)
    for encoding in ("ascii", "binary"):
        assert load(tmp_path, pcd(XYZ, points, encoding, version=version, end=end))["z"].tolist() == points[2].tolist()


@pytest.mark.parametrize("drop", ["VERSION", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS"])
@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_lines_that_may_be_missing(tmp_path, drop, encoding):
    points = cloud(5, 4)
    assert load(tmp_path, pcd(XYZ, points, encoding, drop=[drop]))["x"].tolist() == points[0].tolist()


def test_a_header_in_another_order_and_in_small_letters(tmp_path):
    head = (
        b"#x\n\npoints 2\nviewpoint 5 5 5 0 1 0 0\ncount 1 1\n# between\ntype f U\nsize 8 2\nfields x id\nData BINARY\n"
    )
    columns = load(tmp_path, head + struct.pack("<dHdH", 0.1, 65535, -2.5, 1))
    assert columns["x"].tolist() == [0.1, -2.5]
    assert columns["id"].tolist() == [65535, 1]


def test_the_viewpoint_moves_nothing(tmp_path):
    data = pcd(XYZ, cloud(0)).replace(b"VIEWPOINT 0 0 0 1 0 0 0", b"VIEWPOINT 9 8 7 0 1 0 0")
    assert load(tmp_path, data)["x"].tolist() == cloud(0)[0].tolist()


def test_the_first_version_has_floats_only(tmp_path):
    head = b"VERSION .5\nCOLUMNS x y z\nPOINTS 2\nDATA ascii\n"
    columns = load(tmp_path, head + b"1 2 3\n4 5 0.1\n")
    assert columns["z"].tolist() == [3, np.float32(0.1)]
    assert columns["z"].dtype == np.float32


def test_text_with_signs_exponents_and_odd_spaces(tmp_path):
    head = b"FIELDS x y z\nSIZE 4 4 8\nTYPE F F F\nPOINTS 3\nDATA ascii\n"
    columns = load(tmp_path, head + b"  +1.5e1\t-nan   3\r\n\n-0 nan 1e-300\n1. .5 inf")
    assert columns["x"].tolist() == [15, 0, 1]
    assert np.isnan(columns["y"][:2]).all()
    assert columns["z"].tolist() == [3, 1e-300, np.inf]


@pytest.mark.parametrize("rest", [b"\n", b"\r\n", bytes(1), bytes(4096), bytes(65536)])
@pytest.mark.parametrize("encoding", ENCODINGS[1:])
def test_padding_behind_the_points(tmp_path, rest, encoding):
    assert load(tmp_path, pcd(XYZ, cloud(6), encoding) + rest)["y"].tolist() == cloud(6)[1].tolist()


@pytest.mark.parametrize("rest", [b"\x01", b"\n1 2 3", bytes(65537), bytes(100) + b"\x01"])
@pytest.mark.parametrize("encoding", ENCODINGS[1:])
def test_other_bytes_behind_the_points(tmp_path, rest, encoding):
    refuse(tmp_path, pcd(XYZ, cloud(6), encoding) + rest, f"{len(rest)} bytes behind the points")


GOOD = b"VERSION .7\nFIELDS x y\nSIZE 4 4\nTYPE F F\nCOUNT 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA ascii\n1 2\n3 4\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, b"", "no PCD header"),
        (GOOD, b"ply\nformat ascii 1.0\n", "unknown line in it, 'ply'"),
        (b"DATA ascii\n1 2\n3 4\n", b"", "without a line DATA"),
        (b".7", b".8", "PCD version '.8'"),
        (b"DATA ascii", b"DATA zip", "DATA 'zip'"),
        (b"WIDTH 2", b"WIDTH 3", "promises 2 points, and 3 x 1"),
        (b"HEIGHT 1", b"HEIGHT 2", "promises 2 points, and 2 x 2"),
        (b"POINTS 2", b"POINTS -2", "POINTS '-2'"),
        (b"POINTS 2", b"POINTS 2.0", "POINTS '2.0'"),
        (b"POINTS 2", b"POINTS", "POINTS ''"),
        (b"WIDTH 2\nHEIGHT 1\nPOINTS 2", b"POINTS 0", "no points"),
        (b"WIDTH 2\nHEIGHT 1\nPOINTS 2", b"HEIGHT 2", "neither POINTS nor WIDTH"),
        (b"WIDTH 2\nHEIGHT 1\nPOINTS 2", b"POINTS 999999999999999999", "too short"),
        (b"WIDTH 2\nHEIGHT 1\nPOINTS 2", b"POINTS 1", "promises 1 points, the file has 2 lines"),
        (b"WIDTH 2\nHEIGHT 1\nPOINTS 2", b"POINTS 3", "promises 3 points, the file is too short"),
        (b"SIZE 4 4", b"SIZE 4", "1 of SIZE"),
        (b"SIZE 4 4", b"SIZE 4 3", "SIZE '3'"),
        (b"SIZE 4 4\n", b"", "0 of SIZE"),
        (b"TYPE F F", b"TYPE F X", "TYPE 'X'"),
        (b"TYPE F F\n", b"", "0 of TYPE"),
        (b"COUNT 1 1", b"COUNT 1 0", "COUNT '0'"),
        (b"COUNT 1 1", b"COUNT 1 -1", "COUNT '-1'"),
        (b"COUNT 1 1", b"COUNT 1 99999999", "numbers in each point"),
        (b"FIELDS x y", b"FIELDS x x", "two fields of one name"),
        (b"FIELDS x y", b"FIELDS _ _", "padding only"),
        (b"FIELDS x y\n", b"", "names no FIELDS"),
        (b"FIELDS x y", b"FIELDS x y\nFIELDS x y", "two lines FIELDS"),
        (b"HEIGHT 1", b"HEIGHT 1\nLENGTH 1", "unknown line in it, 'LENGTH 1'"),
        (b"3 4\n", b"3 4 5\n", "columns"),
        (b"3 4\n", b"3 \n", "columns"),
        (b"3 4\n", b"3 four\n", "could not convert"),
        (b"3 4\n", b"3 \xff4\n", "other bytes than those of numbers"),
        (b"3 4\n", b"3 1_0\n", "could not convert"),
        (b"3 4\n", b"#3 4\n", "could not convert"),
    ],
)
def test_headers_and_texts_that_are_refused(tmp_path, old, new, message):
    assert load(tmp_path, GOOD)["y"].tolist() == [2, 4]
    assert old in GOOD
    refuse(tmp_path, GOOD.replace(old, new), message)


@pytest.mark.parametrize("word", ["300", "-1", "1.5", "1e2", "nan"])
def test_text_that_is_no_whole_number_of_its_type(tmp_path, word):
    head = b"FIELDS x y\nSIZE 4 1\nTYPE F U\nPOINTS 1\nDATA ascii\n1 "
    refuse(tmp_path, head + word.encode(), "could not convert|fractions")


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
@pytest.mark.parametrize("cut", [1, 4, 100, 239])
def test_cut_files_are_refused(tmp_path, encoding, cut):
    data = pcd(XYZ, cloud(0), encoding)
    refuse(tmp_path, data[: max(len(data) - cut, data.index(b"DATA") + 30)], "cut short|the file has|compressed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed, size: struct.pack("<II", len(packed), size + 1) + packed, "they unpack to 241"),
        (lambda packed, size: struct.pack("<II", len(packed), 2**32 - 1) + packed, "they unpack to 4294967295"),
        (lambda packed, size: struct.pack("<II", len(packed) + 1, size) + packed, "the file has"),
        (lambda packed, size: struct.pack("<II", len(packed) - 1, size) + packed[:-1], "cut short|unpacked"),
        (lambda packed, size: struct.pack("<II", 2, size) + b"\x00a", "unpacked"),
        (lambda packed, size: b"\0\0\0", "cut short"),
    ],
)
def test_compressed_blocks_that_are_refused(tmp_path, change, message):
    body = np.stack(cloud(0)).astype("<f4").tobytes()
    head = pcd(XYZ, cloud(0), "binary_compressed").partition(b"DATA binary_compressed\n")
    assert load(tmp_path, head[0] + head[1] + struct.pack("<II", len(lzf(body)), 240) + lzf(body))
    refuse(tmp_path, head[0] + head[1] + change(lzf(body), 240), message)


def test_colours_that_are_there_twice(tmp_path):
    fields = [*XYZ, ("rgb", "U", 4, 1), ("red", "U", 1, 1)]
    refuse(tmp_path, pcd(fields, [*cloud(0, 2), np.zeros(2), np.zeros(2)]), "two columns of one name")


def test_a_hostile_file_ends_soon(tmp_path):
    start = time.perf_counter()
    refuse(tmp_path, b"# comment\n" * 300_000, "without a line DATA")
    refuse(tmp_path, b"FIELDS " + b"x " * 1_000_000, "PCD header")
    refuse(tmp_path, b"FIELDS x\nPOINTS 99\nDATA ascii\n" + b"\n" * 2_000_000, "0 lines")
    body = b"\x00a" + b"\x20\x00" * 1_000_000
    head = b"FIELDS x\nPOINTS 749999\nDATA binary_compressed\n"
    refuse(tmp_path, head + struct.pack("<II", len(body), 2999996) + body, "unpacked")
    assert time.perf_counter() - start < 60


def fuzz(tmp_path, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        points = list(rng.integers(-3, 4, (3, 12)).astype(np.float32))
        data = damaged(
            pcd(
                [*XYZ, ("rgb", "F", 4, 1), ("n", "U", 2, 2)], [*points, np.zeros(12), np.ones(24)], ENCODINGS[seed % 4]
            ),
            rng,
        )
        path = tmp_path / "a.pcd"
        path.write_bytes(data)
        try:
            [table] = read_pcd(path)
        except ValueError:
            continue
        assert len({len(values) for values in table.columns.values()}) == 1


def test_damaged_files(tmp_path):
    fuzz(tmp_path, range(400))


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path):
    fuzz(tmp_path, range(1000, 5000))

"""PLY, text and binary, as people's programs write it."""

from __future__ import annotations

import struct
import time
from contextlib import suppress

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import (
    CODES,
    CUBE,
    ELL,
    HALVES,
    KINDS,
    SIDES,
    area,
    coordinates,
    damage_and_read,
    is_cube,
    mesh_ply,
    ply,
    ply_head,
    table_of,
)
from pyro_pcflow.data.readers.ply import read_ply

XYZ = ["float x", "float y", "float z"]
ROWS = CUBE.tolist()
FACES = ["list uchar int vertex_indices"]
MIXED = [*HALVES[:2], SIDES[1], *SIDES[2:4], *HALVES[8:]]
WHOLE_STRIPS = [[a, b, d, c] for a, b, c, d in SIDES]


def cubes(kind):
    def rows(*extra):
        return [[*row, *extra] for row in ROWS]

    return {
        "quads": mesh_ply(kind),
        "triangles": mesh_ply(kind, faces=HALVES),
        "mixed": mesh_ply(kind, faces=MIXED),
        "mixed, longest first": mesh_ply(kind, faces=MIXED[::-1]),
        "mixed, wide counts": mesh_ply(kind, faces=MIXED, count="int", index="uint"),
        "mixed, double": mesh_ply(kind, faces=MIXED, number="double", count="ushort", index="short"),
        "old name": mesh_ply(kind, name="vertex_index"),
        "texture": ply(
            kind,
            [
                ("vertex", XYZ, ROWS),
                (
                    "face",
                    ["uchar flags", *FACES, "list uchar float texcoord", "int texnumber"],
                    [[7, side, [0.5] * 2 * len(side), -1] for side in MIXED],
                ),
            ],
        ),
        "uneven lists behind quads": ply(
            kind,
            [
                ("vertex", XYZ, ROWS),
                ("face", [*FACES, "list uchar uchar tags"], [[side, [1] * n] for n, side in enumerate(SIDES)]),
            ],
        ),
        "colours": ply(
            kind,
            [
                ("vertex", [*XYZ, "uchar red", "uchar green", "double quality"], rows(1, 2, 0.5)),
                ("face", [*FACES, "uchar red"], [[side, 3] for side in SIDES]),
            ],
        ),
        "faces first": ply(kind, [("face", FACES, [[side] for side in MIXED]), ("vertex", XYZ, ROWS)]),
        "edges between": ply(
            kind,
            [
                ("vertex", XYZ, ROWS),
                ("edge", ["int vertex1", "int vertex2"], [[0, 1], [2, 3]]),
                ("face", FACES, [[side] for side in SIDES]),
                ("material", ["list uchar uchar name", "float shine"], [[[65, 66], 0.5], [[], 0.1]]),
            ],
        ),
        "axes in another order": ply(
            kind,
            [
                ("vertex", ["float z", "uchar a", "float x", "float y"], [[z, 1, x, y] for x, y, z in ROWS]),
                ("face", FACES, [[side] for side in SIDES]),
            ],
        ),
        "capital axes": ply(
            kind, [("vertex", ["float X", "float Y", "float Z"], ROWS), ("face", FACES, [[side] for side in SIDES])]
        ),
        "lists of vertices": ply(
            kind,
            [
                (
                    "vertex",
                    ["float x", "list uchar int ring", *XYZ[1:]],
                    [[x, [1] * int(y + 2 * z), y, z] for x, y, z in ROWS],
                ),
                ("face", FACES, [[side] for side in SIDES]),
            ],
        ),
        "integers": mesh_ply(kind, CUBE.astype(int), number="int"),
        "bytes": mesh_ply(kind, CUBE.astype(int), number="uint8", count="uint8", index="uint8"),
        "strips": ply(
            kind, [("vertex", XYZ, ROWS), ("tristrips", ["list int int vertex_indices"], [[s] for s in WHOLE_STRIPS])]
        ),
        "one strip with ends": ply(
            kind,
            [
                ("vertex", XYZ, ROWS),
                ("tristrips", ["list int int vertex_indices"], [[[i for strip in WHOLE_STRIPS for i in (*strip, -1)]]]),
            ],
        ),
        "faces and strips": ply(
            kind,
            [
                ("vertex", XYZ, ROWS),
                ("face", FACES, [[side] for side in SIDES[:3]]),
                ("tristrips", ["list int int vertex_indices"], [[s] for s in WHOLE_STRIPS[3:]]),
            ],
        ),
        "faces of fewer corners": mesh_ply(kind, faces=[*SIDES, [0, 1], [3], []]),
        "nothing in other elements": ply(
            kind,
            [
                ("empty", [], []),
                ("camera", ["float view"], []),
                ("vertex", XYZ, ROWS),
                ("face", FACES, [[s] for s in SIDES]),
            ],
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cubes("ascii"))
def test_cubes(tmp_path, kind, name):
    assert is_cube(read_ply(put(tmp_path, "a.ply", cubes(kind)[name])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", ["char", "uchar", "short", "ushort", "int", "uint", "int64", "uint64", "float"])
@pytest.mark.parametrize("faces", [SIDES, MIXED])
def test_every_type_of_index(tmp_path, kind, index, faces):
    assert is_cube(read_ply(put(tmp_path, "a.ply", mesh_ply(kind, faces=faces, index=index))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", ["char", "uchar", "short", "ushort", "int", "uint", "int64"])
@pytest.mark.parametrize("faces", [SIDES, MIXED])
def test_every_type_of_count(tmp_path, kind, count, faces):
    assert is_cube(read_ply(put(tmp_path, "a.ply", mesh_ply(kind, faces=faces, count=count))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", CODES)
def test_every_type_of_column(tmp_path, kind, number):
    whole = CODES[number] not in "fd"
    limits = np.iinfo(CODES[number]) if whole else None
    values = [limits.min, limits.max, 5] if whole else [-0.5, 1e30, 3.25]
    data = ply(kind, [("vertex", [*XYZ, f"{number} extra"], [[0, 1, 2, value] for value in values])])
    column = table_of(read_ply(put(tmp_path, "a.ply", data)))["extra"]
    assert column.dtype == np.dtype(CODES[number])
    assert column.dtype.isnative
    assert column.tolist() == np.array(values, CODES[number]).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_scalar_properties_under_their_names(tmp_path, kind):
    properties = [
        "double x",
        "double y",
        "float z",
        "uchar red",
        "list uchar int ring",
        "float scalar_Intensity",
        "int64 t",
    ]
    rows = [
        [701362.0856491672, 4485513.54564222, 40.5, 255, [1, 2], -0.25, 1700000000123456789],
        [1, 2, 3, 0, [], 7, -1],
    ]
    columns = table_of(read_ply(put(tmp_path, "a.ply", ply(kind, [("vertex", properties, rows)]))))
    assert [*columns] == ["x", "y", "z", "red", "scalar_Intensity", "t"]
    assert [column.dtype.str[1:] for column in columns.values()] == ["f8", "f8", "f4", "u1", "f4", "i8"]
    assert [column.tolist() for column in columns.values()] == [
        list(v) for v in zip(*([*r[:4], *r[5:]] for r in rows), strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [
        [],
        [("face", FACES, [])],
        [("tristrips", FACES, [])],
        [("edge", ["int vertex1", "int vertex2"], [[0, 1], [1, 2]])],
        [("range_grid", ["list uchar int vertex_indices"], [[[0]], [[]], [[1]]])],
    ],
)
def test_points(tmp_path, kind, more):
    found = read_ply(put(tmp_path, "a.ply", ply(kind, [("vertex", XYZ, ROWS), *more])))
    assert coordinates(found).tolist() == ROWS


def test_splats(tmp_path):
    names = [f"f_rest_{i}" for i in range(45)] + ["f_dc_0", "opacity", "scale_0", "rot_3"]
    rows = [[*row, *np.arange(49.0) + n] for n, row in enumerate(ROWS)]
    data = ply("binary_little_endian", [("vertex", [*XYZ, *(f"float {name}" for name in names)], rows)])
    columns = table_of(read_ply(put(tmp_path, "a.ply", data)))
    assert len(columns) == 52
    assert columns["rot_3"].tolist() == [48.0 + n for n in range(8)]


def test_polygons_whose_bytes_fit_other_counts(tmp_path):
    # A quadrilateral, a triangle and a pentagon are as long as three quadrilaterals.
    faces = [[0, 1, 3, 2], [4, 6, 7], [0, 4, 5, 1, 3]]
    found = read_ply(put(tmp_path, "a.ply", mesh_ply("binary_little_endian", faces=faces)))
    assert len(found.faces) == 2 + 1 + 3
    assert found.faces[2].tolist() == [4, 6, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_concave_polygon(tmp_path, kind):
    found = read_ply(put(tmp_path, "a.ply", mesh_ply(kind, ELL, [range(6), [5, 0, 1]])))
    assert np.isclose(area(found), 4)


def test_bytes_are_read_in_the_right_order(tmp_path):
    values = [[1e-20, 2.0, 256.5]]
    for kind in KINDS:
        found = read_ply(put(tmp_path, "a.ply", ply(kind, [("vertex", XYZ, values)])))
        assert np.array_equal(coordinates(found), np.array(values, np.float32))


def test_a_signalling_nan_is_left_to_the_caller(tmp_path):
    data = mesh_ply("binary_little_endian")
    start = data.index(b"end_header") + 11
    data = data[:start] + struct.pack("<I", 0x7FA00000) + data[start + 4 :]
    assert np.isnan(read_ply(put(tmp_path, "a.ply", data)).vertices).sum() == 1


TEXT, BINARY = mesh_ply(), mesh_ply("binary_little_endian")
MIXED_BINARY = mesh_ply("binary_big_endian", faces=MIXED)


@pytest.mark.parametrize("data", [TEXT + b"\n\n", BINARY + b"\n", BINARY + b"\0" * 16, MIXED_BINARY + b"\r\n"])
def test_a_little_padding_is_no_data(tmp_path, data):
    assert is_cube(read_ply(put(tmp_path, "a.ply", data)))


@pytest.mark.parametrize(
    "data",
    [
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b"\n", b"\r"),
        TEXT.replace(b" ", b"\t").replace(b"format\t", b"format "),
        TEXT.replace(b"4 0 1 3 2", b"\n\n  4 0 1 3 2  "),
        TEXT.rstrip(),
        TEXT.replace(b"1.0\n", b"1.0e0\n"),
    ],
)
def test_text_in_other_lines(tmp_path, data):
    assert is_cube(read_ply(put(tmp_path, "a.ply", data)))


BODY = TEXT[TEXT.index(b"end_header") :]
HEAD = TEXT[: TEXT.index(b"element face")]
BAD = {
    "empty": (b"", "no PLY header"),
    "words": (b"hello\n", "no PLY header"),
    "no end": (TEXT.replace(b"end_header", b"end"), "no line 'end_header'"),
    "promises more": (TEXT.replace(b"vertex 8", b"vertex 9"), "header promises 15 lines, found 14"),
    "promises less": (TEXT.replace(b"vertex 8", b"vertex 7"), "header promises no more than 13 lines, found 14"),
    "huge": (TEXT.replace(b"vertex 8", b"vertex 999999999999"), "header promises 1000000000005 lines"),
    "huge binary": (
        BINARY.replace(b"vertex 8", b"vertex 999999999"),
        "promises 11999999988 bytes or more of element v",
    ),
    "huge binary faces": (
        BINARY.replace(b"face 6", b"face 999999999"),
        "promises 999999999 bytes or more of element f",
    ),
    "more binary faces": (BINARY.replace(b"face 6", b"face 7"), "the file ends within|found"),
    "fewer binary faces": (BINARY.replace(b"face 6", b"face 5"), "17 bytes behind all that the header promises"),
    "cut binary": (BINARY[:-1], "the file ends within element face"),
    "cut mixed binary": (MIXED_BINARY[:-1], "the file ends within element face"),
    "cut in the vertices": (BINARY[:-110], "bytes or more of element vertex"),
    "cut in a line": (TEXT.rstrip()[:-1].rstrip(), "words where the header promises another number for each face"),
    "long line": (TEXT.replace(b"4 0 1 3 2", b"4 0 1 3 2 5"), "line 18: 6 words where the header"),
    "long vertex": (
        TEXT.replace(b"\n0.0 0.0 1.0\n", b"\n0.0 0.0 1.0 7\n"),
        "line 11: 4 words where the header promises",
    ),
    "short vertex": (TEXT.replace(b"\n0.0 0.0 1.0\n", b"\n0.0 1.0\n"), "line 11: 2 words where the header promises"),
    "word": (TEXT.replace(b"\n0.0 0.0 1.0\n", b"\n0.0 x 1.0\n"), "line 11: 'x' is no number"),
    "half a corner": (TEXT.replace(b"4 0 1 3 2", b"4 0 1 3 2.5"), "line 18: '2.5' is no int32 of vertex_indices"),
    "negative length": (TEXT.replace(b"4 0 1 3 2", b"-1 0 1 3 2"), "line 18: 5 words where"),
    "byte beyond": (
        ply("ascii", [("vertex", [*XYZ, "uchar red"], [[0, 0, 0, 256]])]),
        "line 9: '256' is no uint8 of red",
    ),
    "integer beyond": (
        ply("ascii", [("vertex", [*XYZ, "int64 t"], [[0.5, 0, 0, 2**63]])]),
        "values of t beyond int64",
    ),
    "index": (TEXT.replace(b"4 0 1 3 2", b"4 0 1 3 8"), "a face refers to a vertex outside 0 to 7"),
    "negative index": (TEXT.replace(b"4 0 1 3 2", b"4 0 1 3 -1"), "a face refers to a vertex outside 0 to 7"),
    "strip": (
        ply("ascii", [("vertex", XYZ, ROWS), ("tristrips", FACES, [[[0, 1, 9]]])]),
        "a strip refers to a vertex outside 0 to 7",
    ),
    "short strip": (
        ply("ascii", [("vertex", XYZ, ROWS), ("tristrips", FACES, [[[0, 1]]])]),
        "none of its 1 faces has three corners",
    ),
    "half an index": (mesh_ply("binary_little_endian", index="float")[:-4] + struct.pack("<f", 0.5), "not whole"),
    "no index": (mesh_ply("binary_little_endian", index="float")[:-4] + struct.pack("<f", float("nan")), "not whole"),
    "huge index": (mesh_ply("binary_little_endian", index="uint64")[:-8] + b"\xff" * 8, "huge|outside"),
    "renamed": (mesh_ply(name="corners"), "element face without a list 'vertex_indices', only with corners"),
    "no vertices": (ply("ascii", [("face", FACES, [[[0, 1, 2]]])]), "no element 'vertex', only face"),
    "no points": (ply("ascii", [("vertex", XYZ, []), ("face", FACES, [])]), "no faces and no points"),
    "flat": (ply("ascii", [("vertex", XYZ[:2], [[0, 1]])]), "vertices without x, y and z, only with x, y"),
    "list of x": (
        ply("ascii", [("vertex", ["list uchar float x", *XYZ[1:]], [[[1], 2, 3]])]),
        "vertices without x, y and z, only with y, z",
    ),
    "negative list": (mesh_ply("binary_little_endian", count="char").replace(b"\x04", b"\xfc"), "a list of -4 values"),
    "list beyond": (mesh_ply("binary_little_endian", count="uint")[:-20] + b"\xff" * 20, "ends within"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, found = BAD[name]
    with pytest.raises(ValueError, match=found):
        read_ply(put(tmp_path, "a.ply", data))


@pytest.mark.parametrize(
    "data",
    [
        # Ten properties a row, and nothing in a row but the length of an empty list.
        ply_head("binary_little_endian", [("vertex", 2_000_000, ["list uchar int a"]), ("face", 1, FACES)])
        + bytes(2_000_000),
        ply_head("binary_little_endian", [("vertex", 1, XYZ), ("face", 2_000_000, FACES)])
        + bytes(12)
        + b"\0" * 1_999_995
        + b"\1\0\0\0\0",
        b"ply\n" + b"comment\n" * 200_000,
        b"ply\nformat ascii 1.0\n" + b"element a 1\n" * 50_000 + b"end_header\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\n" + b"property float x\n" * 50_000 + b"end_header\n",
        ply_head("ascii", [("vertex", 10**17, []), ("face", 1, FACES)]) + b"3 0 1 2\n",
        ply_head("binary_little_endian", [("vertex", 10**17, [])]),
        ply_head("ascii", [("vertex", 1, XYZ), ("face", 1, FACES)]) + b"0 0 0\n300000 " + b"0 " * 300_000,
    ],
)
def test_odd_files_end_soon(tmp_path, data):
    path = put(tmp_path, "a.ply", data)
    start = time.process_time()
    with suppress(ValueError):
        read_ply(path)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("rounds", [500, pytest.param(4000, marks=pytest.mark.exhaustive)])
def test_damaged_files(tmp_path, rounds):
    wholes = [cubes(kind)[name] for kind in KINDS for name in ("mixed", "texture", "colours", "faces and strips")]
    wholes += [BINARY, ply("binary_big_endian", [("vertex", [*XYZ, "int64 t"], [[*row, 7] for row in ROWS])])]
    assert 0 < damage_and_read(read_ply, tmp_path / "a.ply", wholes, rounds) < rounds

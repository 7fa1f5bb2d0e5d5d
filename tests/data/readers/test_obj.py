"""Wavefront OBJ, as people's programs write it."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import CUBE, ELL, HALVES, SIDES, area, coordinates, damage_and_read, is_cube, obj, table_of
from pyro_pcflow.data.readers.obj import read_obj

PLAIN = obj()
LINES = PLAIN.decode().splitlines()
VERTICES, FACES = LINES[:8], LINES[8:]


def with_corners(write):
    return "\n".join(VERTICES + ["f " + " ".join(write(i) for i in face) for face in SIDES])


CUBES = {
    "plain": PLAIN,
    "triangles": obj(faces=HALVES),
    "mixed": obj(faces=[*HALVES[:2], *SIDES[1:]]),
    "no newline at the end": PLAIN.rstrip(),
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "cr": PLAIN.replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "utf-16": PLAIN.decode().encode("utf-16"),
    "latin-1 comment": b"# cr\xe9\xe9 par\n" + PLAIN,
    "latin-1 group": b"g cr\xe9\xe9\n" + PLAIN,
    "indented": b"  " + PLAIN.replace(b"\n", b"\n\t "),
    "one line indented": PLAIN.replace(b"f 1 ", b" f 1 ", 1),
    "tabs": PLAIN.replace(b" ", b"\t"),
    "trailing blanks": PLAIN.replace(b"\n", b"  \n"),
    "wide": PLAIN.replace(b" ", b"   "),
    "blank lines": PLAIN.replace(b"\n", b"\n\n"),
    "inline comment": PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 1.0 0.0 # corner 3"),
    "tight comment": PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 1.0 0.0# v 9 9 9"),
    "comment behind a face": PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 3 # f 1 2 3"),
    "comment that ends in a backslash": b"# C:\\models\\\n" + PLAIN,
    "library that ends in a backslash": b"mtllib C:\\models\\\n" + PLAIN,
    "continued": PLAIN.replace(b"f 1 2 4 3", b"f 1 2 \\\n4 3"),
    "continued tightly": PLAIN.replace(b"f 1 2 4 3", b"f 1 2\\\n4 3"),
    "continued twice": PLAIN.replace(b"f 1 2 4 3", b"f\\\n 1 2 \\ \n 4\\\n3"),
    "continued vertex": PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 \\\n 1.0 0.0"),
    "continued crlf": PLAIN.replace(b"f 1 2 4 3", b"f 1 2\\\n4 3").replace(b"\n", b"\r\n"),
    "groups": PLAIN.replace(b"f 1 2", b"o a\ng b c\ns off\nusemtl red\nf 1 2"),
    "normals": PLAIN.replace(b"f 1 2", b"vn 0 0 1\nvt 0 0\nf 1 2"),
    "normals between": PLAIN.replace(b"\nv ", b"\nvn 0 0 1\nv "),
    "v/t": with_corners(lambda i: f"{i + 1}/1").encode(),
    "v/t/n": with_corners(lambda i: f"{i + 1}/{i + 7}/33").encode(),
    "v//n": with_corners(lambda i: f"{i + 1}//{i + 1}").encode(),
    "v/t/": with_corners(lambda i: f"{i + 1}/1/").encode(),
    "v/-t/-n": with_corners(lambda i: f"{i - 8}/-1/-2").encode(),
    "mixed corners": PLAIN.replace(b"f 1 2 4 3", b"f 1/2/3 2 4//1 3/1"),
    "relative": with_corners(lambda i: f"{i - 8}").encode(),
    "some relative": PLAIN.replace(b"f 1 2 4 3", b"f 1 -7 4 -6"),
    "faces before vertices": "\n".join(FACES + VERTICES).encode(),
    "faces between vertices": "\n".join(VERTICES[:4] + FACES[:2] + VERTICES[4:] + FACES[2:]).encode(),
    "relative between vertices": "\n".join(
        [*VERTICES[:4], "f -4 -3 -1 -2", *VERTICES[4:], "f -4 -2 -1 -3", *FACES[2:]]
    ).encode(),
    "weights": "\n".join([line + " 1.0" for line in VERTICES] + FACES).encode(),
    "some weights": "\n".join([VERTICES[0] + " 0.5", *VERTICES[1:], *FACES]).encode(),
    "colours": "\n".join([line + " 0.1 0.2 0.3" for line in VERTICES] + FACES).encode(),
    "some colours": "\n".join([VERTICES[0] + " 1 1 1", *VERTICES[1:], *FACES]).encode(),
    "colours and more": "\n".join([line + " 0.1 0.2 0.3 1" for line in VERTICES] + FACES).encode(),
    "exponents": PLAIN.replace(b"1.0", b"1e0").replace(b"0.0", b"0.0E+00"),
    "fortran": PLAIN.replace(b"1.0", b"1.0D+00"),
    "integers": PLAIN.replace(b".0", b""),
    "points and lines": PLAIN + b"p 1 2 3\nl 1 2\nl 2/1 3/1\n",
    "old keyword": PLAIN.replace(b"f ", b"fo "),
    "face of two corners": PLAIN + b"f 1 2\n",
    "unused vertex": PLAIN + b"v 0.5 0.5 0.5\n",
    "unknown words": b"#MRGB\nxyz 1 2 3\nbevel on\n" + PLAIN,
    "plus signs": with_corners(lambda i: f"+{i + 1}").encode(),
}


@pytest.mark.parametrize("name", CUBES)
def test_cubes(tmp_path, name):
    assert is_cube(read_obj(put(tmp_path, "a.obj", CUBES[name])))


def test_vertices_keep_their_place(tmp_path):
    found = read_obj(put(tmp_path, "a.obj", obj(faces=HALVES)))
    assert found.vertices.tolist() == CUBE.tolist()
    assert found.faces.tolist() == HALVES


def test_concave_polygon(tmp_path):
    found = read_obj(put(tmp_path, "a.obj", obj(ELL, [range(6)])))
    assert area(found) == 3


CLOUD = np.array([[0.5, 1.25, -3], [1e-7, 2, 7], [1, 2, 3]])


@pytest.mark.parametrize(
    "data",
    [
        obj(CLOUD, []),
        obj(CLOUD, []) + b"p 1\np 2\np 3\n",
        obj(CLOUD, []) + b"l 1 2 3\n",
        b"vn 1 2 3\n" + obj(CLOUD, []).replace(b"\n", b" 0.5\n"),
    ],
)
def test_points(tmp_path, data):
    found = read_obj(put(tmp_path, "a.obj", data))
    assert [*table_of(found)] == ["x", "y", "z"]
    assert coordinates(found).tolist() == CLOUD.tolist()


def test_points_with_colours(tmp_path):
    data = b"v 0 0 0 0.1 0.2 0.3\nv 1 2 3 0.4 0.5 0.6\n"
    columns = table_of(read_obj(put(tmp_path, "a.obj", data)))
    assert {name: column.tolist() for name, column in columns.items()} == {
        "x": [0, 1],
        "y": [0, 2],
        "z": [0, 3],
        "red": [0.1, 0.4],
        "green": [0.2, 0.5],
        "blue": [0.3, 0.6],
    }
    columns = table_of(read_obj(put(tmp_path, "a.obj", data + b"v 7 8 9\n")))
    assert [*columns] == ["x", "y", "z"]
    assert columns["x"].tolist() == [0, 1, 7]


def test_what_is_not_finite_is_left_to_the_caller(tmp_path):
    found = read_obj(put(tmp_path, "a.obj", PLAIN.replace(b"1.0", b"nan", 1)))
    assert np.isnan(found.vertices).sum() == 1


BAD = {
    "empty": (b"", "no faces and no points"),
    "words": (b"hello world\n", "no faces and no points"),
    "only faces": (b"f 1 2 3\n", "no faces and no points"),
    "from zero": (PLAIN.replace(b"f 1 2 4 3", b"f 0 1 3 2"), "line 9: face index 0: OBJ counts from 1"),
    "beyond": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 9"), "line 9: face index 9: there are 8 vertices"),
    "far beyond": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 99999999999999999999"), "line 9: face index 9007"),
    "relative beyond": (PLAIN.replace(b"f 1 2 4 3", b"f -9 2 4 3"), "line 9: face index -9: there are 8"),
    "relative to what follows": (b"v 0 0 0\nf -1 -2 -3\nv 1 0 0\nv 0 1 0\n", "line 2: face index -2"),
    "word": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 x 0.0"), "line 3: 'x' is no number"),
    "glued": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 1.00.0 1"), "line 3: '1.00.0' is no number"),
    "comma": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0,0 1,0 0,0"), "line 3: '0,0' is no number"),
    "two numbers": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 1.0"), "line 3: a vertex of 2 numbers"),
    "five numbers": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v 0.0 1.0 0 0 0"), "line 3: a vertex of 5 numbers"),
    "no numbers": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v"), "line 3: a vertex of 0 numbers"),
    "word in a face": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 x"), "line 9: 'x' is no corner"),
    "real corner": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 3.0"), r"line 9: '3\.0' is no corner"),
    "slash first": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 /3"), "line 9: '/3' is no corner"),
    "glued corners": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4-3"), "line 9: '4-3' is no number"),
    "no corners": (PLAIN.replace(b"f 1 2 4 3", b"f"), "line 9: a face without corners"),
    "lost blank": (PLAIN.replace(b"v 0.0 1.0 0.0", b"v0.0 1.0 0.0"), r"line 3: 'v0\.0' stands where"),
    "lost keyword": (PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4\n3"), "line 10: '3' stands where"),
    "two corners": (b"v 0 0 0\nv 1 0 0\nf 1 2\n", "none of its 1 faces has three corners"),
    "free form": (b"v 0 0 0\nv 1 1 1\ncstype bezier\ncurv 0 1 1 2\nend\n", r"free-form .* \('curv'\)"),
    "free surface": (PLAIN + b"surf 0 1 0 1 1 2 3 4\n", r"free-form .* \('surf'\)"),
    "a file of zeros": (bytes(100), "no faces and no points"),
    "corner behind a comment": (b"# a\n\n\n" + PLAIN.replace(b"f 1 2 4 3", b"f 1 2 4 0"), "line 12: face index 0"),
    "line behind a continuation": (
        PLAIN.replace(b"f 1 2 4 3", b"f 1 2\\\n4 3").replace(b"f 5", b"f 0"),
        "line 11: face index 0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, found = BAD[name]
    with pytest.raises(ValueError, match=found):
        read_obj(put(tmp_path, "a.obj", data))


def test_materials_are_not_followed(tmp_path):
    import os

    os.mkfifo(tmp_path / "nowhere.mtl")
    # Opening the pipe would wait for ever.
    assert is_cube(read_obj(put(tmp_path, "a.obj", b"mtllib nowhere.mtl\n" + PLAIN)))


@pytest.mark.parametrize(
    "data",
    [
        b"f 1 2 3\n" * 200_000,
        b"v 0 0 0\n" + b"f 1 " * 300_000 + b"\n",
        b"v 0 0 0 \\\n" * 100_000,
        b"# \\\n" * 300_000,
        b"usemtl a\n" * 200_000,
        b"v 1 2 3" + b" " * 2_000_000 + b"\n",
        b"\\\n" * 500_000,
        b"f " + b"/" * 1_000_000 + b"\n",
        b"v 0 0 0\nf " + b"1 " * 500_000,
    ],
)
def test_odd_files_end_soon(tmp_path, data):
    path = put(tmp_path, "a.obj", data)
    start = time.process_time()
    with suppress(ValueError):
        read_obj(path)
    assert time.process_time() - start < 10


FUZZED = [PLAIN, CUBES["v/t/n"], CUBES["relative between vertices"], CUBES["continued twice"], CUBES["some colours"]]


@pytest.mark.parametrize("rounds", [300, pytest.param(3000, marks=pytest.mark.exhaustive)])
def test_damaged_files(tmp_path, rounds):
    assert 0 < damage_and_read(read_obj, tmp_path / "a.obj", FUZZED, rounds) < rounds

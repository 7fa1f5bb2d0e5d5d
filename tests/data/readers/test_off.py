"""OFF, as people's programs write it."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import CUBE, ELL, HALVES, area, coordinates, damage_and_read, is_cube, numbers, off, table_of
from pyro_pcflow.data.readers.off import read_off

PLAIN = off()
NORMALS = np.concatenate([CUBE, CUBE * 2 - 1], axis=1)
COLOURS = np.concatenate([CUBE, np.tile([0.1, 0.2, 0.3, 1], (8, 1))], axis=1)

CUBES = {
    "plain": PLAIN,
    "triangles": off(faces=HALVES),
    "mixed": off(faces=[*HALVES[:2], [4, 6, 7, 5], *HALVES[4:]]),
    "lower": off(head="off\n"),
    "capital": off(head="Off\n"),
    "glued": off(head="OFF"),
    "on the same line": off(head="OFF "),
    "blanks": off(head="\n  OFF  \n\n"),
    "comments": off(head="# first\nOFF # named\n# counts\n"),
    "comment in the data": PLAIN.replace(b"0.0 1.0 0.0\n", b"0.0 1.0 0.0 # third\n\n# more\n", 1),
    "blank lines": PLAIN.replace(b"\n", b"\n\n"),
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "cr": PLAIN.replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "utf-16": PLAIN.decode().encode("utf-16"),
    "tabs": PLAIN.replace(b" ", b"\t"),
    "trailing blanks": PLAIN.replace(b"\n", b"  \n"),
    "indented": PLAIN.replace(b"\n", b"\n   "),
    "no newline at the end": PLAIN.rstrip(),
    "no edges": PLAIN.replace(b"8 6 0", b"8 6"),
    "edges": PLAIN.replace(b"8 6 0", b"8 6 12"),
    "no word": PLAIN[4:],
    "no word, a comment": b"# cube\n" + PLAIN[4:],
    "face colours": off(behind=" 255 0 0"),
    "face colours of four": off(behind=" 0.1 0.2 0.3 1.0"),
    "index of a colour": off(behind=" 7"),
    "normals": off(NORMALS, head="NOFF\n"),
    "normals in lower case": off(NORMALS, head="noff\n"),
    "colours": off(COLOURS, head="COFF\n"),
    "colours without the word": off(COLOURS, head="OFF\n"),
    "three colours": off(COLOURS[:, :6], head="COFF\n"),
    "normals and colours": off(np.concatenate([NORMALS, COLOURS[:, 3:]], axis=1), head="CNOFF\n"),
    "texture": off(np.concatenate([CUBE, CUBE[:, :2]], axis=1), head="STOFF\n"),
    "all": off(np.concatenate([NORMALS, COLOURS[:, 3:], CUBE[:, :2]], axis=1), head="STCNOFF\n"),
    "exponents": PLAIN.replace(b"1.0", b"1.0e+00"),
    "integers": PLAIN.replace(b".0", b""),
    "real indices": PLAIN.replace(b"4 0 1 3 2", b"4 0.0 1.0 3.0 2.0"),
    "face of two corners": off(faces=[*HALVES, [0, 1]]),
    "unused vertices": off(np.concatenate([CUBE, CUBE / 2])),
    "latin-1 comment": b"# cr\xe9\xe9\n" + PLAIN,
}


@pytest.mark.parametrize("name", CUBES)
def test_cubes(tmp_path, name):
    assert is_cube(read_off(put(tmp_path, "a.off", CUBES[name])))


def test_concave_polygon(tmp_path):
    assert area(read_off(put(tmp_path, "a.off", off(ELL, [range(6)])))) == 3


def test_vertices_keep_their_place(tmp_path):
    found = read_off(put(tmp_path, "a.off", off(faces=HALVES)))
    assert found.vertices.tolist() == CUBE.tolist()
    assert found.faces.tolist() == HALVES


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (off(faces=[]), ["x", "y", "z"]),
        (off(faces=[])[4:], ["x", "y", "z"]),
        (off(COLOURS, [], head="OFF\n"), ["x", "y", "z"]),
        (off(NORMALS, [], head="NOFF\n"), ["x", "y", "z", "nx", "ny", "nz"]),
        (off(COLOURS, [], head="COFF\n"), ["x", "y", "z", "red", "green", "blue", "alpha"]),
        (off(COLOURS[:, :6], [], head="COFF\n"), ["x", "y", "z", "red", "green", "blue"]),
        (
            off(np.concatenate([COLOURS[:, :6], CUBE[:, :2]], axis=1), [], head="STCOFF\n"),
            ["x", "y", "z", "red", "green", "blue"],
        ),
        (off(COLOURS[:, :4], [], head="COFF\n"), ["x", "y", "z"]),
    ],
)
def test_points(tmp_path, data, names):
    found = read_off(put(tmp_path, "a.off", data))
    assert [*table_of(found)] == names
    assert coordinates(found).tolist() == CUBE.tolist()
    if "green" in names:
        assert (table_of(found)["green"] == 0.2).all()
    if "ny" in names:
        assert table_of(found)["ny"].tolist() == NORMALS[:, 4].tolist()


BAD = {
    "empty": (b"", "no OFF header"),
    "words": (b"hello\n", "no OFF header"),
    "more letters": (PLAIN.replace(b"OFF", b"OFFICE"), "no OFF header"),
    "nothing": (b"# nothing\n", "no OFF header"),
    "only the word": (b"OFF\n", "without its counts"),
    "no counts": (b"OFF\n" + numbers(CUBE).encode(), r"header promises .* found 7|promises 0.0 vertices"),
    "no word and other counts": (PLAIN[4:].replace(b"8 6 0", b"8 5 0"), "no OFF header"),
    "no word and no counts": (numbers(CUBE).encode(), "no OFF header"),
    "short": (PLAIN[: PLAIN.rindex(b"4 1")], r"header promises 8 \+ 6 lines, found 13"),
    "long": (PLAIN + b"3 0 1 2\n", r"header promises 8 \+ 6 lines, found 15"),
    "cut": (PLAIN.rstrip()[:-2], "line 16: a face of 4 corners in 4 numbers, cut short"),
    "many": (PLAIN.replace(b"8 6 0", b"8 99999999999 0"), "header promises 8"),
    "huge": (PLAIN.replace(b"8 6 0", b"8 99999999999999999999 0"), "header promises 8"),
    "negative": (PLAIN.replace(b"8 6 0", b"8 -1 0"), "header promises 8 vertices and -1 faces"),
    "real counts": (PLAIN.replace(b"8 6 0", b"8.0 6.0 0"), "header promises"),
    "index": (PLAIN.replace(b"4 0 1 3 2", b"4 0 1 3 8"), "a face refers to a vertex outside 0 to 7"),
    "negative index": (PLAIN.replace(b"4 0 1 3 2", b"4 0 1 3 -1"), "a face refers to a vertex outside 0 to 7"),
    "half an index": (PLAIN.replace(b"4 0 1 3 2", b"4 0 1 3 0.5"), "line 11: 0.5 is no index"),
    "negative corners": (PLAIN.replace(b"4 0 1 3 2", b"-4 0 1 3 2"), "line 11: a face of -4 corners"),
    "no vertices": (b"OFF\n0 0 0\n", "no faces and no points"),
    "word": (PLAIN.replace(b"0.0 1.0 0.0", b"0.0 x 0.0", 1), "line 5: 'x' is no number"),
    "word in a face": (PLAIN.replace(b"4 0 1 3 2", b"4 0 1 3 x"), "line 11: 'x' is no number"),
    "two numbers": (PLAIN.replace(b"0.0 1.0 0.0", b"0.0 1.0", 1), "line 5: a vertex of 2 numbers, others of 3"),
    "flat": (b"OFF\n3 0 0\n0 0\n1 0\n0 1\n", "line 3: a vertex of 2 numbers instead of 3"),
    "normals missing": (off(head="NOFF\n"), "line 3: a vertex of 3 numbers instead of 6"),
    "colours missing": (off(head="COFF\n"), "line 3: a vertex of 3 numbers instead of 4"),
    "four": (off(np.pad(CUBE, ((0, 0), (0, 1)), constant_values=1), head="4OFF\n"), "a 4OFF file, whose vertices"),
    "n": (off(head="nOFF\n3\n"), "a nOFF file"),
    "4n": (off(head="4nOFF\n3\n"), "a 4nOFF file"),
    "binary": (b"OFF BINARY\n" + bytes(100), "a binary OFF file, export it as text"),
    "binary colours": (b"COFF BINARY\n" + bytes(100), "a binary COFF file"),
    "two corners": (off(faces=[[0, 1]]), "none of its 1 faces has three corners"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, found = BAD[name]
    with pytest.raises(ValueError, match=found):
        read_off(put(tmp_path, "a.off", data))


@pytest.mark.parametrize(
    "data",
    [
        b"OFF\n1 1 0\n0 0 0\n400000 " + b"0 " * 400_000 + b"\n",
        b"OFF\n" * 300_000,
        b"#\n" * 500_000,
        b"\n" * 2_000_000 + b"OFF\n",
        b" " * 2_000_000 + b"x",
        b"OFF\n1 300000 0\n0 0 0\n" + b"0\n" * 300_000,
    ],
)
def test_odd_files_end_soon(tmp_path, data):
    path = put(tmp_path, "a.off", data)
    start = time.process_time()
    with suppress(ValueError):
        read_off(path)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("rounds", [300, pytest.param(3000, marks=pytest.mark.exhaustive)])
def test_damaged_files(tmp_path, rounds):
    wholes = [PLAIN, CUBES["all"], CUBES["face colours of four"], CUBES["no word"], off(COLOURS, [], head="COFF\n")]
    assert 0 < damage_and_read(read_off, tmp_path / "a.off", wholes, rounds) < rounds

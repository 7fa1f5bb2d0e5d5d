"""STL, binary and text, as people's programs write it."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import CUBE, HALVES, binary_stl, damage_and_read, is_cube, text_stl
from pyro_pcflow.data.readers.stl import read_stl

TRIANGLES = CUBE[HALVES]
BINARY, TEXT = binary_stl(TRIANGLES), text_stl(TRIANGLES)


def solids(*parts):
    return b"".join(text_stl(TRIANGLES[begin:end], name) for begin, end, name in parts)


CUBES = {
    "binary": BINARY,
    "binary that begins with solid": binary_stl(TRIANGLES, b"solid cube"),
    "binary that begins with a facet": binary_stl(TRIANGLES, b"solid a\nfacet normal 0 0 1\n outer loop\n"),
    "binary of colours": binary_stl(TRIANGLES, b"COLOR=\xff\x00\x00\xff"),
    "two bytes behind": BINARY + b"\0\0",
    "49 bytes behind": BINARY + b"x" * 49,
    "a block of zeros behind": BINARY + bytes(4096),
    "solid with bytes behind": binary_stl(TRIANGLES, b"solid cube") + b"\r\n",
    "text": TEXT,
    "name": text_stl(TRIANGLES, "cube by hand"),
    "name of endsolid": text_stl(TRIANGLES, "endsolid test"),
    "name of solid": text_stl(TRIANGLES, "solid facet vertex 1 2 3"),
    "capitals": TEXT.upper(),
    "mixed case": TEXT.replace(b"vertex", b"Vertex").replace(b"facet", b"Facet"),
    "no indentation": b"\n".join(line.strip() for line in TEXT.split(b"\n")),
    "tabs": TEXT.replace(b"  ", b"\t").replace(b" ", b"\t"),
    "crlf": TEXT.replace(b"\n", b"\r\n"),
    "cr": TEXT.replace(b"\n", b"\r"),
    "blank lines": b"\n\n" + TEXT.replace(b"\n", b"\n\n"),
    "trailing blanks": TEXT.replace(b"\n", b"  \n"),
    "no newline at the end": TEXT.rstrip(),
    "blanks at the end": TEXT + b"\n \n\n",
    "byte order mark": b"\xef\xbb\xbf" + TEXT,
    "latin-1 name": text_stl(TRIANGLES, "NAME").replace(b"NAME", b"cr\xe9\xe9"),
    "exponents": text_stl(TRIANGLES, number=lambda value: f"{value:.6e}"),
    "capital exponents": text_stl(TRIANGLES, number=lambda value: f"{value:+.3E}"),
    "integers": TEXT.replace(b".0", b""),
    "normals that are none": TEXT.replace(b"normal 0 0 1", b"normal nan -nan(ind) 1.#QNAN"),
    "no normals": TEXT.replace(b"facet normal 0 0 1", b"facet"),
    "two solids": solids((0, 5, "a"), (5, 12, "b")),
    "three solids": solids((0, 1, ""), (1, 11, "endsolid"), (11, 12, "solid")),
    "an empty solid": solids((0, 0, "nothing"), (0, 12, "all"), (3, 3, "")),
    "solids with blank lines": solids((0, 5, "a")) + b"\n\n" + solids((5, 12, "b")),
}


@pytest.mark.parametrize("name", CUBES)
def test_cubes(tmp_path, name):
    found = read_stl(put(tmp_path, "a.stl", CUBES[name]))
    assert is_cube(found)
    assert np.array_equal(found.vertices[found.faces], TRIANGLES)


def test_numbers_are_those_of_the_file(tmp_path):
    corners = np.array([[[1e6, 0.1, -2e-7], [1e6 + 1, 3, 4], [1e6, 1, 0]]])
    found = read_stl(put(tmp_path, "a.stl", text_stl(corners)))
    assert np.array_equal(found.vertices[found.faces], corners)
    found = read_stl(put(tmp_path, "b.stl", binary_stl(corners)))
    assert np.array_equal(found.vertices[found.faces], corners.astype(np.float32))


def test_what_is_not_finite_is_left_to_the_caller(tmp_path):
    corners = TRIANGLES.copy()
    corners[0, 0, 0] = np.inf
    for data in (binary_stl(corners), text_stl(corners)):
        assert np.isinf(read_stl(put(tmp_path, "a.stl", data)).vertices).sum() == 1


def test_a_signalling_nan_is_left_to_the_caller(tmp_path):
    data = BINARY[:96] + struct.pack("<I", 0x7FA00000) + BINARY[100:]
    assert np.isnan(read_stl(put(tmp_path, "a.stl", data)).vertices).sum() == 1


LINES = TEXT.decode().splitlines()
BAD = {
    "empty": (b"", "the file is empty"),
    "short": (bytes(50), "header promises 84 bytes, the file has 50"),
    "words": (b"hello" * 40, "header promises"),
    "count": (binary_stl(TRIANGLES[:1], count=4_000_000_000), "promises 200000000084 bytes, the file has 134"),
    "one more": (binary_stl(TRIANGLES, count=13), "header promises 734 bytes, the file has 684"),
    "one less": (binary_stl(TRIANGLES, count=11), "header promises 634 bytes, the file has 684"),
    "cut": (BINARY[:-1], "header promises 684 bytes, the file has 683"),
    "a binary solid that is cut": (binary_stl(TRIANGLES, b"solid cube")[:-1], "keyword of STL|no final"),
    "no triangles": (bytes(84), "no faces and no points"),
    "no triangles of text": (b"solid\nendsolid\n", "no faces and no points"),
    "only solid": (b"solid\n", "no final 'endsolid' line"),
    "cut text": (TEXT[:-12], "no final 'endsolid' line|keyword"),
    "no endsolid": ("\n".join(LINES[:-1]).encode(), "no final 'endsolid' line"),
    "ends in a triangle": ("\n".join([*LINES[:-2], "endsolid"]).encode(), "'endsolid' within a triangle"),
    "lost line": ("\n".join(LINES[:3] + LINES[4:]).encode(), "line 6: not where a triangle has it"),
    "four vertices": ("\n".join(LINES[:4] + LINES[3:]).encode(), "line 7: not where"),
    "doubled line": ("\n".join(LINES[:2] + LINES[1:]).encode(), "line 3: not where"),
    "solid twice": (b"solid\n" + TEXT, "line 2: 'solid' and 'endsolid' don't alternate"),
    "endsolid twice": (TEXT + b"endsolid\n", "don't alternate"),
    "triangles between solids": (TEXT + "\n".join([*LINES[1:8], ""]).encode() + TEXT, "triangles between two solids"),
    "word": (TEXT.replace(b"vertex 0.0 0.0 0.0", b"vertex x 0.0 0.0", 1), "line 4: 'x' is no number"),
    "two numbers": (TEXT.replace(b"vertex 0.0 0.0 0.0", b"vertex 0.0 0.0", 1), "line 4: a vertex of 2 numbers"),
    "four numbers": (TEXT.replace(b"vertex 0.0 0.0 0.0", b"vertex 0 0 0 0", 1), "line 4: a vertex of 4 numbers"),
    "other word": (TEXT.replace(b"vertex 0.0", b"vortex 0.0", 1), "line 4: 'vortex' stands where a keyword"),
    "word before a vertex": (TEXT.replace(b"vertex 0.0", b"x vertex 0.0", 1), "line 4: 'x' stands where"),
    "longer word": (TEXT.replace(b"endloop", b"endloops", 1), "line 7: 'endloops' stands where"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, found = BAD[name]
    with pytest.raises(ValueError, match=found):
        read_stl(put(tmp_path, "a.stl", data))


@pytest.mark.parametrize(
    "data",
    [
        b"solid\nendsolid\n" * 100_000,
        b"solid " * 500_000,
        b"solid\n" + b"\n" * 2_000_000,
        b" " * 2_000_000,
        b"solid\n" + b"vertex 1 2 3\n" * 200_000 + b"endsolid",
    ],
)
def test_odd_files_end_soon(tmp_path, data):
    path = put(tmp_path, "a.stl", data)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"\w"):
        read_stl(path)
    assert time.process_time() - start < 10


def test_every_count_but_the_right_one_is_refused(tmp_path):
    for count in [0, *range(5, 12), *range(13, 20), 2**31, 2**32 - 1]:
        data = BINARY[:80] + struct.pack("<I", count) + BINARY[84:]
        with pytest.raises(ValueError, match="header promises"):
            read_stl(put(tmp_path, "a.stl", data))


@pytest.mark.parametrize("rounds", [300, pytest.param(3000, marks=pytest.mark.exhaustive)])
def test_damaged_files(tmp_path, rounds):
    wholes = [BINARY, TEXT, CUBES["two solids"], CUBES["exponents"], CUBES["binary that begins with solid"]]
    assert 0 < damage_and_read(read_stl, tmp_path / "a.stl", wholes, rounds) < rounds

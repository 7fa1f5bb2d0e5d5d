"""Bytes of mesh files, put together by hand from the formats' specifications; and damage to them."""

from __future__ import annotations

import base64
import json
import re
import struct
import warnings
import zlib

import numpy as np

from pyro_pcflow.data.shapes import PointTable, Surface

# The unit cube: its corners, and its sides seen from outside.
CUBE = np.array([[x, y, z] for x in (0.0, 1) for y in (0, 1) for z in (0, 1)])
SIDES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
HALVES = [half for a, b, c, d in SIDES for half in ([a, b, c], [a, c, d])]
# Of three quarters of a square: the corner that turns in is the third one.
ELL = np.array([[2.0, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0], [0, 0, 0]])


def area(surface):
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def volume(surface):
    """Of a closed surface seen from outside; negative if it's turned inside out."""
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    return float((np.cross(a, b) * c).sum() / 6)


def is_cube(found, size=1.0):
    """Whether a surface is a cube with one corner at 0, seen from outside."""
    assert isinstance(found, Surface)
    assert found.vertices.dtype == np.float64
    assert found.faces.dtype == np.int64
    used = found.vertices[np.unique(found.faces)]
    assert np.allclose(used.min(0), 0)
    assert np.allclose(used.max(0), size)
    return np.isclose(area(found), 6 * size**2) and np.isclose(volume(found), size**3)


def table_of(found):
    """The columns of a reader's one table."""
    assert isinstance(found, list)
    assert len(found) == 1
    assert isinstance(found[0], PointTable)
    assert found[0].named
    return found[0].columns


def coordinates(found):
    columns = table_of(found)
    return np.stack([columns[axis] for axis in "xyz"], axis=1)


def numbers(rows):
    return "".join(" ".join(map(repr, row)) + "\n" for row in np.asarray(rows).tolist())


def obj(vertices=CUBE, faces=SIDES):
    text = "".join("v " + line + "\n" for line in numbers(vertices).splitlines())
    return (text + "".join("f " + " ".join(str(i + 1) for i in face) + "\n" for face in faces)).encode()


def off(vertices=CUBE, faces=SIDES, head="OFF\n", behind=""):
    rows = "".join(" ".join(map(str, [len(face), *face])) + behind + "\n" for face in faces)
    return f"{head}{len(vertices)} {len(faces)} 0\n{numbers(vertices)}{rows}".encode()


CODES = {
    **dict.fromkeys(["char", "int8"], "b"),
    **dict.fromkeys(["uchar", "uint8"], "B"),
    **dict.fromkeys(["short", "int16"], "h"),
    **dict.fromkeys(["ushort", "uint16"], "H"),
    **dict.fromkeys(["int", "int32"], "i"),
    **dict.fromkeys(["uint", "uint32"], "I"),
    **dict.fromkeys(["int64"], "q"),
    **dict.fromkeys(["uint64"], "Q"),
    **dict.fromkeys(["float", "float32"], "f"),
    **dict.fromkeys(["double", "float64"], "d"),
}
KINDS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}


def ply_head(kind, elements, end="\n"):
    """`elements` are (name, count, ["float x", "list uchar int vertex_indices"])."""
    lines = ["ply", f"format {kind} 1.0"]
    for name, count, properties in elements:
        lines += [f"element {name} {count}", *(f"property {entry}" for entry in properties)]
    return (end.join([*lines, "end_header"]) + end).encode()


def ply_row(kind, properties, row):
    """One row: a value of each property, and a list where it is one."""
    order = KINDS[kind]
    words, data = [], b""
    for entry, value in zip(properties, row, strict=True):
        kinds = entry.split()
        values = [len(value), *value] if kinds[0] == "list" else [value]
        codes = [kinds[1], *[kinds[2]] * len(value)] if kinds[0] == "list" else [kinds[0]]
        words += map(str, values)
        if order:
            data += struct.pack(order + "".join(CODES[code] for code in codes), *values)
    return data if order else (" ".join(words) + "\n").encode()


def ply(kind, elements, end="\n"):
    """`elements` are (name, properties, rows)."""
    head = ply_head(kind, [(name, len(rows), properties) for name, properties, rows in elements], end)
    return head + b"".join(ply_row(kind, properties, row) for _, properties, rows in elements for row in rows)


def mesh_ply(
    kind="ascii", vertices=CUBE, faces=SIDES, number="float", count="uchar", index="int", name="vertex_indices"
):
    whole = number not in ("float", "double", "float32", "float64")
    rows = [[int(v) if whole else v for v in row] for row in np.asarray(vertices).tolist()]
    elements = [("vertex", [f"{number} {axis}" for axis in "xyz"], rows)]
    return ply(kind, [*elements, ("face", [f"list {count} {index} {name}"], [[face] for face in faces])])


def binary_stl(triangles, head=b"by hand", count=None):
    records = [struct.pack("<12fH", 0, 0, 1, *np.ravel(corners), 0) for corners in triangles]
    return head.ljust(80) + struct.pack("<I", len(triangles) if count is None else count) + b"".join(records)


def text_stl(triangles, name="", number=repr):
    text = f"solid {name}\n"
    for corners in np.asarray(triangles).tolist():
        lines = "".join("      vertex " + " ".join(map(number, point)) + "\n" for point in corners)
        text += f"  facet normal 0 0 1\n    outer loop\n{lines}    endloop\n  endfacet\n"
    return (text + f"endsolid {name}\n").encode()


class Gltf:
    """A glTF file that grows: arrays become buffer views and accessors of one buffer."""

    def __init__(self):
        self.blob = b""
        self.header = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "accessors": [],
            "bufferViews": [],
        }

    def view(self, data, **fields):
        self.blob += bytes(-len(self.blob) % 4)
        self.header["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data), **fields}
        )
        self.blob += data
        return len(self.header["bufferViews"]) - 1

    def accessor(self, rows, dtype="<f4", **fields):
        array = np.asarray(rows).astype(dtype)
        kinds = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[array.shape[1] if array.ndim == 2 else 1]
        entry = {"componentType": kinds[array.dtype.str[1:]], "count": len(array), "type": kind}
        if "bufferView" not in fields:
            entry["bufferView"] = self.view(array.tobytes())
        self.header["accessors"].append({**entry, **fields})
        return len(self.header["accessors"]) - 1

    def part(self, vertices, corners=None, mode=None, mesh=0, **fields):
        primitive = {"attributes": {"POSITION": vertices if isinstance(vertices, int) else self.accessor(vertices)}}
        if corners is not None:
            primitive["indices"] = corners if isinstance(corners, int) else self.accessor(corners, "<u2")
        if mode is not None:
            primitive["mode"] = mode
        while len(self.header["meshes"]) <= mesh:
            self.header["meshes"].append({"primitives": []})
        self.header["meshes"][mesh]["primitives"].append({**primitive, **fields})
        return self

    def cube(self, **fields):
        return self.part(CUBE, np.ravel(HALVES), **fields)

    def glb(self):
        self.header.setdefault("buffers", [{"byteLength": len(self.blob)}])
        return pack_glb(json.dumps(self.header).encode(), self.blob)

    def gltf(self, uri=None):
        inline = "data:application/octet-stream;base64," + base64.b64encode(self.blob).decode()
        self.header.setdefault("buffers", [{"byteLength": len(self.blob), "uri": uri or inline}])
        return json.dumps(self.header).encode()


def pack_glb(text, blob):
    text += b" " * (-len(text) % 4)
    blob += bytes(-len(blob) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(blob)) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob


# Damage.

NUMBERS = [b"0", b"-1", b"3", b"255", b"65536", b"2147483647", b"4294967295", b"99999999999999", b"1e400", b"nan", b"x"]


def flip(data, rng):
    data = bytearray(data)
    for _ in range(rng.integers(1, 8)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def truncate(data, rng):
    return data[: rng.integers(len(data))]


def insert(data, rng):
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def splice(data, rng):
    """Copy one part over another place."""
    start, stop = sorted(rng.integers(len(data), size=2))
    at = rng.integers(len(data))
    return data[:at] + data[start:stop] + data[at + rng.integers(0, 40) :]


def splice_lines(data, rng):
    """Leave out, double or exchange lines."""
    lines = data.split(b"\n")
    first, second = rng.integers(len(lines), size=2)
    lines[first : first + rng.integers(3)] = lines[second : second + rng.integers(3)]
    return b"\n".join(lines)


def renumber(data, rng):
    """Replace a number written in text, early ones (a header's) more often."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return flip(data, rng)
    hit = found[int(len(found) * rng.random() ** 3)]
    return data[: hit.start()] + NUMBERS[rng.integers(len(NUMBERS))] + data[hit.end() :]


def rename(data, rng):
    """Put a value of another kind in place of a word or a list of JSON, or a word in place of another."""
    found = list(re.finditer(rb'"\w+"|\[[^\[\]]*\]|\{[^{}]*\}|[A-Za-z_]{2,}', data[:4000]))
    if len(found) < 2:
        return renumber(data, rng)
    hit, other = (found[int(rng.integers(len(found)))] for _ in range(2))
    values = [other[0], b"null", b"[]", b"{}", b"-3", b"0.5", b'"x"', b"true", b"[[0]]", b"1" * 400]
    return data[: hit.start()] + values[rng.integers(len(values))] + data[hit.end() :]


def saturate(data, rng):
    """Write an extreme 32-bit number somewhere in the first hundred bytes, where binary headers count."""
    at = int(rng.integers(min(len(data), 100)))
    value = [0, 1, 2**31 - 1, 2**32 - 1, 2**24][rng.integers(5)]
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


MUTATIONS = [flip, truncate, insert, splice, splice_lines, renumber, rename, saturate]


def damage_and_read(read, path, wholes, rounds):
    """Read damaged files: each is a shape, or a `ValueError` of one line, and nothing else.

    Returns:
        How many were shapes.
    """
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    shapes = 0
    for number in range(rounds):
        data = wholes[number % len(wholes)]
        for _ in range(rng.integers(1, 3)):
            data = MUTATIONS[rng.integers(len(MUTATIONS))](data or b"x", rng)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = read(path)
        except ValueError:
            continue
        shapes += 1
        if isinstance(found, Surface):
            assert found.faces.shape[1:] == (3,)
            assert found.vertices.shape[1:] == (3,)
            assert found.faces.min() >= 0
            assert found.faces.max() < len(found.vertices)
        else:
            assert len({len(column) for column in table_of(found).values()}) == 1
    return shapes

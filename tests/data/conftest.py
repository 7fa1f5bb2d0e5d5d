"""Writers of every format, by hand: an exporter of the library under the readers would share its mistakes."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable

import numpy as np
import pytest

Writer = Callable[[np.ndarray, np.ndarray], bytes]


def lines(rows, fmt="{}"):
    return "".join(" ".join(fmt.format(value) for value in row) + "\n" for row in rows.tolist())


def obj(vertices, faces):
    rows = ["v " + line for line in lines(vertices, "{!r}").splitlines()]
    rows += [f"f {a}/{a}/1 {b}/{b}/1 {c}/{c}/1" for a, b, c in faces + 1]
    return ("mtllib nowhere.mtl\nvt 0 0\nvn 0 0 1\n" + "\n".join(rows) + "\n").encode()


def off(vertices, faces, head="OFF\n"):
    counts = f"{len(vertices)} {len(faces)} 0\n"
    return (head + counts + lines(vertices, "{!r}") + lines(np.insert(faces, 0, 3, axis=1))).encode()


def glued_off(vertices, faces):
    return off(vertices, faces, head="OFF")


def ply_head(kind, num_vertices, num_faces, number):
    head = f"ply\nformat {kind} 1.0\ncomment by hand\nelement vertex {num_vertices}\n"
    head += "".join(f"property {number} {axis}\n" for axis in "xyz")
    if num_faces is not None:
        head += f"element face {num_faces}\nproperty list uchar int vertex_indices\n"
    return (head + "end_header\n").encode()


def text_ply(vertices, faces):
    body = lines(vertices, "{!r}") + lines(np.insert(faces, 0, 3, axis=1))
    return ply_head("ascii", len(vertices), len(faces), "double") + body.encode()


def binary_ply(vertices, faces):
    body = vertices.astype("<f4").tobytes()
    body += b"".join(struct.pack("<Biii", 3, *face) for face in faces)
    return ply_head("binary_little_endian", len(vertices), len(faces), "float") + body


def cloud_ply(vertices, faces):
    return ply_head("binary_big_endian", len(vertices), None, "double") + vertices.astype(">f8").tobytes()


def binary_stl(vertices, faces):
    records = [struct.pack("<12fH", 0, 0, 1, *vertices[face].ravel(), 0) for face in faces]
    return b"by hand".ljust(80) + struct.pack("<I", len(faces)) + b"".join(records)


def text_stl(vertices, faces):
    def facet(corners):
        inner = "".join(f"vertex {x!r} {y!r} {z!r}\n" for x, y, z in corners.tolist())
        return f"facet normal 0 0 1\nouter loop\n{inner}endloop\nendfacet\n"

    return ("solid by hand\n" + "".join(facet(vertices[face]) for face in faces) + "endsolid\n").encode()


def pack_glb(header, blob):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(blob)
    head = struct.pack("<4sII", b"glTF", 2, size) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob


def glb_header(vertices, faces):
    points, corners = vertices.astype("<f4"), faces.astype("<u4")
    views = [
        {"buffer": 0, "byteOffset": 0, "byteLength": points.nbytes},
        {"buffer": 0, "byteOffset": points.nbytes, "byteLength": corners.nbytes},
    ]
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"},
        {"bufferView": 1, "componentType": 5125, "count": corners.size, "type": "SCALAR"},
    ]
    header = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": points.nbytes + corners.nbytes}],
        "bufferViews": views,
        "accessors": accessors,
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }
    return header, points.tobytes() + corners.tobytes()


def glb(vertices, faces):
    return pack_glb(*glb_header(vertices, faces))


def npy(vertices, faces):
    stream = io.BytesIO()
    np.save(stream, vertices)
    return stream.getvalue()


def npz(vertices, faces):
    stream = io.BytesIO()
    np.savez_compressed(stream, points=vertices, unrelated=np.arange(3))
    return stream.getvalue()


def table(vertices, faces):
    return ("# by hand\n" + lines(vertices, "{!r}")).encode()


def comma_table(vertices, faces):
    return ("x,y,z\n" + lines(vertices, "{!r}").replace(" ", ", ")).encode()


MESHES: dict[str, Writer] = {
    "a.obj": obj,
    "a.off": off,
    "glued.off": glued_off,
    "text.ply": text_ply,
    "binary.PLY": binary_ply,
    "text.stl": text_stl,
    "binary.stl": binary_stl,
    "a.glb": glb,
}
CLOUDS: dict[str, Writer] = {
    "cloud.ply": cloud_ply,
    "a.xyz": table,
    "a.txt": table,
    "a.csv": comma_table,
    "a.npy": npy,
    "a.npz": npz,
}


@pytest.fixture(params=MESHES)
def mesh_format(request):
    """Name of a mesh file, and its writer."""
    return request.param, MESHES[request.param]


@pytest.fixture(params=CLOUDS)
def cloud_format(request):
    """Name of a cloud file, and its writer."""
    return request.param, CLOUDS[request.param]


@pytest.fixture(params=[*MESHES, *CLOUDS])
def any_format(request):
    """Name of any file, and its writer."""
    return request.param, (MESHES | CLOUDS)[request.param]


@pytest.fixture
def writers():
    """Every writer, by the name of a file of its format."""
    return MESHES | CLOUDS


@pytest.fixture
def corner():
    """A tetrahedron with faces of area 1, 1.5, 3 and 3.5, in the planes z, y, x = 0 and 6x + 3y + 2z = 6."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    return vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


@pytest.fixture
def glb_parts():
    """The JSON and the buffer of a GLB, and the function that packs them."""
    return glb_header, pack_glb

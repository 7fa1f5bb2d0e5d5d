"""Checks of a mesh file's header against the bytes of the file.

The parsers trust their headers: a wrong count costs gigabytes, or quietly shortens a shape.
Each guard raises `ValueError` with what it found; anything else that it trips over is as good.
"""

from __future__ import annotations

import json
import re
from math import prod
from typing import Any
from urllib.parse import urlsplit

_PLY_SIZES = {
    **dict.fromkeys(["char", "uchar", "int8", "uint8"], 1),
    **dict.fromkeys(["short", "ushort", "int16", "uint16", "float16"], 2),
    **dict.fromkeys(["int", "uint", "int32", "uint32", "float", "float32"], 4),
    **dict.fromkeys(["int64", "uint64", "double", "float64"], 8),
}
_GLB_SIZES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_GLB_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
# Honest files share one buffer among many accessors; a bomb does so without end.
_GLB_SHARING = 16
_GLB_FREE_BYTES = 1 << 26
# The parser cuts a face into triangles one by one, and joins parts of a scene one by one.
_MOST_CORNERS = 10_000
_GLB_MOST_PARTS = 100_000
_PLY_MOST_LINES = 1000


def check_obj(text: str) -> str:
    """Refuse face indices that are relative to a moving end of the vertex list, and huge faces; leave out groups.

    Args:
        text: the whole file.

    Returns:
        The text without lines that name groups and materials, for each of which the parser would look through it all.

    Raises:
        ValueError: the parser would count such indices from the end of the file, or not come to an end.

    Examples:
        >>> check_obj("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nusemtl red\\nf -3 -2 -1")
        'v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nf -3 -2 -1'
    """
    relative = re.search(r"^f[^\n]*[ /]-\d", text, re.MULTILINE)
    if relative and re.search(r"^v ", text[relative.start() :], re.MULTILINE):
        raise ValueError("negative face indices between vertex blocks, export absolute ones")
    for line in re.finditer(rf"^f .{{{2 * _MOST_CORNERS},}}$", text, re.MULTILINE):
        _check_corners(len(line[0].split()) - 1)
    return re.sub(r"^(?:usemtl|mtllib|[ogs])(?: .*)?\n", "", text, flags=re.MULTILINE)


def check_off(text: str) -> None:
    """Compare the counts of an OFF header with the lines that follow.

    Args:
        text: the whole file.

    Raises:
        ValueError: no header, or fewer lines than it promises.

    Examples:
        >>> check_off("OFF3 1 0\\n0 0 0\\n1 0 0\\n0 1 0\\n3 0 1 2")
    """
    lines = [line for raw in text.splitlines() if (line := raw.split("#", 1)[0].strip())]
    head = re.match(r"(?:ST|C|N)*OFF\s*(.*)", lines[0]) if lines else None
    if head is None:
        raise ValueError("no OFF header")
    counts, rows = (head[1], lines[1:]) if head[1] else (lines[1], lines[2:])
    num_vertices, num_faces = (int(word) for word in counts.split()[:2])
    if min(num_vertices, num_faces) < 0 or num_vertices + num_faces > len(rows):
        raise ValueError(f"header promises {num_vertices} + {num_faces} lines, found {len(rows)}")
    for row in rows[num_vertices : num_vertices + num_faces]:
        words = row.split()
        if int(words[0]) > len(words) - 1:
            raise ValueError(f"face line '{row[:60]}' is cut short")
        _check_corners(int(words[0]))


def _check_corners(count: int) -> None:
    if count > _MOST_CORNERS:
        raise ValueError(f"a face of {count} corners, export triangles")


def check_stl(data: bytes) -> None:
    """Compare a binary STL's triangle count with its size; see that a text one is complete.

    Args:
        data: the whole file.

    Raises:
        ValueError: neither a whole binary file nor a whole text file.

    Examples:
        >>> check_stl(bytes(84))
    """
    promised = 84 + 50 * int.from_bytes(data[80:84], "little")
    if len(data) >= 84 and promised == len(data):
        return
    if not data.lstrip()[:5].lower() == b"solid":
        raise ValueError(f"header promises {promised} bytes, the file has {len(data)}")
    if not data.rstrip().rpartition(b"\n")[2].lstrip().lower().startswith(b"endsolid"):
        raise ValueError("no final 'endsolid' line")


def check_ply(data: bytes) -> int:
    """Compare the element counts of a PLY header with the bytes that follow.

    Args:
        data: the whole file.

    Returns:
        The number of faces that the header promises.

    Raises:
        ValueError: no header, or less data than it promises.

    Examples:
        >>> check_ply(b"ply\\nformat ascii 1.0\\nelement vertex 1\\nproperty float x\\nend_header\\n5\\n")
        0
    """
    raw_head, end, body = data.partition(b"end_header")
    if not end or not raw_head.startswith(b"ply"):
        raise ValueError("no PLY header")
    counts: dict[str, int] = {}
    widths: dict[str, int] = {}
    element = ""
    if raw_head.count(b"\n") > _PLY_MOST_LINES:
        raise ValueError(f"a header of more than {_PLY_MOST_LINES} lines")
    for words in (line.split() for line in raw_head.decode().splitlines()):
        if words and words[0] == "element":
            element = words[1]
            if element in counts:
                raise ValueError(f"element {element} is declared twice")
            counts[element], widths[element] = int(words[2]), 0
        elif words and words[0] == "property":
            widths[element] += _PLY_SIZES[words[2] if words[1] == "list" else words[1]]
    if any(count < 0 for count in counts.values()):
        raise ValueError("header promises a negative number of elements")
    if re.search(rb"^format\s+ascii", raw_head, re.MULTILINE):
        needed, there, unit = sum(counts.values()), len(body.strip().splitlines()), "lines"
    else:
        needed = sum(count * max(widths[name], 1) for name, count in counts.items())
        there, unit = len(body), "bytes"
    if needed > there:
        raise ValueError(f"header promises {needed} {unit} or more, found {there}")
    return max(counts.get("face", 0), counts.get("tristrips", 0))


def check_glb(data: bytes) -> None:
    """Check the chunks of a GLB and the buffers that its JSON describes.

    Args:
        data: the whole file.

    Raises:
        ValueError: chunks or accessors larger than the file, compressed geometry, or geometry in
            other files.

    Examples:
        >>> check_glb(b"glTF")
        Traceback (most recent call last):
        ValueError: no GLB header
    """
    if data[:4] != b"glTF" or data[16:20] != b"JSON":
        raise ValueError("no GLB header")
    if (length := int.from_bytes(data[8:12], "little")) != len(data):
        raise ValueError(f"header promises {length} bytes, the file has {len(data)}")
    start = 12
    while start < len(data):
        start += 8 + int.from_bytes(data[start : start + 4], "little")
    if start != len(data):
        raise ValueError("chunks don't fill the file")
    header = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    parts = sum(len(header.get(kind, [])) for kind in ("nodes", "meshes", "scenes"))
    parts += sum(len(mesh["primitives"]) for mesh in header.get("meshes", []))
    if parts > _GLB_MOST_PARTS:
        raise ValueError(f"a scene of {parts} nodes and meshes, join them")
    _check_glb_buffers(header)
    _check_glb_accessors(header, max(_GLB_FREE_BYTES, _GLB_SHARING * len(data)))


def _check_glb_buffers(header: dict[str, Any]) -> None:
    for buffer in header.get("buffers", []):
        uri = buffer.get("uri")
        if uri is not None and urlsplit(uri).scheme != "data":
            raise ValueError(f"geometry lies in another file, '{uri[:80]}'")
    for primitive in (p for mesh in header.get("meshes", []) for p in mesh["primitives"]):
        packed = {"KHR_draco_mesh_compression"} & set(primitive.get("extensions", {}))
        shape = [primitive["attributes"].get("POSITION"), primitive.get("indices")]
        used = [header["accessors"][index] for index in shape if index is not None]
        if packed or any("bufferView" not in a or "sparse" in a for a in used):
            raise ValueError("compressed or sparse geometry, export it plain")


def _check_glb_accessors(header: dict[str, Any], limit: int) -> None:
    views = header.get("bufferViews", [])
    sizes = [_whole(view["byteLength"]) for view in views]
    for accessor in header.get("accessors", []):
        width = prod([_GLB_COLUMNS[accessor["type"]], _GLB_SIZES[accessor["componentType"]]])
        size = _whole(accessor["count"]) * width
        sizes.append(size)
        if "bufferView" in accessor:
            view = views[_whole(accessor["bufferView"])]
            stride = _whole(view.get("byteStride", width))
            end = _whole(accessor.get("byteOffset", 0)) + stride * (accessor["count"] - 1) + width
            if stride < 1 or (accessor["count"] and end > view["byteLength"]):
                raise ValueError("an accessor reaches past its buffer view")
    if sum(sizes) > limit:
        raise ValueError(f"accessors promise {sum(sizes)} bytes in a smaller file")


def _whole(value: Any) -> int:
    # bool is an int, and a huge float would pass for a size.
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r} stands where a size belongs")
    return value

"""PLY: surfaces of polygons or of strips, and points with all their properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.ply_header import Header, read_header
from pyro_pcflow.data.readers.ply_rows import Lists, read_rows
from pyro_pcflow.data.readers.polygons import cut_strips, triangulate
from pyro_pcflow.data.shapes import PointTable, Shape, Surface

__all__ = ["read_ply"]

_CORNERS = ("vertex_indices", "vertex_index")


def read_ply(path: Path) -> Shape:
    """Read a PLY file, text or binary.

    Lists of vertices and elements other than vertices, faces and strips (edges, materials) are left out. Behind binary
    data, up to 16 bytes of padding are; anything else there means that the header is wrong.

    Args:
        path: the file.

    Returns:
        A surface where the file has faces or strips of triangles; and else one table of its vertices, with all of their
        properties under the names and types of the file.

    Raises:
        ValueError: damaged, or no vertices with x, y and z.
    """
    data = path.read_bytes()
    header = read_header(data)
    vertex = header.element("vertex")
    if vertex is None:
        raise ValueError("no element 'vertex', only " + (", ".join(e.name for e in header.elements)[:80] or "nothing"))
    if vertex.count == 0:
        raise ValueError("no faces and no points")
    axes = _axes([entry.name for entry in vertex.properties if entry.count_type is None])
    rows = read_rows(data, header)
    columns = {name: column for name, column in rows["vertex"].items() if not isinstance(column, Lists)}
    names = [name for name in ("face", "tristrips") if _count(header, name)]
    if not names:
        return [PointTable(columns)]
    # A signalling NaN warns where it's cast; it is refused later on as any other.
    with np.errstate(invalid="ignore"):
        vertices = np.stack([columns[axis].astype(np.float64) for axis in axes], axis=1)
        faces = np.concatenate([_faces(name, rows[name], vertices) for name in names])
    if not len(faces):
        raise ValueError(f"none of its {sum(_count(header, name) for name in names)} faces has three corners")
    return Surface(vertices, faces)


def _axes(names: list[str]) -> tuple[str, ...]:
    for axes in (("x", "y", "z"), ("X", "Y", "Z")):
        if {*axes} <= {*names}:
            return axes
    raise ValueError(f"vertices without x, y and z, only with {', '.join(names)[:80] or 'nothing'}")


def _count(header: Header, name: str) -> int:
    element = header.element(name)
    return 0 if element is None else element.count


def _faces(name: str, rows: dict[str, NDArray[Any] | Lists], vertices: NDArray[np.float64]) -> NDArray[np.int64]:
    corners = next((found for key in _CORNERS if isinstance(found := rows.get(key), Lists)), None)
    if corners is None:
        raise ValueError(f"element {name} without a list 'vertex_indices', only with {', '.join(rows)[:80]}")
    indices = _whole(corners.values)
    if name == "face":
        return triangulate(corners.counts, indices, vertices)
    if len(indices) and (indices.min() < -1 or indices.max() >= len(vertices)):
        raise ValueError(f"a strip refers to a vertex outside 0 to {len(vertices) - 1}")
    # Each list is a strip of its own.
    return cut_strips(np.insert(indices, np.cumsum(corners.counts), -1))


def _whole(indices: NDArray[Any]) -> NDArray[np.int64]:
    if indices.dtype.kind == "f" and not (np.abs(indices) < 2**53).all():
        raise ValueError("faces refer to vertices by numbers that are not whole")
    whole = indices.astype(np.int64)
    if not (whole == indices).all():
        raise ValueError("faces refer to vertices by numbers that are not whole, or huge")
    return whole

"""Mesh formats, read by trimesh into one surface or one cloud."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyro_pcflow.data.guards import check_glb, check_obj, check_off, check_ply, check_stl
from pyro_pcflow.data.sampling import CloudArray, Surface

# A scene that repeats a large mesh many times can outgrow any memory from a small file.
_MAX_FACES = 50_000_000
# Between two solids of a text STL, which the parser would set up one by one as parts of a scene.
_SOLIDS = re.compile(r"^[^\S\n]*endsolid.*\n(?:[^\S\n]*\n)*[^\S\n]*solid.*\n", re.MULTILINE | re.IGNORECASE)


def read_mesh(path: Path) -> Surface | CloudArray:
    """Read an obj, off, ply, stl or glb file.

    Args:
        path: the file; its ending says the format.

    Returns:
        The surface; or a `CloudArray` of one cloud (1, N, 3) where the file has points and no faces.

    Raises:
        Exception: anything that the parser raises on a damaged file, and `ValueError` of our guards.
    """
    kind = path.suffix.lower()[1:]
    stream, promised_faces = _open_checked(path.read_bytes(), kind)
    scene = _parse(stream, kind)
    surface = _join_surfaces(scene)
    if surface is not None:
        return surface
    if promised_faces:
        raise ValueError(f"none of its {promised_faces} faces could be read")
    return _join_points(scene)


def _open_checked(data: bytes, kind: str) -> tuple[io.BytesIO | io.StringIO, int]:
    if not data:
        raise ValueError("the file is empty")
    if kind == "glb":
        check_glb(data)
        return io.BytesIO(data), 0
    if kind == "ply":
        return io.BytesIO(data), check_ply(data)
    if kind == "stl":
        check_stl(data)
        # trimesh guesses a text encoding from the first bytes, and guesses wrong at times.
        binary = 84 + 50 * int.from_bytes(data[80:84], "little") == len(data)
        return io.BytesIO(data if binary else _SOLIDS.sub("", decode(data)).encode()), 0
    # The parser knows spaces only.
    text = decode(data).replace("\t", " ")
    if kind == "obj":
        return io.StringIO(check_obj(text)), 0
    check_off(text)
    return io.StringIO(text), 0


def decode(data: bytes) -> str:
    """Decode text that is UTF-8, or else an older one-byte encoding: numbers read the same in all.

    Args:
        data: the bytes.

    Returns:
        The text, without a byte order mark.

    Examples:
        >>> decode(b"\\xef\\xbb\\xbf1 2"), decode(b"\\xe9")
        ('1 2', 'é')
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _parse(stream: io.BytesIO | io.StringIO, kind: str) -> Any:
    import trimesh

    with _silent_log("trimesh"):
        # No resolver and a stream without a name: nothing outside the file can be opened.
        return trimesh.load(stream, file_type=kind, force="scene", process=False, skip_materials=True)


@contextmanager
def _silent_log(name: str) -> Iterator[None]:
    def refuse(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger(name)
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


def _placed(scene: Any, kind: type) -> list[tuple[Any, np.ndarray]]:
    nodes = [scene.graph[node] for node in scene.graph.nodes_geometry]
    return [(scene.geometry[name], matrix) for matrix, name in nodes if isinstance(scene.geometry[name], kind)]


def _join_surfaces(scene: Any) -> Surface | None:
    import trimesh

    parts = [(part, matrix) for part, matrix in _placed(scene, trimesh.Trimesh) if len(part.faces)]
    if not parts:
        return None
    if sum(len(part.faces) for part, _ in parts) > _MAX_FACES:
        raise ValueError(f"more than {_MAX_FACES} faces once its parts are put in place")
    vertices, faces, start = [], [], 0
    for part, matrix in parts:
        corners = np.asarray(part.faces)
        if corners.min() < 0 or corners.max() >= len(part.vertices):
            raise ValueError(f"a face refers to a vertex outside 0 to {len(part.vertices) - 1}")
        vertices.append(_place(part.vertices, matrix))
        faces.append(corners + start)
        start += len(part.vertices)
    return Surface(np.concatenate(vertices), np.concatenate(faces))


def _join_points(scene: Any) -> CloudArray:
    import trimesh

    parts = _placed(scene, trimesh.PointCloud)
    if sum(len(part.vertices) for part, _ in parts) == 0:
        raise ValueError("no faces and no points")
    return CloudArray(np.concatenate([_place(part.vertices, matrix) for part, matrix in parts])[None])


def _place(vertices: Any, matrix: np.ndarray) -> np.ndarray:
    points = np.asarray(vertices, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"vertices of shape {points.shape} instead of (V, 3)")
    if np.array_equal(matrix, np.eye(4)):
        return points
    return points @ matrix[:3, :3].T + matrix[:3, 3]

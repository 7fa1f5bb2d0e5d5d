"""glTF, binary or text: the triangles or points of a scene, each part where its node places it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.gltf_arrays import Accessors
from pyro_pcflow.data.readers.gltf_file import GltfFile, entries
from pyro_pcflow.data.readers.gltf_scene import PlacedMesh, place_meshes
from pyro_pcflow.data.readers.polygons import cut_strips
from pyro_pcflow.data.shapes import PointTable, Shape, Surface
from pyro_pcflow.ops.reading import shortened

__all__ = ["read_glb"]

# A scene that repeats a large mesh many times can outgrow any memory from a small file.
_MAX_FACES = 50_000_000
_MOST_PARTS = 100_000
_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6
_LINES = (1, 2, 3)
_DRACO = "KHR_draco_mesh_compression"


@dataclass(frozen=True)
class _Part:
    """Vertices (V, 3) that are used, and triangles of them (F, 3), or none if they are points."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64] | None


def read_glb(path: Path) -> Shape:
    """Read a glTF 2.0 file, .glb or .gltf; buffers may lie within it or in files beside it.

    It is the default scene that is read, in its pose of rest: nodes, instances, skins and weights of morph targets are
    applied, animations are not. Lines are left out.

    Args:
        path: the file.

    Returns:
        A surface where the scene has triangles; a table of x, y, z where it has points.

    Raises:
        ValueError: damaged, compressed, or both of triangles and of points.
    """
    file = GltfFile(path)
    accessors = Accessors(file)
    with np.errstate(all="ignore"):
        return _join(_placed_parts(file.header, accessors))


def _placed_parts(header: dict[str, Any], accessors: Accessors) -> list[_Part]:
    parts: list[_Part] = []
    cache: dict[int, _Part] = {}
    for placed, primitive in _primitives(header, accessors):
        weights = _weights(placed)
        if placed.joints is None and weights is None:
            # The entry lives as long as the header, so that its id is its own.
            part = cache.get(id(primitive)) or _read_part(primitive, accessors, None, None)
            cache[id(primitive)] = part
        else:
            part = _read_part(primitive, accessors, placed.joints, weights)
        parts.append(_put(part, placed.matrices))
    return parts


def _primitives(header: dict[str, Any], accessors: Accessors) -> list[tuple[PlacedMesh, dict[str, Any]]]:
    """The parts of all meshes but lines, if all of them together are not too large."""
    found = []
    corners = 0
    for placed in place_meshes(header, accessors):
        for primitive in entries(placed.mesh, "primitives"):
            if primitive.get("mode", _TRIANGLES) in _LINES:
                continue
            found.append((placed, primitive))
            if len(found) > _MOST_PARTS:
                raise ValueError(f"a scene of more than {_MOST_PARTS} parts, join them")
            corners += len(placed.matrices) * _num_corners(primitive, accessors)
            if corners > 3 * _MAX_FACES:
                raise ValueError(f"more than {_MAX_FACES} faces once its parts are put in place")
    return found


def _num_corners(primitive: dict[str, Any], accessors: Accessors) -> int:
    """How many corners, or points, a primitive has at most."""
    attributes = _attributes(primitive)
    count = accessors.count(primitive["indices"] if "indices" in primitive else attributes["POSITION"])
    return count if primitive.get("mode", _TRIANGLES) in (_POINTS, _TRIANGLES) else 3 * count


def _attributes(primitive: dict[str, Any]) -> dict[str, Any]:
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict) or "POSITION" not in attributes:
        raise ValueError("a part of a mesh without positions")
    return attributes


def _weights(placed: PlacedMesh) -> list[float] | None:
    found = placed.node.get("weights", placed.mesh.get("weights"))
    if found is None:
        return None
    if not isinstance(found, list) or any(type(value) not in (int, float) for value in found):
        raise ValueError(f"{shortened(found)} stands where weights of morph targets belong")
    try:
        return [float(value) for value in found] if any(found) else None
    except OverflowError:
        raise ValueError("a huge weight of a morph target") from None


def _read_part(
    primitive: dict[str, Any],
    accessors: Accessors,
    joints: NDArray[np.float64] | None,
    weights: list[float] | None,
) -> _Part:
    attributes = _attributes(primitive)
    _check_compression(primitive, accessors)
    positions = accessors.floats(attributes["POSITION"], "VEC3")
    if "indices" in primitive:
        corners = accessors.indices(primitive["indices"])
        if len(corners) and corners.max() >= len(positions):
            raise ValueError(f"a face refers to a vertex outside 0 to {len(positions) - 1}")
        # One array of positions may serve thousands of parts, each of which uses a few.
        used, corners = np.unique(corners, return_inverse=True)
        corners = corners.reshape(-1)
    else:
        used = corners = np.arange(len(positions))
    vertices = positions[used]
    for target, weight in zip(entries(primitive, "targets"), weights or [], strict=False):
        if weight and "POSITION" in target:
            vertices = vertices + weight * _rows(accessors.floats(target["POSITION"], "VEC3"), used)
    if joints is not None:
        vertices = _bend(vertices, used, attributes, accessors, joints)
    return _Part(vertices, _triangles(corners, primitive.get("mode", _TRIANGLES)))


def _check_compression(primitive: dict[str, Any], accessors: Accessors) -> None:
    extensions = primitive.get("extensions", {})
    if not isinstance(extensions, dict) or _DRACO not in extensions:
        return
    # A file that doesn't require the extension has the same geometry plain.
    used = [_attributes(primitive)["POSITION"], *([primitive["indices"]] if "indices" in primitive else [])]
    if not all(accessors.has_data(index) for index in used):
        raise ValueError(f"geometry compressed by {_DRACO}, which isn't read; export it without")


def _triangles(corners: NDArray[np.int64], mode: Any) -> NDArray[np.int64] | None:
    if mode == _POINTS:
        return None
    if mode == _TRIANGLES:
        if len(corners) % 3:
            raise ValueError(f"{len(corners)} corners of triangles, no multiple of three")
        return corners.reshape(-1, 3)
    if mode == _STRIP:
        return cut_strips(corners)
    if mode == _FAN:
        hub = np.full(max(len(corners) - 2, 0), corners[0] if len(corners) else 0)
        return np.stack([hub, corners[1:-1], corners[2:]], axis=1) if len(hub) else np.empty((0, 3), np.int64)
    raise ValueError(f"parts of mode {shortened(mode)}")


def _rows(values: NDArray[Any], used: NDArray[np.int64]) -> NDArray[Any]:
    if len(used) and used.max() >= len(values):
        raise ValueError("an attribute with fewer values than there are positions")
    return values[used]


def _bend(
    vertices: NDArray[np.float64],
    used: NDArray[np.int64],
    attributes: dict[str, Any],
    accessors: Accessors,
    joints: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Carry each vertex where its joints do, by their weights."""
    bent, total = np.zeros_like(vertices), np.zeros((len(vertices), 1))
    number = 0
    while f"JOINTS_{number}" in attributes:
        own = _rows(accessors.joints(attributes[f"JOINTS_{number}"]), used)
        weights = _rows(accessors.floats(attributes.get(f"WEIGHTS_{number}"), "VEC4"), used)
        for joint, weight in zip(own.T, weights.T[:, :, None], strict=True):
            if len(joint) and joint.max() >= len(joints):
                raise ValueError(f"a vertex that hangs on joint {joint.max()} of {len(joints)}")
            matrices = joints[joint]
            bent += weight * (np.einsum("vij,vj->vi", matrices[:, :3, :3], vertices) + matrices[:, :3, 3])
            total += weight
        number += 1
    if not (total > 0).all():
        raise ValueError("a skin with vertices that hang on no joint")
    return bent / total


def _put(part: _Part, matrices: NDArray[np.float64]) -> _Part:
    """A part at all of its places; a mirror turns its triangles round, and the order of corners back."""
    if np.array_equal(matrices, np.eye(4)[None]):
        return part
    turned = np.einsum("iab,vb->iva", matrices[:, :3, :3], part.vertices) + matrices[:, None, :3, 3]
    vertices = turned.reshape(-1, 3)
    if part.faces is None:
        return _Part(vertices, None)
    starts = np.arange(len(matrices))[:, None, None] * len(part.vertices)
    mirrored = np.linalg.det(matrices[:, :3, :3])[:, None, None] < 0
    return _Part(vertices, (np.where(mirrored, part.faces[:, ::-1], part.faces) + starts).reshape(-1, 3))


def _join(parts: list[_Part]) -> Shape:
    faces = [part.faces for part in parts if part.faces is not None]
    if sum(map(len, faces)) == 0:
        points = [part.vertices for part in parts if part.faces is None]
        if sum(map(len, points)) == 0:
            raise ValueError("no faces and no points")
        return [PointTable(dict(zip("xyz", np.concatenate(points).T.copy(), strict=True)))]
    if len(faces) < len(parts):
        raise ValueError("a scene of triangles and of points, export one of them alone")
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Surface(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([own + start for own, start in zip(faces, starts, strict=True)]),
    )

"""The scene of a glTF file: which meshes it places, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.gltf_arrays import Accessors
from pyro_pcflow.data.readers.gltf_file import entries, numbers, pick, whole
from pyro_pcflow.ops.reading import shortened

__all__ = ["PlacedMesh", "place_meshes"]

# Nodes are gone through one by one.
_MOST_NODES = 100_000
_INSTANCING = "EXT_mesh_gpu_instancing"
_PLACING = {"matrix", "translation", "rotation", "scale"}
_UNIT = np.eye(4).ravel().tolist()


@dataclass(frozen=True)
class PlacedMesh:
    """A mesh of the file, and how it is placed.

    Attributes:
        mesh: its entry in the JSON.
        node: the entry of its node.
        matrices: (I, 4, 4), one for each of its instances.
        joints: (J, 4, 4), where each joint carries a vertex that hangs on it, if the mesh is a skin.
    """

    mesh: dict[str, Any]
    node: dict[str, Any]
    matrices: NDArray[np.float64]
    joints: NDArray[np.float64] | None = None


def place_meshes(header: dict[str, Any], accessors: Accessors) -> Iterator[PlacedMesh]:
    """Go through the nodes of a file's default scene, or of its first one.

    Args:
        header: the JSON of the file.
        accessors: its arrays.

    Yields:
        The meshes, in the order of their nodes in the scene.

    Raises:
        ValueError: a node that hangs on two others or on itself, or a transform that is none.
    """
    nodes = entries(header, "nodes")
    if len(nodes) > _MOST_NODES:
        raise ValueError(f"a scene of {len(nodes)} nodes, join them")
    places = _places(nodes, _roots(header, nodes))
    for index, matrix in places.items():
        node = nodes[index]
        if "mesh" not in node:
            continue
        mesh = pick(header, "meshes", node["mesh"])
        if "skin" in node:
            # A skin is where its joints are, wherever its own node is.
            yield PlacedMesh(mesh, node, np.eye(4)[None], _joints(header, accessors, node["skin"], places))
        else:
            yield PlacedMesh(mesh, node, matrix @ _instances(node, accessors))


def _indices(owner: dict[str, Any], key: str, count: int) -> list[int]:
    found = owner.get(key, [])
    if not isinstance(found, list):
        raise ValueError(f"{shortened(found)} stands where a list of nodes belongs")
    for index in found:
        if whole(index) >= count:
            raise ValueError(f"node {index} is asked for, and there are {count}")
    return found


def _roots(header: dict[str, Any], nodes: list[dict[str, Any]]) -> list[int]:
    if entries(header, "scenes"):
        return _indices(pick(header, "scenes", header.get("scene", 0)), "nodes", len(nodes))
    children = {child for node in nodes for child in _indices(node, "children", len(nodes))}
    return [index for index in range(len(nodes)) if index not in children]


def _places(nodes: list[dict[str, Any]], roots: list[int]) -> dict[int, NDArray[np.float64]]:
    """The matrix of each node that is reached, in the scene."""
    places: dict[int, NDArray[np.float64]] = {}
    pending = [(index, np.eye(4)) for index in reversed(roots)]
    while pending:
        index, above = pending.pop()
        if index in places:
            raise ValueError(f"node {index} hangs on two others, or on itself")
        places[index] = above @ _matrix(nodes[index]) if _PLACING & nodes[index].keys() else above
        children = _indices(nodes[index], "children", len(nodes))
        pending += [(child, places[index]) for child in reversed(children)]
        if len(pending) > _MOST_NODES:
            raise ValueError("nodes that hang on several others")
    return places


def _matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        matrix = np.array(numbers(node, "matrix", _UNIT)).reshape(4, 4).T
        if not np.array_equal(matrix[3], [0, 0, 0, 1]):
            raise ValueError("a node's matrix is no affine map")
        return matrix
    translation, scale = numbers(node, "translation", [0.0] * 3), numbers(node, "scale", [1.0] * 3)
    if "rotation" in node:
        rotation = numbers(node, "rotation", [0.0, 0.0, 0.0, 1.0])
        return _compose(np.array([translation]), np.array([rotation]), np.array([scale]))[0]
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = translation
    return matrix


def _compose(
    translations: NDArray[np.float64], rotations: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale, then rotate by quaternions x, y, z, w, then translate: (I, 4, 4)."""
    lengths = np.linalg.norm(rotations, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError("a rotation that is no quaternion of length 1")
    x, y, z, w = (rotations / lengths).T
    matrices = np.zeros((len(rotations), 4, 4))
    turns = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrices[:, :3, :3] = np.array(turns).transpose(2, 0, 1) * scales[:, None, :]
    matrices[:, :3, 3] = translations
    matrices[:, 3, 3] = 1
    return matrices


def _instances(node: dict[str, Any], accessors: Accessors) -> NDArray[np.float64]:
    extensions = node.get("extensions", {})
    found = extensions.get(_INSTANCING) if isinstance(extensions, dict) else None
    if found is None:
        return np.eye(4)[None]
    attributes = found.get("attributes") if isinstance(found, dict) else None
    if not isinstance(attributes, dict) or not attributes:
        raise ValueError(f"{_INSTANCING} without attributes")
    counts = {accessors.count(index) for index in attributes.values()}
    if len(counts) != 1:
        raise ValueError(f"{_INSTANCING} with attributes of different counts")

    def read(name: str, kind: str, default: list[float]) -> NDArray[np.float64]:
        if name in attributes:
            return accessors.floats(attributes[name], kind)
        return np.tile(default, (count, 1))

    count = counts.pop()
    if not {"TRANSLATION", "ROTATION", "SCALE"} & {*attributes}:
        raise ValueError(f"{_INSTANCING} without a place of any instance")
    return _compose(
        read("TRANSLATION", "VEC3", [0.0] * 3),
        read("ROTATION", "VEC4", [0.0, 0.0, 0.0, 1.0]),
        read("SCALE", "VEC3", [1.0] * 3),
    )


def _joints(
    header: dict[str, Any], accessors: Accessors, index: Any, places: dict[int, NDArray[np.float64]]
) -> NDArray[np.float64]:
    skin = pick(header, "skins", index)
    joints = _indices(skin, "joints", len(entries(header, "nodes")))
    if not joints or any(joint not in places for joint in joints):
        raise ValueError("a skin with joints that are not in the scene")
    matrices = np.stack([places[joint] for joint in joints])
    if "inverseBindMatrices" in skin:
        inverse = accessors.floats(skin["inverseBindMatrices"], "MAT4")
        if len(inverse) < len(joints):
            raise ValueError("a skin with fewer matrices than joints")
        matrices = matrices @ inverse[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
    return matrices

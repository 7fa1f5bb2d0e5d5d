"""Scenes of glTF: matrices of nodes, against points that are placed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import Gltf
from pyro_pcflow.data.readers import gltf_scene
from pyro_pcflow.data.readers.gltf_arrays import Accessors
from pyro_pcflow.data.readers.gltf_file import GltfFile
from pyro_pcflow.data.readers.gltf_scene import place_meshes


def placed(tmp_path, *nodes, roots=(0,)):
    file = Gltf().cube()
    file.header["nodes"], file.header["scenes"] = [*nodes], [{"nodes": [*roots]}]
    opened = GltfFile(put(tmp_path, "a.glb", file.glb()))
    return [(mesh.node, mesh.matrices) for mesh in place_meshes(opened.header, Accessors(opened))]


S = 0.5**0.5


@pytest.mark.parametrize(
    ("node", "point"),
    [
        ({}, [1, 2, 3]),
        ({"translation": [10, 20, 30]}, [11, 22, 33]),
        ({"scale": [2, 3, -4]}, [2, 6, -12]),
        # A quarter of a turn about z carries x to y, about x carries y to z, about y carries z to x.
        ({"rotation": [0, 0, S, S]}, [-2, 1, 3]),
        ({"rotation": [S, 0, 0, S]}, [1, -3, 2]),
        ({"rotation": [0, S, 0, S]}, [3, 2, -1]),
        ({"rotation": [0, 0, 1, 0]}, [-1, -2, 3]),
        ({"rotation": [0, 0, S, S], "scale": [2, 1, 1], "translation": [5, 0, 0]}, [3, 2, 3]),
        ({"matrix": [2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0, 10, 20, 30, 1]}, [12, 26, 42]),
        ({"matrix": [0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}, [-2, 1, 3]),
    ],
)
def test_a_node(tmp_path, node, point):
    ((_, matrices),) = placed(tmp_path, {"mesh": 0, **node})
    assert matrices.shape == (1, 4, 4)
    assert np.allclose(matrices[0] @ [1, 2, 3, 1], [*point, 1])


def test_a_child_is_placed_by_those_above_it(tmp_path):
    found = placed(
        tmp_path,
        {"children": [2, 1], "translation": [1, 0, 0]},
        {"mesh": 0, "scale": [2, 2, 2], "name": "scaled"},
        {"children": [3], "rotation": [0, 0, S, S]},
        {"mesh": 0, "translation": [5, 0, 0], "name": "turned"},
    )
    assert [node["name"] for node, _ in found] == ["turned", "scaled"]
    assert np.allclose(found[0][1][0] @ [1, 2, 3, 1], [-1, 6, 3, 1])
    assert np.allclose(found[1][1][0] @ [1, 2, 3, 1], [3, 4, 6, 1])


def test_too_many_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(gltf_scene, "_MOST_NODES", 3)
    assert len(placed(tmp_path, *[{"mesh": 0}] * 3, roots=range(3))) == 3
    with pytest.raises(ValueError, match="a scene of 4 nodes, join them"):
        placed(tmp_path, *[{"mesh": 0}] * 4)
    with pytest.raises(ValueError, match="nodes that hang on several others"):
        placed(tmp_path, {"children": [1, 2, 1, 2]}, {}, {})

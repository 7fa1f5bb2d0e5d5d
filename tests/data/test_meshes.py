"""Scenes, polygons and points of mesh files, against positions by hand."""

from __future__ import annotations

import os
import struct
import time

import numpy as np
import pytest
import torch

from helpers.cloud_files import cells, put
from pyro_pcflow.data import CloudError, load_clouds


def test_parts_of_a_scene_are_turned_as_it_says(tmp_path, glb_parts, corner):
    make_header, pack = glb_parts
    header, blob = make_header(*corner)
    # A quarter of a turn about z carries x to y; glTF writes x, y, z, w.
    header["nodes"] = [{"mesh": 0, "rotation": [0, 0, 0.5**0.5, 0.5**0.5], "translation": [10, 0, 0]}]
    points = load_clouds(put(tmp_path, "a.glb", pack(header, blob)), 2000)[0]
    turned = corner[0] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + [10, 0, 0]
    assert np.allclose(points.amin(0), turned.min(0), atol=0.2)
    assert np.allclose(points.amax(0), turned.max(0), atol=0.2)


def test_glb_instances_are_placed(tmp_path, corner, glb_parts):
    make_header, pack = glb_parts
    header, blob = make_header(*corner)
    header["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [10, 0, 0], "scale": [2, 2, 2]}]
    header["scenes"] = [{"nodes": [0, 1]}]
    points = load_clouds(put(tmp_path, "a.glb", pack(header, blob)), 5000)[0]
    far = points[:, 0] > 5
    # Twice the size is four times the area.
    assert 0.77 < far.float().mean() < 0.83
    index = cells(((points[far] - torch.tensor([10, 0, 0])) / 2).double().numpy(), *corner)
    assert (index >= 0).all()


def test_glb_with_primitives_repeats(tmp_path, corner, glb_parts):
    make_header, pack = glb_parts
    header, blob = make_header(*corner)
    header["meshes"][0]["primitives"] *= 3
    path = put(tmp_path, "a.glb", pack(header, blob))
    # The reader gives such parts random names.
    assert all(torch.equal(load_clouds(path, 50), load_clouds(path, 50)) for _ in range(3))


def test_obj_polygons_groups_and_tabs(tmp_path):
    text = "o a\nv\t0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0.5 2 0\nusemtl x\nf 1 2 3 4\nusemtl y\nf -2 -3 -1\n"
    points = load_clouds(put(tmp_path, "a.obj", text.encode()), 4000)[0]
    assert 0.3 < (points[:, 1] > 1).float().mean() < 0.37


def test_obj_points_without_faces(tmp_path):
    path = put(tmp_path, "a.obj", b"v 0 0 0\nv 1 2 3\n")
    assert load_clouds(path, None).tolist() == [[[0, 0, 0], [1, 2, 3]]]


def test_materials_are_not_followed(tmp_path, corner, writers):
    os.mkfifo(tmp_path / "nowhere.mtl")
    path = put(tmp_path, "a.obj", writers["a.obj"](*corner))
    # Opening the pipe would wait for ever.
    assert load_clouds(path, 10).shape == (1, 10, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["binary.PLY", "a.glb", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("binary.stl", "a.obj", "a.off"))],
)
def test_million_faces(tmp_path, name, writers):
    side = 708
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), [0.0]), axis=-1).reshape(-1, 3)
    first = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    faces = np.concatenate(
        [
            np.stack([first, first + 1, first + side], axis=1),
            np.stack([first + 1, first + side + 1, first + side], axis=1),
        ]
    )
    path = put(tmp_path, name, writers[name](grid, faces))
    start = time.perf_counter()
    points = load_clouds(path, 2048)
    assert time.perf_counter() - start < 60
    assert points.shape == (1, 2048, 3)
    assert (points[0].mean(0)[:2] - (side - 1) / 2).abs().max() < 30


def test_float_rounding_of_binary_stl_is_units(tmp_path):
    record = struct.pack("<12fH", 0, 0, 1, 1e6, 0, 0, 1e6 + 1, 0, 0, 1e6, 1, 0, 0)
    path = put(tmp_path, "a.stl", bytes(80) + struct.pack("<I", 1) + record)
    points = load_clouds(path, 100)
    assert points[..., 0].min() >= 1e6
    assert points[..., 0].max() <= 1e6 + 1


def test_glb_that_repeats_a_mesh_without_end(tmp_path, glb_parts, monkeypatch, corner):
    from pyro_pcflow.data import meshes

    make_header, pack = glb_parts
    header, blob = make_header(*corner)
    header["nodes"] = [{"mesh": 0} for _ in range(30)]
    header["scenes"] = [{"nodes": list(range(30))}]
    path = tmp_path / "a.glb"
    path.write_bytes(pack(header, blob))
    monkeypatch.setattr(meshes, "_MAX_FACES", 100)
    with pytest.raises(CloudError, match="more than 100 faces once its parts are put in place"):
        load_clouds(path, 10)

"""glTF scenes: their parts of every mode, where their nodes place them."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from helpers.cloud_files import put
from helpers.mesh_files import CUBE, HALVES, Gltf, area, coordinates, damage_and_read, is_cube, table_of, volume
from pyro_pcflow.data.readers import glb
from pyro_pcflow.data.readers.glb import read_glb

FLAT = [i for half in HALVES for i in half]
SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
# A cube from -1 to 1 that halves and shifts to the unit cube.
SIGNS = 2 * CUBE - 1


def quantized(dtype, factor=None, **fields):
    file = Gltf()
    values = CUBE * (np.iinfo(dtype).max if factor is None else factor)
    return file.part(file.accessor(values, dtype, **fields), FLAT)


def strided():
    file = Gltf()
    rows = np.zeros(8, [("noise", "<f4", 2), ("position", "<f4", 3), ("more", "<f4")])
    rows["position"], rows["noise"] = CUBE, 7
    view = file.view(b"head" + rows.tobytes(), byteStride=24)
    return file.part(file.accessor(CUBE, bufferView=view, byteOffset=12), FLAT)


def sparse(base):
    file = Gltf()
    changed = CUBE.copy()
    if base:
        changed[[2, 5]] = 9
        rows = [2, 5]
        accessor = file.accessor(changed)
    else:
        rows = [*range(1, 8)]
        accessor = file.accessor(CUBE, bufferView=None)
        del file.header["accessors"][accessor]["bufferView"]
    file.header["accessors"][accessor]["sparse"] = {
        "count": len(rows),
        "indices": {"bufferView": file.view(np.array(rows, "<u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": file.view(CUBE[rows].astype("<f4").tobytes())},
    }
    return file.part(accessor, FLAT)


def placed(*nodes, roots=(0,), **fields):
    file = Gltf().cube()
    file.header["nodes"], file.header["scenes"] = [*nodes], [{"nodes": [*roots]}]
    file.header.update(fields)
    return file


def signs(**node):
    file = Gltf().part(SIGNS, FLAT)
    file.header["nodes"] = [{"mesh": 0, **node}]
    return file


def instanced():
    file = Gltf().part(CUBE[:, :] * 0.5, FLAT)
    # Eight small cubes make a large one, but for the sides within.
    attributes = {"TRANSLATION": file.accessor(CUBE / 2)}
    file.header["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    return file


def morphed(where):
    file = Gltf()
    target = {"POSITION": file.accessor(4 * CUBE[:, [0]] * [[1, 0, 0]])}
    file.part(CUBE * [[0.0, 1, 1]], FLAT, targets=[{}, target])
    file.header[where][0]["weights"] = [0.5, 0.25]
    return file


def skinned(bind=True):
    file = Gltf()
    near = (CUBE[:, 0] > 0)[:, None]
    weights = np.concatenate([~near, near, np.zeros((8, 2))], axis=1).astype(float)
    attributes = {
        "POSITION": file.accessor(CUBE * [[0, 1, 1]] + 5),
        "JOINTS_0": file.accessor(np.tile([0, 1, 0, 0], (8, 1)), "<u1"),
        "WEIGHTS_0": file.accessor(weights),
    }
    file.part(attributes["POSITION"], FLAT)
    file.header["meshes"][0]["primitives"][0]["attributes"] = attributes
    back = np.eye(4)
    back[:3, 3] = -5
    skin = {"joints": [1, 2]}
    if bind:
        skin["inverseBindMatrices"] = file.accessor(np.tile(back.T.ravel(), (2, 1)))
    file.header["skins"] = [skin]
    # The place of a skin's own node means nothing.
    file.header["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [7, 7, 7]},
        {"children": [2]},
        {"translation": [1, 0, 0]},
    ]
    file.header["scenes"] = [{"nodes": [0, 1]}]
    if not bind:
        file.header["nodes"][1]["translation"] = [-5, -5, -5]
    return file


HALF = {"scale": [0.5, 0.5, 0.5], "translation": [0.5, 0.5, 0.5]}
TURN = [0, 0, 0.5**0.5, 0.5**0.5]
CUBES = {
    "plain": lambda: Gltf().cube(),
    "mode 4": lambda: Gltf().cube(mode=4),
    "no indices": lambda: Gltf().part(CUBE[FLAT]),
    "indices of bytes": lambda: (f := Gltf()).part(CUBE, f.accessor(FLAT, "<u1")),
    "indices of four bytes": lambda: (f := Gltf()).part(CUBE, f.accessor(FLAT, "<u4")),
    "two parts": lambda: Gltf().part(CUBE, FLAT[:15]).part(CUBE, FLAT[15:]),
    "parts of the same vertices": lambda: (f := Gltf()).part(a := f.accessor(CUBE), FLAT[:6]).part(a, FLAT[6:]),
    "strips": lambda: [f := Gltf(), *[f.part(CUBE[[a, b, d, c]], mode=5) for (a, b, c), (_, _, d) in pairs()]][0],
    "fans": lambda: [f := Gltf(), *[f.part(CUBE, [a, b, c, d], mode=6) for (a, b, c), (_, _, d) in pairs()]][0],
    "unused vertices": lambda: Gltf().part(np.concatenate([CUBE, CUBE + 9]), FLAT),
    "lines are left out": lambda: Gltf().cube().part(CUBE + 7, mode=1).part(CUBE, mode=2).part(CUBE, mode=3),
    "stride": strided,
    "sparse": lambda: sparse(True),
    "sparse over nothing": lambda: sparse(False),
    "normalized i1": lambda: quantized("<i1", normalized=True),
    "normalized u1": lambda: quantized("<u1", normalized=True),
    "normalized i2": lambda: quantized("<i2", normalized=True),
    "normalized u2": lambda: quantized("<u2", normalized=True),
    "not normalized u1": lambda: quantized("<u1", 1),
    "not normalized i2": lambda: quantized("<i2", 1, normalized=False),
    "normalized to -1": lambda: (
        (f := signs(**HALF)).part(f.accessor(SIGNS * 127.5 - 0.5, "<i1", normalized=True), FLAT)
        and [f.header["meshes"][0]["primitives"].pop(0), f][1]
    ),
    "scale and translation": lambda: signs(**HALF),
    "turned": lambda: placed({"mesh": 0, "rotation": TURN, "translation": [1, 0, 0]}),
    "turned by a longer quaternion": lambda: placed({"mesh": 0, "rotation": [0, 0, 2, 2], "translation": [1, 0, 0]}),
    "matrix": lambda: signs(matrix=[0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0.5, 0.5, 0.5, 1]),
    "turned matrix": lambda: placed({"mesh": 0, "matrix": [0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1]}),
    "mirrored": lambda: placed({"mesh": 0, "scale": [-1, 1, 1], "translation": [1, 0, 0]}),
    "mirrored twice": lambda: placed({"mesh": 0, "scale": [-1, -1, 1], "translation": [1, 1, 0]}),
    "nested": lambda: placed(
        {"children": [1], "translation": [1, 0, 0], "rotation": TURN},
        {"children": [2], "scale": [2, 2, 2]},
        {"mesh": 0, "scale": [0.5, 0.5, 0.5]},
    ),
    "node outside of the scene": lambda: placed({"mesh": 0}, {"mesh": 0, "translation": [5, 5, 5]}),
    "second scene": lambda: placed(
        {"mesh": 0}, {"mesh": 0, "scale": [3, 3, 3]}, scenes=[{"nodes": [1]}, {"nodes": [0]}], scene=1
    ),
    "no scene is the default": lambda: [f := Gltf().cube(), f.header.pop("scene")][0],
    "no scenes": lambda: [f := Gltf().cube(), f.header.pop("scenes"), f.header.pop("scene")][0],
    "camera and light": lambda: placed({"mesh": 0}, {"camera": 0}, {"name": "light"}, roots=(1, 0, 2)),
    "morph target at rest": lambda: Gltf().cube(targets=[{"POSITION": 0}]),
    "weights of the mesh": lambda: morphed("meshes"),
    "weights of the node": lambda: morphed("nodes"),
    "skin": skinned,
    "skin without matrices": lambda: skinned(False),
    "deep": lambda: placed(*[{"children": [i + 1]} for i in range(3000)], {"mesh": 0}),
    "harmless extensions": lambda: placed(
        {"mesh": 0}, extensionsRequired=["KHR_mesh_quantization", "KHR_materials_unlit", "KHR_texture_transform"]
    ),
    "compressed, and plain as well": lambda: Gltf().cube(extensions={"KHR_draco_mesh_compression": {"bufferView": 0}}),
}


def pairs():
    return zip(HALVES[::2], HALVES[1::2], strict=True)


@pytest.mark.parametrize("name", CUBES)
@pytest.mark.parametrize("kind", ["glb", "gltf"])
def test_cubes(tmp_path, name, kind):
    file = CUBES[name]()
    assert is_cube(read_glb(put(tmp_path, f"a.{kind}", file.glb() if kind == "glb" else file.gltf())))


def test_instances(tmp_path):
    found = read_glb(put(tmp_path, "a.glb", instanced().glb()))
    assert np.isclose(volume(found), 1)
    assert np.isclose(area(found), 8 * 6 / 4)
    assert found.vertices.max() == 1
    file = Gltf().cube()
    attributes = {
        "ROTATION": file.accessor([TURN, [0, 0, 0, 1]]),
        "SCALE": file.accessor([[1, 1, 1], [2, 2, 2]]),
        "_ID": file.accessor([0, 1]),
    }
    file.header["nodes"] = [
        {"mesh": 0, "translation": [0, 0, 10], "extensions": {"EXT_mesh_gpu_instancing": {"attributes": attributes}}}
    ]
    found = read_glb(put(tmp_path, "b.glb", file.glb()))
    assert np.isclose(volume(found), 1 + 8)
    assert np.allclose(found.vertices.min(0), [-1, 0, 10])
    assert np.allclose(found.vertices.max(0), [2, 2, 12])


def test_shared_mesh(tmp_path):
    data = placed({"mesh": 0}, {"mesh": 0, "translation": [10, 0, 0], "scale": [2, 2, 2]}, roots=(0, 1)).glb()
    found = read_glb(put(tmp_path, "a.glb", data))
    assert np.isclose(volume(found), 9)
    assert found.vertices.max() == 12
    assert found.faces.tolist() == HALVES + (np.array(HALVES) + 8).tolist()


def test_strips_and_fans_have_a_side(tmp_path):
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0], [1, 2, 0]])
    found = read_glb(put(tmp_path, "a.glb", Gltf().part(corners, mode=5).glb()))
    assert found.faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4], [4, 3, 5]]
    found = read_glb(put(tmp_path, "a.glb", Gltf().part(SQUARE, mode=6).part(SQUARE + 5, [0, 1, 2, 0, 2, 3]).glb()))
    assert found.faces.tolist() == [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    assert found.vertices.max() == 6


def test_points(tmp_path):
    data = Gltf().part(CUBE, mode=0).part(CUBE + 5, [3, 3, 1], mode=0).part(CUBE, mode=1).glb()
    found = read_glb(put(tmp_path, "a.glb", data))
    assert [*table_of(found)] == ["x", "y", "z"]
    # What is drawn twice is one point.
    assert coordinates(found).tolist() == [*CUBE.tolist(), *(CUBE[[1, 3]] + 5).tolist()]


def test_points_are_placed(tmp_path):
    file = Gltf().part(CUBE, mode=0)
    file.header["nodes"][0]["translation"] = [1, 2, 3]
    assert coordinates(read_glb(put(tmp_path, "a.glb", file.glb()))).tolist() == (np.array([1, 2, 3]) + CUBE).tolist()


def change(key, index, **fields):
    def apply(file):
        file.header[key][index].update(fields)

    return apply


def set_all(**fields):
    return lambda file: file.header.update(fields)


def primitive(**fields):
    return lambda file: file.header["meshes"][0]["primitives"][0].update(fields)


GPU = "EXT_mesh_gpu_instancing"
BAD = {
    "points and triangles": (lambda f: f.part(CUBE, mode=0), "a scene of triangles and of points"),
    "only lines": (primitive(mode=1), "no faces and no points"),
    "mode": (primitive(mode=7), "parts of mode 7"),
    "empty scene": (set_all(scenes=[{"nodes": []}]), "no faces and no points"),
    "scene": (set_all(scene=3), "3 of 'scenes' is asked for, and there are 1"),
    "negative scene": (set_all(scene=-1), "-1 stands where a size or an index belongs"),
    "no meshes": (set_all(meshes=[]), "0 of 'meshes' is asked for, and there are 0"),
    "meshes": (set_all(meshes=3), "3 stands where 'meshes' of a glTF file belong"),
    "nodes": (set_all(nodes=[3]), "a list stands where 'nodes'"),
    "node": (set_all(scenes=[{"nodes": [5]}]), "node 5 is asked for, and there are 1"),
    "circle": (change("nodes", 0, children=[0]), "node 0 hangs on two others, or on itself"),
    "two parents": (
        set_all(nodes=[{"children": [1, 2]}, {"children": [2]}, {"mesh": 0}]),
        "node 2 hangs on two others",
    ),
    "node twice": (set_all(scenes=[{"nodes": [0, 0]}]), "node 0 hangs on two others"),
    "bomb of nodes": (
        set_all(nodes=[{"children": [min(i + 1, 40)] * 300} for i in range(41)]),
        "node 40 hangs on two others",
    ),
    "children": (change("nodes", 0, children={}), "a dict stands where a list of nodes belongs"),
    "scale": (change("nodes", 0, scale=[1, 2]), "a list stands where 3 numbers of 'scale' belong"),
    "word": (change("nodes", 0, translation=[1, 2, "x"]), "3 numbers of 'translation'"),
    "huge": (change("nodes", 0, translation=[10**400, 0, 0]), "a huge number in 'translation'"),
    "rotation": (change("nodes", 0, rotation=[0, 0, 0, 0]), "no quaternion"),
    "projection": (change("nodes", 0, matrix=[1.0] * 16), "no affine map"),
    "no positions": (primitive(attributes={"NORMAL": 0}), "a part of a mesh without positions"),
    "attributes": (primitive(attributes=[]), "a part of a mesh without positions"),
    "five corners": (lambda f: f.part(CUBE, FLAT[:5]), "5 corners of triangles, no multiple of three"),
    "index": (lambda f: f.part(CUBE, [0, 1, 8]), "a face refers to a vertex outside 0 to 7"),
    "no primitives": (change("meshes", 0, primitives={}), "'primitives' of a glTF file"),
    "draco": (
        lambda f: [
            primitive(extensions={"KHR_draco_mesh_compression": {"bufferView": 0}})(f),
            f.header["accessors"][0].pop("bufferView"),
        ],
        "compressed by KHR_draco_mesh_compression",
    ),
    "draco required": (
        set_all(extensionsRequired=["KHR_draco_mesh_compression"]),
        "extension KHR_draco_mesh_compression",
    ),
    "meshopt required": (set_all(extensionsRequired=["EXT_meshopt_compression"]), "extension EXT_meshopt_compression"),
    "unknown required": (set_all(extensionsRequired=["ACME_points"]), "extension ACME_points, which isn't read"),
    "instances": (change("nodes", 0, extensions={GPU: {"attributes": {}}}), "without attributes"),
    "instances of two counts": (
        change("nodes", 0, extensions={GPU: {"attributes": {"TRANSLATION": 0, "SCALE": 1}}}),
        "attributes of different counts",
    ),
    "instances without places": (change("nodes", 0, extensions={GPU: {"attributes": {"_ID": 1}}}), "without a place"),
    "weights": (change("nodes", 0, weights="x"), "'x' stands where weights of morph targets belong"),
    "skin": (change("nodes", 0, skin=0), "0 of 'skins' is asked for"),
    "joints": (lambda f: [change("nodes", 0, skin=0)(f), set_all(skins=[{"joints": []}])(f)], "joints that are not in"),
    "no joints": (
        lambda f: [change("nodes", 0, skin=0)(f), set_all(skins=[{"joints": [0]}])(f)],
        "vertices that hang on no joint",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scenes(tmp_path, name):
    damage, found = BAD[name]
    file = Gltf().cube()
    damage(file)
    with pytest.raises(ValueError, match=found):
        read_glb(put(tmp_path, "a.glb", file.glb()))


def test_skins_that_are_wrong(tmp_path):
    for damage, found in [
        (lambda f: f.header["skins"][0].update(joints=[1]), "hangs on joint 1 of 1"),
        (lambda f: f.header["skins"][0].update(joints=[1, 2, 0]), "fewer matrices than joints"),
        (lambda f: f.header["scenes"][0].update(nodes=[0]), "joints that are not in the scene"),
    ]:
        file = skinned()
        damage(file)
        with pytest.raises(ValueError, match=found):
            read_glb(put(tmp_path, "a.glb", file.glb()))


def test_a_mesh_that_is_repeated_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(glb, "_MAX_FACES", 100)
    nodes = [{"mesh": 0} for _ in range(9)]
    path = put(tmp_path, "a.glb", placed(*nodes, roots=range(8)).glb())
    assert len(read_glb(path).faces) == 96
    with pytest.raises(ValueError, match="more than 100 faces once its parts are put in place"):
        read_glb(put(tmp_path, "a.glb", placed(*nodes, roots=range(9)).glb()))


def test_too_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(glb, "_MOST_PARTS", 3)
    nodes = [{"mesh": 0} for _ in range(4)]
    assert len(read_glb(put(tmp_path, "a.glb", placed(*nodes, roots=range(3)).glb())).faces) == 36
    with pytest.raises(ValueError, match="a scene of more than 3 parts, join them"):
        read_glb(put(tmp_path, "a.glb", placed(*nodes, roots=range(4)).glb()))


def test_bombs_end_soon_and_in_little_memory(tmp_path):
    instances = Gltf().part(np.zeros((30_000, 3)))
    attributes = {"TRANSLATION": instances.accessor(np.zeros((10_000, 3)))}
    instances.header["nodes"][0]["extensions"] = {GPU: {"attributes": attributes}}
    nodes = Gltf().part(np.zeros((30_000, 3)))
    nodes.header["nodes"] = [{"mesh": 0, "translation": [1, 0, 0]}] * 10_000
    nodes.header["scenes"] = [{"nodes": [*range(10_000)]}]
    sparse_rows = Gltf().cube()
    sparse_rows.header["accessors"][0].pop("bufferView")
    sparse_rows.header["accessors"][0].update(count=10**12, sparse={"count": 0, "indices": {}, "values": {}})
    repeats = Gltf().part(np.zeros((300_000, 3)))
    repeats.header["accessors"] *= 1000
    repeats.header["meshes"][0]["primitives"] = [{"attributes": {"POSITION": i}, "mode": 0} for i in range(1000)]
    lists = Gltf().part(np.zeros((3, 3)))
    lists.header["nodes"] = [{"mesh": i} for i in range(10_000)]
    lists.header["scenes"] = [{"nodes": [*range(10_000)]}]
    lists.header["meshes"] = [{"primitives": [{"attributes": {"POSITION": i}}]} for i in range(10_000)]
    lists.header["accessors"] = [
        *lists.header["accessors"] * 9_999,
        {"type": "VEC3", "componentType": 5126, "count": 10**9},
    ]
    for file in (instances, nodes, sparse_rows, repeats, lists):
        path = put(tmp_path, "a.glb", file.glb())
        start = time.process_time()
        with pytest.raises(ValueError, match=r"more than 50000000 faces|promise"):
            read_glb(path)
        assert time.process_time() - start < 5


def test_buffers_beside_the_file(tmp_path):
    file = Gltf().cube()
    put(tmp_path, "parts/a b.bin", file.blob + b"more")
    assert is_cube(read_glb(put(tmp_path, "a.gltf", file.gltf("parts/a%20b.bin"))))


@pytest.mark.parametrize("uri", ["../a.bin", "/etc/passwd", "http://example.com/a.bin", "a/../../a.bin", "C:\\a.bin"])
def test_buffers_elsewhere(tmp_path, uri):
    file = Gltf().cube()
    put(tmp_path, "a.bin", file.blob)
    with pytest.raises(ValueError, match=r"geometry lies in another file, .* which isn't in its folder"):
        read_glb(put(tmp_path, "in/a.gltf", file.gltf(uri)))


def test_buffers_that_are_no_files(tmp_path):
    file = Gltf().cube()
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "short.bin").write_bytes(file.blob[:-1])
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    for uri, found in [
        ("none.bin", "can't be read"),
        ("pipe.bin", "neither a file nor a folder"),
        (".", "a folder"),
        ("short.bin", "are promised"),
        ("link.bin", "isn't in its folder"),
        ("a" * 5000, "can't be read"),
        ("a%00b", "isn't in its folder"),
    ]:
        file.header.pop("buffers", None)
        with pytest.raises(ValueError, match=found):
            read_glb(put(tmp_path, "a.gltf", file.gltf(uri)))


@pytest.mark.parametrize("rounds", [500, pytest.param(4000, marks=pytest.mark.exhaustive)])
def test_damaged_files(tmp_path, rounds):
    names = ("plain", "strips", "sparse", "nested", "skin", "weights of the node", "stride", "normalized i1")
    wholes = [data for name in names for data in (CUBES[name]().glb(), CUBES[name]().gltf())]
    wholes += [instanced().glb(), Gltf().part(CUBE, mode=0).glb()]
    shapes = sum(
        damage_and_read(read_glb, tmp_path / f"a.{kind}", wholes[start::2], rounds // 2)
        for start, kind in enumerate(("glb", "gltf"))
    )
    assert 0 < shapes < rounds

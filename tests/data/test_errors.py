"""Every bad input ends in one clear error, which names the file and what was found."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import zipfile

import numpy as np
import pytest

from pyro_pcflow.data import CloudError, load_clouds, load_example

TEXT_OFF = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
TEXT_OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
PLY = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
PLY_FACES = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n"
BINARY_PLY = PLY.replace(b"ascii", b"binary_little_endian")


def as_npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npy_header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def as_npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def bomb():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        header = npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000, 3), }\n")
        archive.writestr("points.npy", header + bytes(4_000_000 * 3 * 8))
    return stream.getvalue()


def damaged_npz():
    data = bytearray(as_npz(points=np.zeros((50, 3))))
    data[300] ^= 255
    return bytes(data)


BAD = {
    "empty.obj": (b"", "the file is empty"),
    "words.obj": (b"hello world\n", "no faces and no points"),
    "nan.obj": (TEXT_OBJ.replace(b"v 1 0", b"v nan 0"), "1 of 3 corners are NaN"),
    "huge.obj": (TEXT_OBJ.replace(b"v 1 0", b"v 1e300 0"), "1 of 3 corners are NaN, infinite or beyond float32"),
    "index.obj": (TEXT_OBJ.replace(b"f 1 2 3", b"f 1 2 9"), "a whole Wavefront OBJ file"),
    "flat.obj": (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "its faces have no area"),
    "line.obj": (b"v 0 0 0\nv 1 1 1\nv 2.1 2.1 2.1\nf 1 2 3\n", "its faces have no area"),
    "rounded.obj": (
        b"v 0.0 0.0 0.0\nv 0.034999999999999996 0.082 0.033\n"
        b"v 0.24499999999999997 0.574 0.23099999999999998\nf 1 2 3\n",
        "its faces have no area",
    ),
    "point.obj": (b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "its faces have no area"),
    "word.obj": (TEXT_OBJ.replace(b"v 1 0 0", b"v 1 x 0"), "a whole Wavefront OBJ file"),
    "two.obj": (TEXT_OBJ.replace(b"v 1 0 0", b"v 1 0"), "a whole Wavefront OBJ file"),
    "words.off": (b"hello\n", "no OFF header"),
    "empty.off": (b"# nothing\n", "no OFF header"),
    "only.off": (b"OFF\n", "a whole OFF file"),
    "short.off": (TEXT_OFF[:-8], r"header promises 3 \+ 1 lines, found 3"),
    "cut.off": (TEXT_OFF[:-3], "line 6: a face of 3 corners in 3 numbers, cut short"),
    "many.off": (TEXT_OFF.replace(b"3 1 0", b"3 99999999999 0"), "header promises 3"),
    "negative.off": (TEXT_OFF.replace(b"3 1 0", b"3 -1 0"), "header promises"),
    "index.off": (TEXT_OFF.replace(b"3 0 1 2", b"3 0 1 7"), "a whole OFF file"),
    "faceless.off": (TEXT_OFF.replace(b"3 1 0", b"3 0 0"), r"header promises 3 \+ 0 lines, found 4"),
    "words.ply": (b"hello\n", "no PLY header"),
    "huge.ply": (PLY.replace(b"vertex 3", b"vertex 999999999999") + PLY_FACES, "header promises 1000000000000 lines"),
    "hugebin.ply": (
        BINARY_PLY.replace(b"vertex 3", b"vertex 999999999") + b"end_header\n" + bytes(36),
        "header promises 11999999988 bytes or more of element vertex, found 36",
    ),
    "negative.ply": (PLY.replace(b"vertex 3", b"vertex -3") + b"end_header\n", "negative number"),
    "twice.ply": (PLY + PLY[PLY.index(b"element") :] + b"end_header\n", "element 'vertex' is declared twice"),
    "type.ply": (PLY.replace(b"float x", b"flot x") + PLY_FACES + b"3 0 1 2\n", "unknown type 'flot' of a property"),
    "cut.ply": (PLY + PLY_FACES, "header promises 4 lines, found 3"),
    "index.ply": (PLY + PLY_FACES + b"3 0 1 -1\n", "a face refers to a vertex outside 0 to 2"),
    "renamed.ply": (PLY + PLY_FACES.replace(b"vertex_indices", b"corners") + b"3 0 1 2\n", "can't be read"),
    "short.stl": (bytes(50), "header promises"),
    "words.stl": (b"hello" * 40, "header promises"),
    "count.stl": (bytes(80) + struct.pack("<I", 4_000_000_000) + bytes(50), "promises 200000000084 bytes, .* has 134"),
    "faceless.stl": (bytes(84), "no faces and no points"),
    "cut.stl": (b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n", "no final 'endsolid'"),
    "nan.stl": (
        bytes(80) + struct.pack("<I12fH", 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, float("inf"), 0, 0),
        "1 of 3 corners are NaN, infinite",
    ),
    "words.glb": (b"hello" * 10, "no GLB header"),
    "words.txt": (b"hello\nworld\n", "a single column, and points need two or more"),
    "comment.txt": (b"# hello\n", "no numbers in it"),
    "empty.csv": (b"", "the file is empty"),
    "one.csv": (b"1\n2\n3\n", "a single column, and points need two or more"),
    "ragged.xyz": (b"1 2 3\n4 5\n", "line 1 has 3 columns, the lines after it have 2"),
    "hole.csv": (b"1,2,3\n4,,5\n", "1 of 2 points are NaN, infinite or beyond float32; .* drop_nan=True"),
    "nan.csv": (b"1,2,3\n4,nan,5\n", "1 of 2 points are NaN"),
    "binary.txt": (bytes(range(256)), "lines of at least two numbers"),
    "words.npy": (b"hello" * 40, "magic string"),
    "empty.npy": (b"", "unpickled array"),
    "pickle.npy": (as_npy(np.array([{}, None]), allow_pickle=True), "pickled Python objects, which are never loaded"),
    "rawpickle.npy": (pickle.dumps(np.zeros((4, 3))), "magic string"),
    "cut.npy": (as_npy(np.zeros((9, 3)))[:-1], "header promises 216 bytes of data, the file has 215"),
    "long.npy": (as_npy(np.zeros((9, 3))) + b"x", "header promises 216 bytes of data, the file has 217"),
    "bomb.npy": (
        npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 3), }\n"),
        "header promises 2399999999976 bytes of data, the file has 0",
    ),
    "negative.npy": (
        npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -3), }\n") + bytes(24),
        r"shape \(-1, -3\)",
    ),
    "header.npy": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header of 4294967295 bytes in a file of 13"),
    "flat.npy": (as_npy(np.zeros(9)), r"an array of shape \(9,\)"),
    "deep.npy": (as_npy(np.zeros((2, 2, 2, 3))), r"shape \(2, 2, 2, 3\)"),
    "narrow.npy": (as_npy(np.zeros((9, 1))), r"shape \(9, 1\)"),
    "none.npy": (as_npy(np.zeros((0, 3))), r"shape \(0, 3\)"),
    "nostack.npy": (as_npy(np.zeros((0, 5, 3))), r"shape \(0, 5, 3\)"),
    "bool.npy": (as_npy(np.zeros((9, 3), bool)), "an array of bool instead of real numbers"),
    "complex.npy": (as_npy(np.zeros((9, 3), complex)), "an array of complex128"),
    "text.npy": (as_npy(np.full((9, 3), "x")), "an array of <U1"),
    "fields.npy": (as_npy(np.zeros(9, [("a", "f4"), ("b", "f4")])), "columns"),
    "version.npy": (b"\x93NUMPY\x03" + npy_header(b"{}\n")[7:], "npy format"),
    "inf.npy": (as_npy(np.full((9, 3), np.inf)), "9 of 9 points are NaN, infinite"),
    "huge.npy": (as_npy(np.full((9, 3), 1e39)), "beyond float32"),
    "words.npz": (b"hello" * 40, "File is not a zip file"),
    "other.npz": (as_npz(faces=np.zeros((4, 3))), "no array `points`, only faces"),
    "none.npz": (as_npz(), "no array `points`, only nothing"),
    "flat.npz": (as_npz(points=np.zeros(3)), r"shape \(3,\)"),
    "pickle.npz": (as_npz(points=np.array([{}])), "pickled Python objects"),
    "cut.npz": (as_npz(points=np.zeros((50, 3)))[:-40], "not a zip file"),
    "damaged.npz": (damaged_npz(), "Bad CRC-32"),
    "bomb.npz": (bomb(), "`points` would unpack to 9600.* bytes from a far smaller file"),
    "a.gltf": (b"{}", "no faces and no points"),
    "a.blend": (b"{}", r"unknown ending '.blend'; known are .obj, .off, .ply, .stl, .glb, .gltf, .xyz, .txt, .csv"),
    "a.obj.gz": (b"", "unknown ending '.gz'"),
    "noending": (b"", "unknown ending ''"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name, capfd):
    data, found = BAD[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CloudError, match=found) as caught:
        load_clouds(path, 10)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value.__cause__, MemoryError)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda h: h["buffers"][0].update(uri="http://example.com/a.bin"), "geometry lies in another file"),
        (lambda h: h["buffers"][0].update(uri="a.bin"), "geometry lies in another file, 'a.bin'"),
        (lambda h: h["accessors"][0].update(count=10**9), "accessors promise 12000000000 bytes in a smaller file"),
        (lambda h: h["accessors"][0].update(count="4"), "'4' stands where a size or an index belongs"),
        (lambda h: h["accessors"][0].update(count=-4), "-4 stands where a size or an index belongs"),
        (lambda h: h["accessors"][0].update(byteOffset=1), "reaches past its buffer view"),
        (lambda h: h["bufferViews"][0].update(byteStride=0), "reaches past its buffer view"),
        (lambda h: h["bufferViews"][0].update(byteLength=10**12), "a buffer view reaches past its buffer"),
        (lambda h: h["accessors"].append({"count": 10**12, "type": "MAT4", "componentType": 5126}), None),
        (lambda h: h["accessors"].extend([dict(h["accessors"][0], count=1)] * 10**4), None),
        (lambda h: h["accessors"][0].pop("bufferView"), "an accessor without data, perhaps of compressed geometry"),
        (lambda h: h["accessors"][1].update(sparse={}), "a sparse accessor without indices and values"),
        (
            lambda h: h["meshes"][0]["primitives"][0].update(extensions={"KHR_draco_mesh_compression": {}}),
            None,  # what is not required has plain data beside it
        ),
        (lambda h: h["meshes"][0]["primitives"][0].update(mode=1), "no faces and no points"),
        (lambda h: h.update(meshes=[]), "IndexError|no faces|KeyError"),
        (lambda h: h.update(scenes=[{"nodes": []}]), "no faces and no points"),
        (lambda h: h["nodes"][0].update(children=[0]), "node 0 hangs on two others, or on itself"),
        (lambda h: h["nodes"][0].update(scale=[0, 0, 0]), "its faces have no area"),
        (lambda h: h["nodes"][0].update(scale=[1e60, 1, 1]), "beyond float32"),
        (lambda h: h["nodes"][0].update(translation=[float("nan"), 0, 0]), "NaN"),
        (lambda h: h.update(accessors=3), "GLB"),
        (lambda h: h["asset"].update(extras=[[[]]]), None),
    ],
)
def test_bad_glb(tmp_path, corner, glb_parts, change, found):
    make_header, pack = glb_parts
    header, blob = make_header(*corner)
    change(header)
    path = tmp_path / "a.glb"
    path.write_bytes(pack(header, blob))
    if found is None:
        assert load_clouds(path, 10).shape == (1, 10, 3)
        return
    with pytest.raises(CloudError, match=found) as caught:
        load_clouds(path, 10)
    assert str(caught.value).startswith(f"{path}: ")


def test_glb_sizes(tmp_path, corner, writers):
    data = writers["a.glb"](*corner)
    path = tmp_path / "a.glb"
    for damaged in (data[:-4], data + b"more", data[:12] + struct.pack("<I", 2**32 - 1) + data[16:]):
        path.write_bytes(damaged)
        with pytest.raises(CloudError, match=r"header promises|chunks don't fill"):
            load_clouds(path, 10)


def test_a_word_among_numbers_does_not_end_the_file_early(tmp_path, corner, writers):
    path = tmp_path / "a.stl"
    text = writers["text.stl"](*corner).split(b"vertex ")
    text[4] = b"x " + text[4]
    path.write_bytes(b"vertex ".join(text))
    with pytest.raises(CloudError, match="line 11: a vertex of 4 numbers"):
        load_clouds(path, 10)


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_deep_json(tmp_path, depth):
    text = b"[" * depth + b"]" * depth
    head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text), len(text), b"JSON")
    path = tmp_path / "a.glb"
    path.write_bytes(head + text)
    with pytest.raises(CloudError, match="nested too deep"):
        load_clouds(path, 10)


@pytest.mark.parametrize("path", ["nothing.obj", "no/where", "a.npy/inside.npy"])
def test_missing(tmp_path, path):
    np.save(tmp_path / "a.npy", np.zeros((3, 3)))
    with pytest.raises(FileNotFoundError, match=path) as caught:
        load_clouds(tmp_path / path)
    assert not isinstance(caught.value, CloudError)


def test_broken_link(tmp_path):
    (tmp_path / "a.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(FileNotFoundError, match=r"a\.npy"):
        load_clouds(tmp_path / "a.npy")
    with pytest.raises(CloudError, match=r"a\.npy: can't be read \(No such file or directory\)"):
        load_clouds(tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000 + ".npy", "a\0b.npy"])
def test_impossible_names(tmp_path, name):
    with pytest.raises(CloudError, match="can't be looked at"):
        load_clouds(tmp_path / name)


def test_pipe_and_socket(tmp_path):
    os.mkfifo(tmp_path / "pipe.obj")
    with pytest.raises(CloudError, match=r"pipe\.obj: can't be read \(neither a file nor a folder\)"):
        load_clouds(tmp_path / "pipe.obj")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.obj"))
        with pytest.raises(CloudError, match=r"s\.obj: can't be read \(neither a file nor a folder\)"):
            load_clouds(tmp_path / "s.obj")


def test_pipe_in_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.obj")
    with pytest.raises(CloudError, match=r"pipe\.obj: can't be read \(neither a file nor a folder\)"):
        load_clouds(tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.obj", "a.csv", "a.npz"])
def test_no_permission(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(b"1 2 3")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CloudError, match=rf"{name}: can't be read \(Permission denied\)"):
        load_clouds(path)


def test_unlistable_folder(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    np.save(tmp_path / "a.npy", np.zeros((3, 3)))
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CloudError, match=r"closed: can't be listed \(Permission denied\)"):
        load_clouds(tmp_path, 3)


def test_empty_folder(tmp_path):
    with pytest.raises(CloudError, match=r"no meshes or clouds in this folder; expected \.obj"):
        load_clouds(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(CloudError, match="no meshes or clouds"):
        load_clouds(tmp_path)


def test_one_bad_file_in_a_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((30, 3)))
    (tmp_path / "b.obj").write_bytes(b"nonsense")
    with pytest.raises(CloudError, match=r"b\.obj: can't be read"):
        load_clouds(tmp_path, 10)


def test_mixed_dimensions(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((30, 3)))
    np.save(tmp_path / "b.npy", np.zeros((30, 2)))
    with pytest.raises(CloudError, match=r"b\.npy: clouds of 10 .* in 2 dimensions; expected 10 .* 3 .*a\.npy"):
        load_clouds(tmp_path, 10)


def test_all_points_of_unequal_clouds(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((30, 3)))
    np.save(tmp_path / "b.npy", np.zeros((31, 3)))
    with pytest.raises(CloudError, match=r"b\.npy: clouds of 31 points .* expected 30 points"):
        load_clouds(tmp_path, None)


def test_all_points_of_a_mesh(tmp_path, mesh_format, corner):
    name, write = mesh_format
    (tmp_path / name).write_bytes(write(*corner))
    with pytest.raises(CloudError, match="a mesh, which has any number of points; give num_points"):
        load_clouds(tmp_path / name, None)


@pytest.mark.parametrize("num_points", [0, -5])
def test_number_of_points(tmp_path, num_points):
    np.save(tmp_path / "a.npy", np.zeros((30, 3)))
    for load in (lambda: load_clouds(tmp_path, num_points), lambda: load_example("body", num_points)):
        with pytest.raises(ValueError, match=f"num_points must be at least 1 or None, got {num_points}") as caught:
            load()
        assert not isinstance(caught.value, CloudError)
    with pytest.raises(TypeError):
        load_clouds(tmp_path, 2.5)


def test_split_of_what_has_none(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((30, 3)))
    for path in (tmp_path / "a.npy", tmp_path):
        with pytest.raises(CloudError, match=r"a\.npy: belongs to no split, and split='train' was asked for"):
            load_clouds(path, 10, split="train")


@pytest.mark.parametrize(
    "labels", [np.array(["train"]), np.arange(4), np.array([["train"] * 4]), np.array(["train", None] * 2)]
)
def test_bad_split_arrays(tmp_path, labels):
    np.savez(tmp_path / "a.npz", points=np.zeros((4, 5, 3)), split=labels)
    with pytest.raises(CloudError, match=r"a\.npz: can't be read \((its `split` is|pickled)"):
        load_clouds(tmp_path / "a.npz", 5, split="train")


def test_errors_pickle(tmp_path):
    with pytest.raises(CloudError) as caught:
        load_clouds(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

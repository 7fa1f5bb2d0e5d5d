"""Each format, folders, splits, seeds: what comes out of good files."""

from __future__ import annotations

import os
import re
import struct
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pyro_pcflow.data import CloudError, convert_clouds, load_clouds
from pyro_pcflow.data.listing import list_entries
from pyro_pcflow.data.reading import find_splits, iterate_stored


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def save(folder, name, array):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def numbered(num_points, dim=3, start=0):
    return np.arange(start, start + num_points * dim, dtype=np.float64).reshape(num_points, dim)


def cells(points, vertices, faces):
    """Index of the face that each point lies on, and of the quarter of that face."""
    index = np.full(len(points), -1)
    for number, (a, b, c) in enumerate(vertices[faces]):
        solution = np.linalg.lstsq(np.stack([b - a, c - a], axis=1), (points - a).T, rcond=None)[0]
        weights = np.stack([1 - solution.sum(axis=0), *solution], axis=1)
        rebuilt = weights @ np.stack([a, b, c])
        on_face = (np.abs(rebuilt - points).max(axis=1) < 1e-5) & (weights > -1e-5).all(axis=1)
        quarter = np.where(weights.max(axis=1) > 0.5, weights.argmax(axis=1), 3)
        index[on_face] = 4 * number + quarter[on_face]
    return index


def test_mesh_points_are_uniform_by_area(tmp_path, mesh_format, corner):
    name, write = mesh_format
    clouds = load_clouds(put(tmp_path, name, write(*corner)), 20_000)
    assert clouds.shape == (1, 20_000, 3)
    assert clouds.dtype == torch.float32
    index = cells(clouds[0].double().numpy(), *corner)
    assert (index >= 0).all()
    observed = np.bincount(index, minlength=16)
    expected = np.repeat([1, 1.5, 3, 3.5], 4) / 36 * 20_000
    assert chisquare(observed, expected).pvalue > 1e-4


def test_cloud_points_are_a_subset(tmp_path, cloud_format):
    name, write = cloud_format
    points = numbered(50)
    path = put(tmp_path, name, write(points, None))
    whole = load_clouds(path, 50)
    assert torch.equal(whole, torch.tensor(points[None], dtype=torch.float32))
    assert torch.equal(load_clouds(path, None), whole)
    some = load_clouds(path, 20)[0]
    assert len({tuple(point) for point in some.tolist()}) == 20
    assert {tuple(point) for point in some.tolist()} <= {tuple(point) for point in whole[0].tolist()}


def test_points_repeat_after_all_were_taken(tmp_path):
    path = save(tmp_path, "few.npy", numbered(10))
    with pytest.warns(UserWarning, match=r"few\.npy: 10 points, 25 asked: points repeat") as record:
        cloud = load_clouds(path, 25)[0]
    assert len(record) == 1
    assert record[0].filename == __file__
    assert torch.equal(cloud[:10], torch.tensor(numbered(10), dtype=torch.float32))
    assert {tuple(point) for point in cloud.tolist()} == {tuple(point) for point in numbered(10).tolist()}


def test_one_warning_for_a_folder(tmp_path):
    for name in ("a.npy", "b.npy", "c.npy"):
        save(tmp_path, name, numbered(30 if name == "b.npy" else 10))
    with pytest.warns(UserWarning, match=r"a\.npy: 10 points.* \(and 1 clouds more\)") as record:
        load_clouds(tmp_path, 20)
    assert len(record) == 1


def test_seeds(tmp_path, any_format, corner):
    name, write = any_format
    path = put(tmp_path, name, write(np.tile(corner[0], (20, 1)) + numbered(80) / 99, corner[1]))
    assert torch.equal(load_clouds(path, 40, seed=3), load_clouds(path, 40, seed=3))
    assert not torch.equal(load_clouds(path, 40, seed=3), load_clouds(path, 40, seed=4))


def test_global_generators_stay_alone(tmp_path, corner, any_format):
    name, write = any_format
    path = put(tmp_path, name, write(*corner))
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    load_clouds(path, 3)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())


def test_a_file_does_not_depend_on_its_neighbours(tmp_path, corner):
    path = put(tmp_path, "deep/m.npy", b"")
    np.save(path, numbered(100))
    alone = load_clouds(tmp_path, 10)
    save(tmp_path, "a.npy", numbered(99, start=7))
    save(tmp_path, "z/z.npy", np.stack([numbered(40), numbered(40, start=9)]))
    together = load_clouds(tmp_path, 10)
    assert together.shape == (4, 10, 3)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(load_clouds(path.parent, 10)[0], load_clouds(path, 10)[0])


def test_moving_a_folder_changes_nothing(tmp_path):
    save(tmp_path, "one/a.npy", numbered(100))
    save(tmp_path, "other/place/a.npy", numbered(100))
    assert torch.equal(load_clouds(tmp_path / "one", 9), load_clouds(tmp_path / "other/place", 9))


def test_equal_clouds_get_their_own_draws(tmp_path):
    save(tmp_path, "a.npy", np.stack([numbered(100)] * 2))
    save(tmp_path, "b.npy", numbered(100))
    first, second, third = load_clouds(tmp_path, 10)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_folder_order_hidden_and_foreign_files(tmp_path, monkeypatch):
    for number, name in enumerate(["b.npy", "a/z.npy", "a.npy", "B.npy", ".hidden.npy", ".git/x.npy"]):
        save(tmp_path, name, np.full((4, 2), number))
    put(tmp_path, "notes.md", b"no cloud")
    walk = os.walk

    def backwards(*args, **options):
        for folder, subfolders, files in walk(*args, **options):
            yield folder, subfolders, files[::-1]

    with pytest.warns(UserWarning, match=re.escape("1 file was passed over, whose endings are not known: notes.md;")):
        clouds = load_clouds(tmp_path, None)
    assert clouds[:, 0, 0].tolist() == [3, 2, 1, 0]
    (tmp_path / "notes.md").unlink()
    monkeypatch.setattr(os, "walk", backwards)
    assert torch.equal(load_clouds(tmp_path, None), clouds)


def test_files_that_are_passed_over_are_named(tmp_path):
    save(tmp_path, "train/a.npy", numbered(4))
    save(tmp_path, "test/b.npy", numbered(4))
    for number in range(6):
        put(tmp_path, f"train/{number}.pcd", b"a format of others")
    put(tmp_path, "test/only.pcd", b"of another split")
    put(tmp_path, "outside.las", b"of none")
    with pytest.warns(UserWarning, match="passed over") as told:
        load_clouds(tmp_path, None, split="train")
    (warning,) = told
    text = str(warning.message)
    assert text.startswith(f"{tmp_path}: 7 files were passed over, whose endings are not known: outside.las, ")
    assert "train/0.pcd, train/1.pcd, train/2.pcd, train/3.pcd, ...; known are .obj, .off" in text
    assert "only.pcd" not in text
    assert warning.filename == __file__
    with pytest.warns(UserWarning, match="8 files were passed over"):
        convert_clouds(tmp_path, tmp_path / "all.npy", None)


def test_mixed_folder(tmp_path, corner, writers):
    for name, write in writers.items():
        put(tmp_path, f"{write.__name__}/{name}", write(*corner))
    assert load_clouds(tmp_path, 4).shape == (14, 4, 3)


def test_stacks_grow_the_batch_in_order(tmp_path):
    sizes = [1, 40, 3, 200, 5, 1]
    for number, size in enumerate(sizes):
        save(tmp_path, f"{number}.npy", np.full((size, 500, 2), number))
    tracemalloc.start()
    clouds = load_clouds(tmp_path, 500)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert clouds[:, 0, 0].tolist() == [number for number, size in enumerate(sizes) for _ in range(size)]
    assert clouds.is_contiguous()
    # What growing had set aside is given back.
    assert kept < 1.3 * clouds.numel() * 4


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int64", "uint8"])
def test_array_types(tmp_path, dtype):
    path = save(tmp_path, "a.npy", numbered(20).astype(dtype))
    assert torch.equal(load_clouds(path, None)[0], torch.tensor(numbered(20), dtype=torch.float32))


def test_fortran_order_and_six_columns(tmp_path):
    points = np.asfortranarray(numbered(20, dim=6))
    assert torch.equal(load_clouds(save(tmp_path, "a.npy", points), None)[0], torch.tensor(points).float())


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3 4\n",
        "1,2\n3,4",
        "# caf\u00e9, 3 columns\n1,\t2 # first\n\n 3 ,4\n",
        "x y\r\n1e0 2.\r\n3 4\r\n",
        "col 0, col 1\n1.0,2\n3,4\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_tables(tmp_path, text, encoding):
    path = put(tmp_path, "a.txt", text.encode(encoding))
    assert load_clouds(path, None).tolist() == [[[1, 2], [3, 4]]]


def test_the_source_file_is_not_touched(tmp_path):
    path = save(tmp_path, "a.npy", numbered(20).astype(np.float32))
    before = path.read_bytes()
    load_clouds(path, None).zero_()
    assert path.read_bytes() == before


# Splits.


def pc15k(root, points=15000):
    for number, name in enumerate(["train/a", "train/b", "val/c", "test/d"]):
        index = np.arange(points)
        save(root, f"03001627/{name}.npy", np.stack([np.full(points, number), index, index], axis=1))
    return root


@pytest.mark.parametrize(
    ("split", "shapes", "low", "high"),
    [("train", [0, 1], 0, 9999), ("val", [2], 10000, 14999), ("test", [3], 10000, 14999)],
)
def test_pc15k(tmp_path, split, shapes, low, high):
    root = pc15k(tmp_path)
    clouds = load_clouds(root, 5000, split=split)
    assert clouds[:, 0, 0].tolist() == shapes
    assert clouds[..., 1].min() >= low
    assert clouds[..., 1].max() <= high
    assert len(load_clouds(root, None, split=split)[0]) == high - low + 1
    assert torch.equal(
        load_clouds(root / "03001627" / split, None, split=split)[..., 1:],
        load_clouds(root, None, split=split)[..., 1:],
    )


def test_the_splits_of_a_path(tmp_path):
    save(tmp_path, "some/test/a.npy", numbered(4))
    assert find_splits(tmp_path) == ("test",)
    save(tmp_path, "some/train/a.npy", numbered(4))
    assert find_splits(tmp_path) == ("train", "test")
    np.savez(tmp_path / "some" / "test" / "b.npz", points=np.zeros((3, 4, 2)), split=["val", "held", "train"])
    assert find_splits(tmp_path) == ("train", "val", "test", "held")
    np.savez(tmp_path / "some" / "test" / "b.npz", points=np.zeros((3, 4, 2)), split=np.arange(3))
    assert find_splits(tmp_path) == ("train", "test")
    assert find_splits(tmp_path / "some" / "test" / "a.npy") == ("test",)
    put(tmp_path, "some/train/c.npz", b"no archive")
    with pytest.raises(CloudError, match=r"c\.npz: can't be read"):
        find_splits(tmp_path)


def test_each_stored_cloud_knows_its_split(tmp_path):
    save(tmp_path, "test/a.npy", np.stack([numbered(4)] * 2))
    np.savez(tmp_path / "b.npz", points=np.zeros((2, 4, 2)), split=["val", "train"])
    save(tmp_path, "c.npy", numbered(5))
    stored = list(iterate_stored(list_entries(tmp_path, None), None))
    assert [(cloud.entry.name, cloud.index, cloud.split, cloud.num_points, cloud.remaining) for cloud in stored] == [
        ("b.npz", 0, "val", 4, 3),
        ("b.npz", 1, "train", 4, 2),
        ("c.npy", 0, None, 5, 1),
        ("test/a.npy", 0, "test", 4, 1),
        ("test/a.npy", 1, "test", 4, 0),
    ]


def test_pc15k_whole_and_single(tmp_path):
    root = pc15k(tmp_path)
    assert load_clouds(root, None).shape == (4, 15000, 3)
    path = root / "03001627/train/a.npy"
    assert load_clouds(path, None, split="train").shape == (1, 10000, 3)
    assert load_clouds(path, None, split="test").shape == (1, 5000, 3)


def test_split_folders_of_meshes(tmp_path, corner, writers):
    for name in ("chair/train/c.off", "chair/test/c.off", "desk/test/d.off"):
        put(tmp_path, name, writers["a.off"](*corner))
    assert load_clouds(tmp_path, 10, split="test").shape == (2, 10, 3)
    assert load_clouds(tmp_path / "chair" / "train" / "c.off", 10, split="train").shape == (1, 10, 3)
    with pytest.raises(CloudError, match=r"no files of split 'val'; there are test, train"):
        load_clouds(tmp_path, 10, split="val")
    put(tmp_path, "stray.off", writers["a.off"](*corner))
    with pytest.raises(CloudError, match=r"stray\.off: belongs to no split, and split='train' was asked for"):
        load_clouds(tmp_path, 10, split="train")


def test_the_innermost_folder_says_the_split(tmp_path):
    for number, name in enumerate(["train/a.npy", "train/test/b.npy", "test/train/c.npy", "test/other/d.npy"]):
        save(tmp_path, name, np.full((3, 2), number))
    assert load_clouds(tmp_path, None, split="train")[:, 0, 0].tolist() == [2, 0]
    assert load_clouds(tmp_path, None, split="test")[:, 0, 0].tolist() == [3, 1]


def test_parts_of_a_scene_are_turned_as_it_says(tmp_path, glb_parts, corner):
    make_header, pack = glb_parts
    header, blob = make_header(*corner)
    # A quarter of a turn about z carries x to y; glTF writes x, y, z, w.
    header["nodes"] = [{"mesh": 0, "rotation": [0, 0, 0.5**0.5, 0.5**0.5], "translation": [10, 0, 0]}]
    points = load_clouds(put(tmp_path, "a.glb", pack(header, blob)), 2000)[0]
    turned = corner[0] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + [10, 0, 0]
    assert np.allclose(points.amin(0), turned.min(0), atol=0.2)
    assert np.allclose(points.amax(0), turned.max(0), atol=0.2)


def test_split_of_category_files(tmp_path):
    points = np.stack([numbered(5, start=start) for start in range(4)])
    labels = np.array(["train", "test", "train", "val"])
    # Folders above, named like a split by chance, must not outvote the file.
    root = tmp_path / "test" / "data"
    root.mkdir(parents=True)
    np.savez(root / "a.npz", points=points, split=labels)
    for path in (root, root / "a.npz"):
        assert load_clouds(path, 5, split="train")[:, 0, 0].tolist() == [0, 2]
        assert load_clouds(path, 5, split="test")[:, 0, 0].tolist() == [1]
        assert len(load_clouds(path, 5)) == 4
    with pytest.raises(CloudError, match=r"a\.npz.*no cloud with split 'valid', only test, train, val"):
        load_clouds(root, 5, split="valid")
    np.savez(root / "b.npz", points=points)
    with pytest.raises(CloudError, match=r"b\.npz.*no array `split`, only points"):
        load_clouds(root, 5, split="train")
    (root / "train").mkdir()
    (root / "b.npz").rename(root / "train" / "b.npz")
    assert len(load_clouds(root / "train", 5, split="train")) == 4


# Scenes.


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


def test_vertices_do_not_count(tmp_path, corner, writers):
    vertices, faces = corner
    crowd = np.concatenate([vertices, np.full((1000, 3), 50.0)])
    points = load_clouds(put(tmp_path, "a.ply", writers["text.ply"](crowd, faces)), 1000)
    assert points.max() <= 3


def test_materials_are_not_followed(tmp_path, corner, writers):
    os.mkfifo(tmp_path / "nowhere.mtl")
    path = put(tmp_path, "a.obj", writers["a.obj"](*corner))
    # Opening the pipe would wait for ever.
    assert load_clouds(path, 10).shape == (1, 10, 3)


# Progress.


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (True, True), (False, False)])
def test_progress(tmp_path, capsys, progress, shown):
    for name in "abc":
        save(tmp_path, f"{name}.npy", numbered(5))
    load_clouds(tmp_path, 5, progress=progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("3/3" in captured.err) is shown


def test_paths_may_be_strings(tmp_path, monkeypatch):
    save(tmp_path, "a.npy", numbered(5))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load_clouds(".", 5), load_clouds(Path("a.npy"), 5))


# Size.


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_many_files(tmp_path, count):
    for number in range(count):
        save(tmp_path, f"{number % 100:03d}/{number:05d}.npy", np.full((4, 3), number, dtype=np.float32))
    start = time.perf_counter()
    clouds = load_clouds(tmp_path, 4)
    assert time.perf_counter() - start < 60
    assert clouds.shape == (count, 4, 3)
    assert sorted(clouds[:, 0, 0].tolist()) == list(range(count))


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


def test_no_warnings_on_good_files(tmp_path, any_format, corner):
    name, write = any_format
    path = put(tmp_path, name, write(*corner))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_clouds(path, 4)


def test_float_rounding_of_binary_stl_is_units(tmp_path):
    record = struct.pack("<12fH", 0, 0, 1, 1e6, 0, 0, 1e6 + 1, 0, 0, 1e6, 1, 0, 0)
    path = put(tmp_path, "a.stl", bytes(80) + struct.pack("<I", 1) + record)
    points = load_clouds(path, 100)
    assert points[..., 0].min() >= 1e6
    assert points[..., 0].max() <= 1e6 + 1

"""Clouds of a path one after another, and their splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.cloud_files import numbered, put, save
from pyro_pcflow.data import CloudError, load_clouds
from pyro_pcflow.data.listing import list_entries
from pyro_pcflow.data.reading import find_splits, iterate_stored


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


def test_several_tables_of_a_file_are_several_clouds(tmp_path):
    put(tmp_path, "a.pts", b"1\n1 2 3\n2\n4 5 6\n7 8 9\n")
    stored = list(iterate_stored(list_entries(tmp_path, None), None))
    assert [(cloud.index, cloud.num_points, cloud.remaining) for cloud in stored] == [(0, 1, 1), (1, 2, 0)]
    assert [cloud.source.columns["x"].tolist() for cloud in stored] == [[1], [4, 7]]


def test_pc15k_whole_and_single(tmp_path):
    root = pc15k(tmp_path)
    assert load_clouds(root, None).shape == (4, 15000, 3)
    path = root / "03001627/train/a.npy"
    assert load_clouds(path, None, split="train").shape == (1, 10000, 3)
    assert load_clouds(path, None, split="test").shape == (1, 5000, 3)

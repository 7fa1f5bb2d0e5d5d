"""The embedded sets: sizes, splits, units, and that they need nothing else."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_pcflow.data import example_path, load_clouds, load_example

SETS = [("spot", 1, 2048), ("chair", 20, 8192), ("table", 6, 8192), ("body", 300, 2048)]


@pytest.mark.parametrize(("name", "num_clouds", "stored"), SETS)
def test_examples(name, num_clouds, stored):
    clouds = load_example(name)
    assert clouds.shape == (num_clouds, 2048, 3)
    assert clouds.dtype == torch.float32
    assert clouds.abs().max() <= 1.1
    assert clouds.flatten(1).std(1).min() > 0.1
    if name != "spot":
        whole = load_example(name, None)
        assert whole.shape == (num_clouds, stored, 3)
        # Each shape fills [-1, 1] along its longest side.
        assert (whole.abs().amax((1, 2)) > 0.97).all()
    few = load_example(name, 100)
    assert few.shape == (num_clouds, 100, 3)
    assert torch.equal(few, load_example(name, 100))
    assert not torch.equal(few, load_example(name, 100, seed=1))


def test_splits_are_a_partition():
    for name in ("body", "chair", "table"):
        parts = [
            load_example(name, 64, split=split)
            for split in ("train", "val", "test")
            if (name, split)
            in {
                ("body", "train"),
                ("body", "test"),
                ("chair", "train"),
                ("chair", "val"),
                ("chair", "test"),
                ("table", "train"),
                ("table", "val"),
            }
        ]
        together = {cloud.numpy().tobytes() for part in parts for cloud in part}
        assert together == {cloud.numpy().tobytes() for cloud in load_example(name, 64)}
        assert len(together) == sum(len(part) for part in parts)
    assert [len(load_example("body", 64, split=split)) for split in ("train", "test")] == [240, 60]


def test_bodies_stand_upright():
    bodies = load_example("body")
    extent = bodies.amax(1) - bodies.amin(1)
    assert (extent[:, 2].argsort() >= 0).all()
    assert (extent[:, 2] > extent[:, 1]).float().mean() > 0.95


def test_spot_is_a_mesh_on_disk():
    path = example_path("spot")
    assert path.is_file()
    assert path.read_text().startswith("v ")
    assert torch.equal(load_clouds(path, 64, seed=5), load_example("spot", 64, seed=5))


def test_more_points_than_stored():
    with pytest.warns(UserWarning, match="example 'body': 2048 points, 3000 asked: points repeat") as record:
        clouds = load_example("body", 3000, split="test")
    assert clouds.shape == (60, 3000, 3)
    assert len(record) == 1
    assert record[0].filename == __file__


def test_unknown_names():
    with pytest.raises(ValueError, match="no example 'cow'; examples are body, chair, spot, table"):
        load_example("cow")
    with pytest.raises(ValueError, match="'body' has no split 'val'; splits are test, train"):
        load_example("body", split="val")
    with pytest.raises(ValueError, match="'spot' is a single shape without splits"):
        load_example("spot", split="train")
    with pytest.raises(ValueError, match="no embedded mesh 'body': load_example reads it; meshes are spot"):
        example_path("body")
    with pytest.raises(ValueError, match="no embedded mesh 'cow'; meshes are spot"):
        example_path("cow")


def test_examples_are_small_and_offline(monkeypatch):
    files = list(example_path("spot").parent.iterdir())
    assert sum(file.stat().st_size for file in files) < 6_000_000
    assert {file.name for file in files} == {"body.npz", "chair.npz", "spot.obj", "table.npz"}

    def refuse(*args, **options):
        raise AssertionError("an example went to the network")

    monkeypatch.setattr(socket, "socket", refuse)
    for name, *_ in SETS:
        load_example(name, 8)


def test_notice_credits_every_creator():
    notice = (Path(__file__).parents[2] / "NOTICE").read_text()
    credited = " ".join(notice.split())
    for name in ("chair", "table"):
        with np.load(example_path("spot").with_name(f"{name}.npz")) as arrays:
            assert all(creator in credited for creator in arrays["creator"].tolist())
    assert "Keenan Crane" in credited
    assert "MakeHuman" in credited


def test_the_room_exports_what_it_promises():
    room = importlib.import_module("pyro_pcflow.data")
    assert room.__all__ == sorted(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)

"""Each format, folders, splits, seeds: what comes out of good files."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.cloud_files import numbered, put, save
from pyro_pcflow.data import load_clouds


def test_one_warning_for_a_folder(tmp_path):
    for name in ("a.npy", "b.npy", "c.npy"):
        save(tmp_path, name, numbered(30 if name == "b.npy" else 10))
    with pytest.warns(UserWarning, match=r"a\.npy: 10 points.* \(and 1 clouds more\)") as record:
        load_clouds(tmp_path, 20)
    assert len(record) == 1


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


def test_the_source_file_is_not_touched(tmp_path):
    path = save(tmp_path, "a.npy", numbered(20).astype(np.float32))
    before = path.read_bytes()
    load_clouds(path, None).zero_()
    assert path.read_bytes() == before


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

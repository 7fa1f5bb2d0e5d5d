"""Conversion to one file: the same clouds as loading, whole or not at all, over nothing that is there."""

from __future__ import annotations

import os
import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from pyro_pcflow.data import CloudError, MappedClouds, convert_clouds, converting, load_clouds


def numbered(num_points, dim=3, start=0):
    return np.arange(start, start + num_points * dim, dtype=np.float64).reshape(num_points, dim)


@pytest.fixture
def source(tmp_path):
    """A folder of files, to which nothing may be added."""
    folder = tmp_path / "source"
    folder.mkdir()
    np.save(folder / "b.npy", np.stack([numbered(30), numbered(30, start=7)]))
    np.save(folder / "a.npy", numbered(20, start=100))
    return folder


def test_what_is_written_by_hand_comes_out(tmp_path, source):
    out = convert_clouds(source / "b.npy", tmp_path / "new.npy", None)
    assert out == tmp_path / "new.npy"
    expected = np.stack([numbered(30), numbered(30, start=7)]).astype("<f4")
    # After a header whose size is a multiple of 64, nothing but the numbers.
    assert out.read_bytes()[128:] == expected.tobytes()
    back = np.load(out)
    assert back.dtype == np.float32
    assert back.flags.c_contiguous
    assert np.array_equal(back, expected)


def test_every_format_as_it_is_loaded(tmp_path, corner, any_format):
    name, write = any_format
    path = tmp_path / name
    path.write_bytes(write(np.tile(corner[0], (20, 1)) + numbered(80) / 99, corner[1]))
    for seed in (0, 3):
        out = convert_clouds(path, tmp_path / f"out{seed}.npy", 40, seed)
        assert torch.equal(torch.from_numpy(np.load(out)), load_clouds(path, 40, seed=seed))
    assert not np.array_equal(np.load(tmp_path / "out0.npy"), np.load(out))


def test_a_mixed_folder_as_it_is_loaded(tmp_path, corner, writers):
    folder = tmp_path / "source"
    for name, write in writers.items():
        (folder / write.__name__).mkdir(parents=True, exist_ok=True)
        (folder / write.__name__ / name).write_bytes(write(*corner))
    np.save(folder / "stack.npy", np.random.default_rng(0).normal(size=(70, 9, 3)))
    np.savez(folder / "more.npz", points=np.random.default_rng(1).normal(size=(5, 4, 3)).astype(">f4"))
    out = convert_clouds(folder, tmp_path / "deep" / "er" / "out.npy", 4, seed=2)
    clouds = load_clouds(folder, 4, seed=2)
    data = MappedClouds(out)
    assert data.shape == clouds.shape == (89, 4, 3)
    assert torch.equal(data.read(torch.arange(89)), clouds)
    assert [entry.name for entry in out.parent.iterdir()] == ["out.npy"]


def test_one_split_as_it_is_loaded(tmp_path):
    points = np.random.default_rng(0).normal(size=(5, 20, 3))
    np.savez(tmp_path / "kind.npz", points=points, split=["train", "test", "train", "val", "test"])
    out = convert_clouds(tmp_path / "kind.npz", tmp_path / "out.npy", 7, split="test")
    expected = load_clouds(tmp_path / "kind.npz", 7, split="test")
    assert expected.shape == (2, 7, 3)
    assert torch.equal(MappedClouds(out).read(torch.arange(2)), expected)


def test_other_dimensions(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.random.default_rng(0).normal(size=(4, 30, 6)).astype(np.float16)))
    out = convert_clouds(tmp_path / "a.npy", tmp_path / "b.npy", 8)
    assert torch.equal(torch.from_numpy(np.load(out)), load_clouds(tmp_path / "a.npy", 8))


def test_repeated_points_are_told_once(tmp_path, source):
    with pytest.warns(UserWarning, match=r"a\.npy: 20 points, 25 asked: points repeat") as record:
        out = convert_clouds(source, tmp_path / "out.npy", 25)
    assert len(record) == 1
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match="repeat"):
        assert torch.equal(torch.from_numpy(np.load(out)), load_clouds(source, 25))


def test_memory_does_not_grow_with_the_data(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.random.default_rng(0).normal(size=(3000, 500, 3)).astype(np.float32))
    convert_clouds(path, tmp_path / "warm.npy", 5)
    tracemalloc.start()
    convert_clouds(path, tmp_path / "b.npy", 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "b.npy").stat().st_size > 17e6
    assert peak < 1e6


# Nothing is overwritten.


def test_an_existing_file_stays(tmp_path, source):
    out = tmp_path / "out.npy"
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"out\.npy exists already and is not overwritten: name another"):
        convert_clouds(source, out, 5)
    with pytest.raises(FileExistsError):
        convert_clouds(source / "a.npy", source / "a.npy", 5)
    assert out.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["out.npy", "source"]


def test_an_existing_file_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "out.npy").write_bytes(b"mine")
    monkeypatch.setattr(converting, "iterate_clouds", lambda *args, **options: pytest.fail("was read"))
    with pytest.raises(FileExistsError):
        convert_clouds(tmp_path, tmp_path / "out.npy", 5)


@pytest.mark.parametrize("links", [True, False])
def test_a_broken_link_stays(tmp_path, source, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    out = tmp_path / "out.npy"
    out.symlink_to(tmp_path / "gone.npy")
    with pytest.raises(FileExistsError):
        convert_clouds(source, out, 5)
    assert out.is_symlink()
    assert not (tmp_path / "gone.npy").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(tmp_path, source, monkeypatch, links):
    out = tmp_path / "out.npy"
    iterate = converting.iterate_clouds

    def write_late(*args, **options):
        yield from iterate(*args, **options)
        out.write_bytes(b"mine")

    monkeypatch.setattr(converting, "iterate_clouds", write_late)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(FileExistsError, match="exists already and is not overwritten"):
        convert_clouds(source, out, 5)
    assert out.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["out.npy", "source"]


def no_links(*args):
    raise PermissionError(1, "Operation not permitted")


def test_a_file_system_without_links(tmp_path, source, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    out = convert_clouds(source, tmp_path / "out.npy", 5)
    assert torch.equal(torch.from_numpy(np.load(out)), load_clouds(source, 5))
    assert sorted(os.listdir(tmp_path)) == ["out.npy", "source"]


# All or nothing.


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(tmp_path, source, monkeypatch, error):
    iterate = converting.iterate_clouds
    during = []

    def stop_late(*args, **options):
        clouds = iterate(*args, **options)
        yield next(clouds)
        yield next(clouds)
        during.extend(os.listdir(tmp_path))
        raise error

    monkeypatch.setattr(converting, "iterate_clouds", stop_late)
    with pytest.raises(error):
        convert_clouds(source, tmp_path / "out.npy", 5)
    assert os.listdir(tmp_path) == ["source"]
    # It was on its way, under a name that no loader takes for a cloud.
    (part,) = set(during) - {"source"}
    assert part.startswith(".out.npy.")
    assert part.endswith(".tmp")


def test_a_failure_at_the_first_write_leaves_nothing(tmp_path, source, monkeypatch):
    monkeypatch.setattr(converting, "_HEADER_BYTES", "no size")
    with pytest.raises(TypeError):
        convert_clouds(source, tmp_path / "out.npy", 5)
    assert os.listdir(tmp_path) == ["source"]


def test_a_bad_file_late_in_a_folder_leaves_nothing(tmp_path, source):
    (source / "z.obj").write_bytes(b"nonsense")
    with pytest.raises(CloudError, match=r"z\.obj: can't be read"):
        convert_clouds(source, tmp_path / "out.npy", 5)
    np.save(source / "z.npy", np.zeros((9, 2)))
    (source / "z.obj").unlink()
    with pytest.raises(
        CloudError, match=r"z\.npy: clouds of 5 points in 2 dimensions; expected 5 points in 3 .*a\.npy"
    ):
        convert_clouds(source, tmp_path / "out.npy", 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (source / "z.npy").unlink()
        with pytest.raises(UserWarning):
            convert_clouds(source, tmp_path / "out.npy", 25)
    assert os.listdir(tmp_path) == ["source"]


# Errors and progress.


@pytest.mark.parametrize(
    ("path", "out", "num_points", "kind", "words"),
    [
        ("nowhere", "out.npy", 5, FileNotFoundError, "nowhere: no such file or folder"),
        ("source", "out.npz", 5, ValueError, r"out\.npz: expected a name that ends in \.npy"),
        ("source", "out", 5, ValueError, "ends in"),
        ("source", "out.npy", 0, ValueError, "num_points must be at least 1 or None, got 0"),
        ("source", "out.npy", 2.5, TypeError, "integer"),
        ("source", "out.npy", None, CloudError, r"b\.npy: clouds of 30 points .* expected 20 points"),
        ("source", "deep/out.npy", 0, ValueError, "num_points"),
    ],
)
def test_errors_come_before_files(tmp_path, source, path, out, num_points, kind, words):
    with pytest.raises(kind, match=words):
        convert_clouds(tmp_path / path, tmp_path / out, num_points)
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (True, True), (False, False)])
def test_progress(tmp_path, source, capsys, progress, shown):
    convert_clouds(source, tmp_path / "out.npy", 5, progress=progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("3/3" in captured.err) is shown


def test_the_permissions_are_those_of_any_new_file(tmp_path, source):
    (tmp_path / "plain").write_bytes(b"")
    out = convert_clouds(source, tmp_path / "out.npy", 5)
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode

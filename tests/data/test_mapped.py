"""Clouds that stay in their file: what is read is what was written, and a process reads for itself."""

from __future__ import annotations

import copy
import hashlib
import io
import multiprocessing
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import pyro_pcflow as pcf
from pyro_pcflow.data import CloudError, MappedClouds, mapped


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(9, 40, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path, array):
    np.save(tmp_path / "clouds.npy", array)
    return tmp_path / "clouds.npy"


def resident_kilobytes(file):
    """How much of a mapped file this process has in memory, as Linux counts it."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(str(file))]
    return sum(int(line.split()[1]) for start in starts for line in lines[start : start + 8] if line[:4] == "Rss:")


# Reading.


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", ">f4", ">f8", ">f2"])
def test_items_and_reads_are_what_was_written(tmp_path, array, dtype):
    np.save(tmp_path / "a.npy", array.astype(dtype))
    expected = array.astype(dtype).astype(np.float32)
    data = MappedClouds(tmp_path / "a.npy")
    assert data.shape == (9, 40, 3)
    assert len(data) == 9
    assert f"shape=(9, 40, 3), dtype={np.dtype(dtype)}" in repr(data)
    for index in (0, 5, 8, -1, -9, np.int64(3)):
        item = data[index]
        assert item.dtype == torch.float32
        assert item.tolist() == expected[index].tolist()
    clouds = torch.tensor([7, 0, 8, 0, 3])
    points = torch.randint(40, (5, 11))
    some = data.read(clouds, points)
    assert (some.dtype, some.shape, some.is_contiguous()) == (torch.float32, (5, 11, 3), True)
    for row, cloud in enumerate(clouds.tolist()):
        for column, point in enumerate(points[row].tolist()):
            assert some[row, column].tolist() == expected[cloud, point].tolist()
    assert data.read(clouds).tolist() == expected[clouds.numpy()].tolist()


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_an_odd_start_of_the_numbers(tmp_path, array, dtype):
    """Other writers do not align their headers, and numpy copies unaligned arrays whole."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (9, 40, 3)}}".encode().ljust(100) + b"\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    (tmp_path / "a.npy").write_bytes(head + array.astype(dtype).tobytes())
    assert len(head) % 4
    data = MappedClouds(tmp_path / "a.npy")
    assert data[4].tolist() == array[4].tolist()
    assert data.read(torch.tensor([2]), torch.tensor([[39, 1]])).tolist() == array[[2]][:, [39, 1]].tolist()


def test_empty_reads(path):
    data = MappedClouds(path)
    assert data.read(torch.zeros(0, dtype=torch.long)).shape == (0, 40, 3)
    assert data.read(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long)).shape == (0, 4, 3)
    assert data.read(torch.tensor([1, 2]), torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 3)


def test_positions_of_any_integer_type(path, array):
    data = MappedClouds(path)
    for dtype in (torch.uint8, torch.int32):
        part = data.read(torch.tensor([8, 1], dtype=dtype), torch.tensor([[3], [39]], dtype=dtype))
        assert part.tolist() == array[[8, 1], [3, 39]][:, None].tolist()


def test_what_was_read_is_ones_own(path, array):
    data = MappedClouds(path)
    before = path.read_bytes()
    whole, part = data.read(torch.arange(9)), data.read(torch.arange(9), torch.zeros(9, 1, dtype=torch.long))
    for values in (whole, part, data[0]):
        values.zero_()
    del whole, part
    assert path.read_bytes() == before
    assert data[0].tolist() == array[0].tolist()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell")
def test_only_what_is_needed_is_read(tmp_path):
    path = tmp_path / "large.npy"
    size = 64 << 20
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (size // 12 // 1024, 1024, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        # A hole, which takes no space on the disk.
        file.truncate(file.tell() + size // 12 // 1024 * 1024 * 12)
    data = MappedClouds(path)
    assert resident_kilobytes(path) == 0
    assert len(data.fingerprint()) == 64
    assert resident_kilobytes(path) == 0
    assert data.read(torch.tensor([5000, 17])).abs().sum() == 0
    data.read(torch.tensor([3000, 17]), torch.zeros(2, 1, dtype=torch.long))
    assert 0 < resident_kilobytes(path) < 2048


@pytest.mark.skipif(not hasattr(mapped.mmap, "MADV_WILLNEED"), reason="the system takes no advice")
def test_whole_clouds_are_asked_for_at_once(tmp_path, monkeypatch):
    """Unless a few points of huge clouds are wanted."""
    advice = []

    class Listening(mapped.mmap.mmap):
        def madvise(self, option, start, length):
            advice.append((start, start + length))

    monkeypatch.setattr(mapped.mmap, "mmap", Listening)
    np.save(tmp_path / "a.npy", np.zeros((6, 20_000, 3), np.float32))
    data = MappedClouds(tmp_path / "a.npy")
    data.read(torch.tensor([4, 1, 4]))
    assert len(advice) == 2
    for cloud, (start, stop) in zip([1, 4], advice, strict=True):
        assert 0 <= 128 + cloud * 240_000 - start < mapped.mmap.PAGESIZE
        assert stop == 128 + (cloud + 1) * 240_000
    data.read(torch.tensor([4, 1, 4]), torch.zeros(3, 2, dtype=torch.long))
    assert len(advice) == 4
    data.read(torch.tensor([4, 1, 4]), torch.zeros(3, 1, dtype=torch.long))
    assert len(advice) == 4


def test_values_that_are_not_finite(tmp_path, array):
    array = array.astype(np.float64)
    array[5, 7, 1], array[5, 9, 2], array[6, 0, 0], array[2, 3] = np.nan, np.inf, 1e39, -np.inf
    np.save(tmp_path / "a.npy", array)
    data = MappedClouds(tmp_path / "a.npy")
    assert torch.isfinite(data.read(torch.tensor([0, 1, 3, 4, 7, 8]))).all()
    with pytest.raises(CloudError, match=r"a\.npy: cloud 5 has NaN, infinity .* in 2 of the points read; remove"):
        data.read(torch.tensor([0, 5, 2]))
    with pytest.raises(CloudError, match=r"a\.npy: cloud 2 has .* in 1 of"):
        data[2]
    with pytest.raises(CloudError, match=r"cloud 6 .*beyond float32"):
        data[6]
    # Only what is read counts.
    assert data.read(torch.tensor([5]), torch.tensor([[6, 8]])).tolist() == array[5:6, [6, 8]].astype("f4").tolist()


@pytest.mark.parametrize(
    ("clouds", "points", "kind", "words"),
    [
        (torch.tensor([9]), None, IndexError, r"clouds\.npy: clouds: expected positions from 0 to 8, got 9"),
        (torch.tensor([0, -1]), None, IndexError, "got -1"),
        (torch.tensor([0]), torch.tensor([[0, 40]]), IndexError, "points: expected positions from 0 to 39, got 40"),
        (torch.tensor([0]), torch.tensor([[-1]]), IndexError, "got -1"),
        (torch.tensor(3), None, ValueError, r"clouds of shape \(B,\), got \(\)"),
        (torch.tensor([0, 1]), torch.tensor([[0]]), ValueError, r"points of shape \(2, M\), .* got \(1, 1\)"),
        (torch.tensor([0, 1]), torch.tensor([0, 1]), ValueError, r"got \(2,\)"),
        (torch.tensor([0.0]), None, TypeError, "integers, got torch.float32"),
        (torch.tensor([True]), None, TypeError, "integers, got torch.bool"),
        (torch.tensor([0]), torch.tensor([[0.5]]), TypeError, "points: expected positions as integers"),
    ],
)
def test_bad_positions(path, clouds, points, kind, words):
    with pytest.raises(kind, match=words):
        MappedClouds(path).read(clouds, points)


def test_items_end(path, array):
    data = MappedClouds(path)
    for index in (9, -10):
        with pytest.raises(IndexError, match=f"no cloud {index}, it has 9"):
            data[index]
    with pytest.raises(TypeError):
        data[1.0]
    # The protocol of sequences: iteration stops at the error.
    assert [cloud.tolist() for cloud in data] == array.tolist()


# Processes.


def test_a_pickle_holds_no_data(tmp_path):
    array = np.ones((50, 400, 3), np.float32)
    np.save(tmp_path / "a.npy", array)
    data = MappedClouds(tmp_path / "a.npy")
    data[0]
    assert len(pickle.dumps(data)) < 2000
    for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert other[49].tolist() == array[49].tolist()
        assert other.fingerprint() == data.fingerprint()


def test_another_working_directory(path, array, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = MappedClouds("clouds.npy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert data[3].tolist() == array[3].tolist()


def test_a_forked_process_maps_for_itself(path, array, monkeypatch):
    data = MappedClouds(path)
    data[0]
    opened = []
    mapping = mapped.mmap.mmap
    monkeypatch.setattr(mapped.mmap, "mmap", lambda *args, **options: opened.append(1) or mapping(*args, **options))
    data[1]
    assert not opened
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert data[2].tolist() == array[2].tolist()
    assert len(opened) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of torch's threads, from Python 3.12 on
@pytest.mark.parametrize(
    "start",
    [
        # Each worker that is not forked imports torch; a server of forks pickles what a new process does.
        pytest.param(start, marks=pytest.mark.exhaustive) if start == "forkserver" else start
        for start in multiprocessing.get_all_start_methods()
    ],
)
def test_workers(path, array, start):
    data = MappedClouds(path)
    data[0]
    loader = DataLoader(data, batch_size=2, num_workers=2 if start == "fork" else 1, multiprocessing_context=start)
    assert torch.cat(list(loader)).tolist() == array.tolist()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_the_first_number_that_is_not_finite_is_found(path, array, dtype, monkeypatch):
    monkeypatch.setattr(mapped, "_CHUNK", 64)  # so that a cloud lies in several
    values = array.astype(dtype)
    np.save(path, values)
    data = MappedClouds(path)
    data.check_finite()
    for place, value in (((8, 39, 2), np.nan), ((7, 3, 0), np.inf), ((7, 2, 1), -np.inf)):
        values[place] = value
        np.save(path, values)
        with pytest.raises(CloudError, match=rf"clouds\.npy: point {place[1]} of cloud {place[0]} is NaN, infinite or"):
            data.check_finite()
    np.save(path, np.full((9, 40, 3), 1e39))
    with pytest.raises(CloudError, match="point 0 of cloud 0 is NaN, infinite or beyond float32; remove it"):
        MappedClouds(path).check_finite()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"clouds\.npy"):
        data.check_finite()


def test_a_file_is_looked_through_once(path, array, monkeypatch):
    data = MappedClouds(path)
    data.check_finite()
    with monkeypatch.context() as patch:
        patch.setattr(np, "isfinite", None)
        data.check_finite()
        pickle.loads(pickle.dumps(data)).check_finite()
    array[0, 0, 0] = np.nan
    np.save(path, array)
    os.utime(path, ns=(1, 1))  # whatever the clock's own steps
    with pytest.raises(CloudError, match="point 0 of cloud 0"):
        data.check_finite()


# Fingerprints.


def test_fingerprint_of_a_small_file(path, array):
    data = MappedClouds(path)
    # All of it, by hand.
    text = f"(9, 40, 3) <f4 {path.stat().st_size}".encode()
    assert data.fingerprint() == hashlib.sha256(text + array.tobytes()).hexdigest()
    path.rename(path.with_name("other.npy"))
    assert MappedClouds(path.with_name("other.npy")).fingerprint() == data_hash(array, path)
    for change in (lambda a: a[::-1], lambda a: a.reshape(18, 20, 3), lambda a: a.astype(">f4"), lambda a: a[:8]):
        np.save(path, change(array))
        assert MappedClouds(path).fingerprint() != data_hash(array, path)


def data_hash(array, path):
    np.save(path.with_name("again.npy"), array)
    return MappedClouds(path.with_name("again.npy")).fingerprint()


def test_fingerprint_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "_NUM_PIECES", 8)
    monkeypatch.setattr(mapped, "_PIECE", 120)
    path = tmp_path / "a.npy"
    np.save(path, np.ones((10, 100, 3), np.float32))
    before = MappedClouds(path).fingerprint()
    stored = np.load(path, mmap_mode="r+").reshape(1000, 3)
    noticed = []
    for index in range(1000):
        stored[index] = 2
        if MappedClouds(path).fingerprint() != before:
            noticed.append(index)
        stored[index] = 1
    # 8 pieces of the size of 10 points, which may begin within a point; both ends, and the same gap between all.
    assert 80 <= len(noticed) <= 88
    assert noticed[:10] == list(range(10))
    assert noticed[-10:] == list(range(990, 1000))
    gaps = [step for step in np.diff(noticed) if step > 1]
    assert len(gaps) == 7
    assert max(gaps) - min(gaps) <= 1


# At the border.


def as_npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def as_npz(array):
    stream = io.BytesIO()
    np.savez(stream, points=array)
    return stream.getvalue()


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.abort, ()


BAD = {
    "empty": (b"", "can't be read"),
    "words": (b"hello" * 40, "magic string"),
    "npz": (as_npz(np.zeros((2, 5, 3))), "magic string"),
    "pickle": (pickle.dumps(np.zeros((2, 5, 3))), "magic string"),
    "object": (as_npy(np.array([[[Trap(), None]]]), allow_pickle=True), "pickled Python objects, which are never"),
    "cut": (as_npy(np.zeros((2, 5, 3)))[:-1], "header promises 240 bytes of data, the file has 239"),
    "long": (as_npy(np.zeros((2, 5, 3))) + b"x", "header promises 240 bytes of data, the file has 241"),
    "damaged": (as_npy(np.zeros((2, 5, 3))).replace(b"'descr'", b"'desc{'"), "can't be read"),
    "flat": (as_npy(np.zeros((5, 3))), r"an array of shape \(5, 3\); expected .* \(S, N, D\)"),
    "deep": (as_npy(np.zeros((1, 2, 5, 3))), r"shape \(1, 2, 5, 3\)"),
    "none": (as_npy(np.zeros((0, 5, 3))), r"shape \(0, 5, 3\)"),
    "pointless": (as_npy(np.zeros((2, 0, 3))), r"shape \(2, 0, 3\)"),
    "narrow": (as_npy(np.zeros((2, 5, 1))), r"shape \(2, 5, 1\)"),
    "integers": (as_npy(np.zeros((2, 5, 3), int)), "an array of int64; expected .*convert_clouds"),
    "complex": (as_npy(np.zeros((2, 5, 3), complex)), "an array of complex128"),
    "fields": (as_npy(np.zeros((2, 5, 3), [("x", "f4")])), "an array of "),
    "fortran": (as_npy(np.asfortranarray(np.zeros((2, 5, 3)))), "Fortran order.*in C order"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, words = BAD[name]
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(CloudError, match=words) as caught:
        MappedClouds(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "expected a npy file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("a.npy", "file/a.npy"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such file"):
            MappedClouds(tmp_path / name)
    with pytest.raises(CloudError, match=r"can't be read \(a folder\)"):
        MappedClouds(tmp_path)
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(CloudError, match=r"pipe\.npy: can't be read \(neither a file nor a folder\)"):
        MappedClouds(tmp_path / "pipe.npy")


def test_a_file_that_changed(path, array):
    data = MappedClouds(path)
    np.save(path, array[:4])
    for use in (lambda: data[0], data.fingerprint):
        with pytest.raises(CloudError, match=r"now holds float32 \(4, 40, 3\), and float32 \(9, 40, 3\) before"):
            use()
    path.unlink()
    for use in (lambda: data[0], data.fingerprint):
        with pytest.raises(FileNotFoundError, match=r"clouds\.npy: no such file"):
            use()


def test_saved_clouds_are_mapped(tmp_path):
    clouds = torch.randn(3, 20, 2)
    data = MappedClouds(pcf.data.save_clouds(clouds, tmp_path / "a.npy"))
    assert torch.equal(data.read(torch.arange(3)), clouds)

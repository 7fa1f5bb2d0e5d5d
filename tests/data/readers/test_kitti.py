"""Bare float32 scans: right numbers, and files of another kind refused."""

import struct

import numpy as np
import pytest

from helpers.scan_files import damaged
from pyro_pcflow.data.readers.kitti import read_kitti


def scan(rng, number=200, columns=4):
    points = np.column_stack([rng.normal(0, 20, (number, 3)), rng.random(number), rng.integers(0, 32, number)])
    return points[:, :columns].astype("<f4")


def write(tmp_path, data, name="000000.bin"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.tobytes())
    return path


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 20, 100])
@pytest.mark.parametrize("columns", [4, 5])
def test_all_numbers_are_right(tmp_path, number, columns):
    points = scan(np.random.default_rng(number), number, columns)
    [table] = read_kitti(write(tmp_path, points, "a.BIN" if columns == 4 else "b.pcd.bin"))
    assert list(table.columns) == ["x", "y", "z", "intensity", "ring"][:columns]
    for index, values in enumerate(table.columns.values()):
        assert values.dtype == np.float32
        assert values.tolist() == points[:, index].tolist()
    assert table.named
    assert len(table) == number


def test_bytes_by_hand(tmp_path):
    [table] = read_kitti(write(tmp_path, struct.pack("<8f", 1, 2, 3, 0.5, -4, 5.5, 0, 255)))
    assert {name: values.tolist() for name, values in table.columns.items()} == {
        "x": [1, -4],
        "y": [2, 5.5],
        "z": [3, 0],
        "intensity": [0.5, 255],
    }


def test_a_flat_scan_and_a_few_lost_points_are_no_reason(tmp_path):
    points = scan(np.random.default_rng(0), 1000)
    points[:, 2] = 0
    points[:5, 0] = np.nan
    [table] = read_kitti(write(tmp_path, points))
    assert np.isnan(table.columns["x"]).sum() == 5


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.bin", lambda rng: b"", "empty"),
        ("a.bin", lambda rng: bytes(15), "15 bytes are no whole number of points of 16"),
        ("a.pcd.bin", lambda rng: bytes(16), "16 bytes are no whole number of points of 20"),
        ("a.bin", lambda rng: rng.bytes(1600), "could be the x, y, z of a laser scan"),
        ("a.pcd.bin", lambda rng: rng.bytes(2000), "could be the x, y, z of a laser scan"),
        ("a.bin", lambda rng: rng.normal(size=(100, 4)).astype("<f8"), "could be the x, y, z"),
        ("a.bin", lambda rng: rng.integers(1, 1000, (100, 4)).astype("<i4"), "could be the x, y, z"),
        ("a.bin", lambda rng: np.full((100, 4), np.nan, "<f4"), "only 0% of its numbers"),
        ("a.bin", lambda rng: np.full((100, 4), np.inf, "<f4"), "could be the x, y, z"),
        ("a.bin", lambda rng: rng.normal(size=(100, 3)).astype("<f4"), "fourth column is negative"),
        ("a.bin", lambda rng: scan(rng, 100, 5), "fourth column is negative"),
        ("a.bin", lambda rng: np.abs(scan(rng, 100, 5)), "let its name end in .pcd.bin"),
        ("a.pcd.bin", lambda rng: np.abs(scan(rng, 100, 4)), "fifth column"),
        ("a.bin", lambda rng: scan(rng, 100).astype(">f4"), "could be the x, y, z"),
    ],
)
def test_other_files_are_refused(tmp_path, name, make, message):
    with pytest.raises(ValueError, match=message):
        read_kitti(write(tmp_path, make(np.random.default_rng(0)), name))


def fuzz(tmp_path, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        columns = int(rng.integers(4, 6))
        data = damaged(scan(rng, 50, columns).tobytes(), rng)
        try:
            [table] = read_kitti(write(tmp_path, data, "a.bin" if columns == 4 else "a.pcd.bin"))
        except ValueError:
            continue
        assert len(table) * 4 * columns == len(data)


def test_damaged_files(tmp_path):
    fuzz(tmp_path, range(300))


@pytest.mark.exhaustive
def test_many_damaged_files(tmp_path):
    fuzz(tmp_path, range(1000, 4000))

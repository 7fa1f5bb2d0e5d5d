"""Scans of any size and format, with origin, features and names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.cloud_files import put, save
from pyro_pcflow.data import CloudError, load_scans, save_scan

UTM = np.array([701362.0, 4485513.0, 40.0])


def text(points, header="x y z"):
    return (header + "\n" + "\n".join(" ".join(f"{value:.4f}" for value in row) for row in points) + "\n").encode()


def cube(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, 3)).round(4)


def test_scans_of_a_folder_share_one_origin(tmp_path):
    points = {"a.txt": cube(100) + UTM, "b.csv": cube(80, 1) + UTM + [30, 0, 0], "c.npy": cube(60, 2) + UTM}
    put(tmp_path, "a.txt", text(points["a.txt"]))
    put(tmp_path, "b.csv", text(points["b.csv"]).replace(b" ", b","))
    save(tmp_path, "c.npy", points["c.npy"])
    scans = load_scans(tmp_path)
    assert [scan.name for scan in scans] == list(points)
    assert len({tuple(scan.origin.tolist()) for scan in scans}) == 1
    for scan in scans:
        assert scan.points.dtype == torch.float32
        assert scan.origin.dtype == torch.float64
        assert (scan.coordinates - torch.from_numpy(points[scan.name])).abs().max() < 1e-5


def test_small_coordinates_keep_their_zero(tmp_path):
    save(tmp_path, "a.npy", cube(100))
    (scan,) = load_scans(tmp_path)
    assert scan.origin.tolist() == [0, 0, 0]
    assert torch.equal(scan.points, torch.from_numpy(cube(100)).float())


def test_a_scan_far_from_the_others_keeps_its_digits(tmp_path):
    save(tmp_path, "a.npy", cube(100) + UTM)
    save(tmp_path, "b.npy", cube(100) - UTM)
    near, far = load_scans(tmp_path)
    assert torch.equal(near.origin, far.origin)
    assert (near.points.dtype, far.points.dtype) == (torch.float32, torch.float64)
    assert (far.coordinates - torch.from_numpy(cube(100) - UTM)).abs().max() < 1e-9


def test_rows_features_and_counts(tmp_path):
    rows = np.concatenate([cube(50), np.arange(50)[:, None]], axis=1)
    rows[4, 1] = np.nan
    rows[9] = rows[8]
    put(tmp_path, "cups/train/a.txt", text(rows, "x y z intensity"))
    (scan,) = load_scans(tmp_path, features="intensity")
    assert scan.skipped == 1
    assert scan.rows.tolist() == [row for row in range(50) if row != 4]
    assert scan.features[:5].flatten().tolist() == [0, 1, 2, 3, 5]
    assert (scan.feature_names, scan.label, scan.split, len(scan)) == (("intensity",), "cups", "train", 49)
    assert scan.num_duplicates == 1
    with pytest.raises(CloudError, match="1 of 50 points are NaN"):
        load_scans(tmp_path, drop_nan=False)


def test_tables_that_cannot_be_told_apart_are_refused_with_the_choices(tmp_path):
    put(tmp_path, "a.txt", b"9 1 2 3\n4 5 6 7\n8 9 1 2\n")
    with pytest.raises(CloudError, match=r"a\.txt: .*columns="):
        load_scans(tmp_path)
    (scan,) = load_scans(tmp_path, columns="2,3,4")
    assert scan.points[0].tolist() == [1, 2, 3]


def test_fewer_points_where_there_are_more(tmp_path):
    save(tmp_path, "a.npy", cube(100))
    save(tmp_path, "b.npy", cube(20))
    assert [len(scan) for scan in load_scans(tmp_path, num_points=30)] == [30, 20]
    with pytest.raises(ValueError, match="num_points must be at least 1"):
        load_scans(tmp_path, num_points=0)


@pytest.mark.parametrize("name", ["scored.ply", "scored.las", "scored.laz"])
def test_a_scored_scan_comes_back_in_its_frame(tmp_path, name):
    if not name.endswith("ply"):
        pytest.importorskip("laspy")
    points = cube(100) + UTM
    put(tmp_path, "in/a.txt", text(np.concatenate([points, np.arange(100)[:, None]], axis=1), "x y z intensity"))
    (scan,) = load_scans(tmp_path / "in", features="intensity")
    scores = torch.linspace(-5, 2, 100)
    path = save_scan(scan, tmp_path / "out" / name, {"log_density": scores})
    score, intensity = (
        ("scalar_log_density", "scalar_intensity") if name.endswith("ply") else ("log_density", "intensity")
    )
    (back,) = load_scans(path, features=[score, intensity])
    assert np.abs(back.coordinates.numpy() - points).max() < 1e-4
    assert torch.equal(back.features[:, 0].float(), scores)
    assert back.features[:, 1].tolist() == list(range(100))
    with pytest.raises(FileExistsError):
        save_scan(scan, path, {"log_density": scores})


def test_what_cannot_be_saved_is_refused(tmp_path):
    save(tmp_path, "a.npy", cube(10))
    (scan,) = load_scans(tmp_path)
    with pytest.raises(ValueError, match=r"names that end in \.ply"):
        save_scan(scan, tmp_path / "a.obj")
    with pytest.raises(ValueError, match=r"score: expected a number for each of 10 points, got \(9,\)"):
        save_scan(scan, tmp_path / "a.ply", {"score": torch.zeros(9)})
    with pytest.raises(ValueError, match="x: the scan has a column of this name"):
        save_scan(scan, tmp_path / "a.ply", {"x": torch.zeros(10)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy"]


def test_features_that_would_have_one_name_are_refused(tmp_path):
    put(tmp_path, "a.csv", b"x,y,z,speed,scalar_speed\n0,0,0,1,2\n1,1,1,3,4\n")
    (scan,) = load_scans(tmp_path, features="speed,scalar_speed")
    with pytest.raises(ValueError, match="features speed, scalar_speed would have one name there"):
        save_scan(scan, tmp_path / "b.ply")

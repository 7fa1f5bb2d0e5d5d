"""What is in files of points, against what was put into them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pyro_pcflow as pcf
from pyro_pcflow.cli import info_data, main
from pyro_pcflow.cli.info_data import count_duplicates


def info(capsys, *words):
    assert main(["info", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("values", [2, 10, 1000])
def test_duplicates_against_unique_rows(dtype, values):
    points = np.random.default_rng(0).integers(-values, values, (500, 3)).astype(dtype)
    assert count_duplicates(points) == len(points) - len(np.unique(points, axis=0))


def test_duplicates_with_a_nan_are_none():
    assert count_duplicates(np.array([[np.nan, 0.0], [np.nan, 0.0], [0.0, 1.0], [-0.0, 1.0]])) == 1
    assert count_duplicates(np.zeros((0, 3))) == 0


def test_a_table(tmp_path, capsys):
    rows = ["x,y,z,intensity,class", "0,0,0,5,1", "1,2,3,7,2", "1,2,3,9,2", "nan,0,0,1,1"]
    (tmp_path / "scan.csv").write_text("\n".join(rows))
    found = info(capsys, tmp_path / "scan.csv")
    (cloud,) = found["contents"]
    assert (found["clouds"], found["points"], found["duplicates"], found["nan_rows"]) == (1, 4, 1, 1)
    assert found["extents"] == [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
    assert cloud["coordinates"] == ["x", "y", "z"]
    columns = {column["name"]: column for column in cloud["columns"]}
    assert [*columns] == ["x", "y", "z", "intensity", "class"]
    assert (columns["intensity"]["min"], columns["intensity"]["max"]) == (1, 9)
    assert columns["x"]["not_finite"] == 1
    assert main(["info", str(tmp_path / "scan.csv")]) == 0
    text = capsys.readouterr().out
    assert "coordinate, 1 NaN or infinite" in text


def test_columns_that_cannot_be_told_apart_are_shown_all_the_same(tmp_path, capsys):
    np.savetxt(tmp_path / "a.txt", np.random.default_rng(0).normal(size=(9, 5)))
    (cloud,) = info(capsys, tmp_path / "a.txt")["contents"]
    assert cloud["coordinates"] is None
    assert "columns" in cloud["why"]
    assert len(cloud["columns"]) == 5
    (cloud,) = info(capsys, tmp_path / "a.txt", "--columns", "2,3,4")["contents"]
    assert cloud["coordinates"] == ["2", "3", "4"]


def test_an_array_of_clouds_in_pieces(tmp_path, capsys, monkeypatch):
    points = np.random.default_rng(0).normal(size=(7, 20, 3)).astype(np.float32)
    points[3, 5] = np.nan
    points[6, 1] = points[6, 0]
    np.save(tmp_path / "a.npy", points)
    monkeypatch.setattr(info_data, "VALUES_AT_ONCE", 150)
    found = info(capsys, tmp_path / "a.npy")
    kept = points[np.isfinite(points).all(-1)]
    assert (found["clouds"], found["points"], found["points_in_a_cloud"]) == (7, 140, [20, 20])
    assert (found["duplicates"], found["nan_rows"]) == (1, 1)
    assert found["extents"] == [[float(low), float(high)] for low, high in zip(kept.min(0), kept.max(0), strict=True)]


def test_a_mesh(tmp_path, capsys):
    (tmp_path / "cow.obj").write_bytes(pcf.data.example_path("spot").read_bytes())
    found = info(capsys, tmp_path / "cow.obj")
    assert (found["kind"], found["meshes"], found["clouds"]) == ("mesh", 1, 0)
    assert found["contents"][0]["faces"] > 1000


def test_splits_and_categories_of_a_folder(tmp_path, capsys):
    for name in ("chair/train/a", "chair/test/b", "table/train/c"):
        path = tmp_path / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(0).normal(size=(9, 3)))
    (tmp_path / "notes.doc").touch()
    found = info(capsys, tmp_path)
    assert found["splits"] == {"test": 1, "train": 2}
    assert found["categories"] == {"chair": 2, "table": 1}
    assert found["passed_over"] == ["notes.doc"]
    assert found["formats"] == {".npy": 3}
    assert main(["info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "categories   chair (2), table (1)" in lines
    assert sum("train/" in line for line in lines) == 2


def test_splits_of_a_file(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", points=np.zeros((3, 4, 3)), split=["train", "test", "train"])
    assert info(capsys, tmp_path / "a.npz")["splits"] == {"test": 1, "train": 2}


def test_the_origin_that_map_coordinates_need(tmp_path, capsys):
    offsets = np.random.default_rng(0).uniform(size=(200, 3))
    np.save(tmp_path / "map.npy", np.array([701362.0, 4485513.0, 40.0]) + offsets)
    np.save(tmp_path / "near.npy", offsets)
    origin = np.array(info(capsys, tmp_path / "map.npy")["contents"][0]["origin"])
    assert np.abs(origin - [701362.5, 4485513.5, 40.5]).max() < 2
    assert info(capsys, tmp_path / "near.npy")["contents"][0]["origin"] is None


def test_a_long_folder_is_shortened_as_text_only(tmp_path, capsys):
    for number in range(info_data.MOST_SHOWN + 3):
        np.save(tmp_path / f"{number:02}.npy", np.zeros((4, 3), dtype=np.float32))
    assert len(info(capsys, tmp_path)["contents"]) == info_data.MOST_SHOWN + 3
    assert main(["info", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "and 3 more; --json lists all"

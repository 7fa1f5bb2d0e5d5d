"""Scores beside the file's own columns, in tables and in clouds that other programs open."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from helpers.cloud_files import put
from pyro_pcflow.cli import main
from pyro_pcflow.data import load_scans

HEADER = "time,x,y,z,intensity,class"


def scan_file(folder, name="scan.csv", offset=(0.0, 0.0, 0.0), count=40, header=HEADER):
    points = np.random.default_rng(0).normal(1, 1, (count, 3)).round(4) + offset
    rows = [f'{1e9 + i:.1f},{x!r},{y!r},{z!r},{3 * i},"wall, {i % 2}"' for i, (x, y, z) in enumerate(points.tolist())]
    put(folder, name, "\n".join([header, *rows]).encode())
    return points


def score(model, data, out, *more):
    return main(["score", str(model), str(data), "--out", str(out), *more])


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def expected(model, points):
    with torch.no_grad():
        return pcf.load(model).log_prob(torch.from_numpy(points).float()).numpy()


def test_a_table_keeps_the_columns_of_the_file(models, tmp_path):
    points = scan_file(tmp_path)
    assert score(models["flow"], tmp_path / "scan.csv", tmp_path / "a.csv") == 0
    header, *rows = read(tmp_path / "a.csv")
    assert header == ["cloud", "point", "x", "y", "z", "time", "intensity", "class", "log_density"]
    assert [row[7] for row in rows] == [f"wall, {i % 2}" for i in range(40)]
    assert [int(row[6]) for row in rows] == [3 * i for i in range(40)]
    assert [float(row[5]) for row in rows] == [1e9 + i for i in range(40)]
    assert np.allclose([float(row[-1]) for row in rows], expected(models["flow"], points), rtol=1e-5)


def test_rows_keep_their_numbers_where_some_are_left_out(models, tmp_path, capsys):
    put(tmp_path, "scan.txt", b"x y z time\n0 0 0 7\nnan 1 1 8\n1 1 1 9\n2 2 2 6\n")
    assert score(models["flow"], tmp_path / "scan.txt", tmp_path / "a.csv") == 0
    assert [(row[1], row[5]) for row in read(tmp_path / "a.csv")[1:]] == [("0", "7"), ("2", "9"), ("3", "6")]
    assert "points left out of 1 cloud: 1 NaN or infinite" in capsys.readouterr().err
    assert score(models["flow"], tmp_path / "scan.txt", tmp_path / "b.csv", "--refuse-nan") == 2
    assert "1 of 4 points are NaN" in capsys.readouterr().err


def test_a_column_of_our_name_is_not_replaced(models, tmp_path):
    scan_file(tmp_path, header="log_density,x,y,z,cloud,class")
    assert score(models["flow"], tmp_path / "scan.csv", tmp_path / "a.csv") == 0
    header = read(tmp_path / "a.csv")[0]
    assert header == ["cloud_2", "point", "x", "y", "z", "log_density", "cloud", "class", "log_density_2"]


def test_what_only_later_clouds_have_is_left_out_and_told(models, tmp_path, capsys):
    folder = tmp_path / "in"
    put(folder, "a.csv", b"x,y,z,red\n0,0,0,7\n1,0,1,8\n")
    put(folder, "b.csv", b"x,y,z,green\n0,0,0,9\n2,0,1,9\n")
    assert score(models["flow"], folder, tmp_path / "a.csv") == 0
    header, *rows = read(tmp_path / "a.csv")
    assert header == ["cloud", "point", "x", "y", "z", "red", "log_density"]
    assert [row[5] for row in rows] == ["7", "8", "", ""]
    assert "columns that the first cloud does not have are left out: green" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.ply", "a.las", "a.laz"])
def test_clouds_hold_the_score_as_a_scalar_field(name, models, tmp_path, capsys):
    if not name.endswith("ply"):
        pytest.importorskip("laspy")
    points = scan_file(tmp_path)
    assert score(models["flow"], tmp_path / "scan.csv", tmp_path / name) == 0
    assert "columns of words, which such a file cannot hold, are left out: class" in capsys.readouterr().err
    field = "scalar_log_density" if name.endswith("ply") else "log_density"
    (back,) = load_scans(tmp_path / name, features=[field, "intensity"])
    assert np.abs(back.coordinates.numpy() - points).max() < 1e-4
    assert np.allclose(back.features[:, 0].numpy(), expected(models["flow"], points), rtol=1e-5)
    assert back.features[:, 1].tolist() == [3 * i for i in range(40)]


def test_clouds_of_a_folder_are_numbered_in_one_file(models, tmp_path):
    folder = tmp_path / "in"
    put(folder, "a.csv", b"x,y,z,red\n0,0,0,7\n1,0,1,8\n")
    put(folder, "b.csv", b"x,y,z\n0,0,0\n")
    assert score(models["flow"], folder, tmp_path / "a.ply") == 0
    (back,) = load_scans(tmp_path / "a.ply", features=["scalar_cloud"])
    assert back.features.flatten().tolist() == [0, 0, 1]


def test_points_of_other_dimensions_are_for_tables(tmp_path, capsys):
    flow = pcf.PointCloudFlow(2, num_couplings=1)
    pcf.save(flow, tmp_path / "flat.pt")
    put(tmp_path, "a.txt", b"0 0\n1 1\n")
    assert score(tmp_path / "flat.pt", tmp_path / "a.txt", tmp_path / "a.ply") == 2
    assert "points of 2 coordinates, but such a file has 3" in capsys.readouterr().err
    assert score(tmp_path / "flat.pt", tmp_path / "a.txt", tmp_path / "a.csv") == 0


def test_points_far_from_those_of_the_training_are_told_of(models, tmp_path, capsys):
    for name, factor in {"near": 1.0, "far": 1000.0}.items():
        put(tmp_path, f"{name}.csv", b"x,y,z\n" + b"".join(b"%d,1,%d\n" % (factor, factor * i) for i in range(3)))
    assert score(models["flow"], tmp_path / "near.csv", tmp_path / "a.csv") == 0
    assert capsys.readouterr().err == ""
    for model in ("flow", "vae"):
        assert score(models[model], tmp_path / "far.csv", tmp_path / f"{model}.csv") == 0
        assert (
            "standard deviations of the training data from its centre: are they in other units"
            in capsys.readouterr().err
        )


def test_a_scored_cloud_that_is_scored_again_has_both_scores(models, tmp_path):
    scan_file(tmp_path, header="time,x,y,z,a b,class")
    assert score(models["flow"], tmp_path / "scan.csv", tmp_path / "a.ply") == 0
    assert score(models["double"], tmp_path / "a.ply", tmp_path / "b.ply") == 0
    (back,) = load_scans(tmp_path / "b.ply", features=["scalar_log_density", "scalar_log_density_2", "a_b"])
    (first,) = load_scans(tmp_path / "a.ply", features=["scalar_log_density"])
    assert back.features[:, 0].tolist() == first.features[:, 0].tolist()
    assert back.features[:, 1].tolist() != back.features[:, 0].tolist()
    assert back.features[:, 2].tolist() == [3 * i for i in range(40)]

"""`pcflow score`: every point of a file, in its order, with all digits."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_pcflow as pcf
from pyro_pcflow.cli import main, score, score_files

AXES = ["x", "y", "z"]


def read(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def log_prob(path, points):
    module = pcf.load(path)
    with torch.no_grad():
        return module.log_prob(torch.as_tensor(points).to(next(module.parameters()).dtype)).numpy()


def some_points(count, seed=0):
    return np.random.default_rng(seed).normal(1, 1, (count, 3)).astype(np.float32)


@pytest.mark.parametrize(("name", "dtype"), [("flow", np.float32), ("double", np.float64)])
def test_every_point_in_the_order_of_the_file(name, dtype, models, tmp_path):
    points = some_points(3000)
    np.savetxt(tmp_path / "scan.xyz", points, fmt="%.9g")
    assert main(["score", str(models[name]), str(tmp_path / "scan.xyz"), "--out", str(tmp_path / "a.csv")]) == 0
    rows = read(tmp_path / "a.csv")
    assert [int(row["point"]) for row in rows] == list(range(3000))
    assert {row["cloud"] for row in rows} == {"0"}
    # Read back, every digit is there.
    assert np.array_equal(np.array([[row[axis] for axis in AXES] for row in rows], dtype=np.float32), points)
    scores = np.array([row["log_density"] for row in rows], dtype=dtype)
    assert np.allclose(scores, log_prob(models[name], points), rtol=1e-6 if dtype == np.float32 else 1e-13)
    assert main(["score", str(models[name]), str(tmp_path / "scan.xyz"), "--out", str(tmp_path / "b.npy")]) == 0
    array = np.load(tmp_path / "b.npy")
    assert array.dtype == dtype
    assert np.array_equal(array[0], scores)
    (total,) = read(tmp_path / "a.clouds.csv")
    assert float(total["log_density"]) == pytest.approx(array.astype(np.float64).sum(), rel=1e-14)
    assert float(total["log_density_per_point"]) == float(total["log_density"]) / 3000


@pytest.mark.parametrize("value", [0.1, 1 / 3, 16777217.0, 1e-30, -3.4e38, float("-inf"), float("nan")])
def test_a_number_is_written_so_that_it_reads_back(value):
    for dtype in (np.float32, np.float64):
        (text,) = np.array([value], dtype=dtype).astype(str).tolist()
        assert np.array_equal(dtype(text), dtype(value), equal_nan=True)
        assert len(text) <= (16 if dtype == np.float32 else 25)


def test_clouds_of_different_sizes(models, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    sizes = {"a,b.npy": 7, "c.npy": 120, "d.npy": 50}
    clouds = {name: some_points(size, seed=size) for name, size in sizes.items()}
    for name, points in clouds.items():
        np.save(folder / name, points)
    words = ["score", str(models["flow"]), str(folder), "--out"]
    assert main([*words, str(tmp_path / "a.csv")]) == 0
    assert "nats per point over 3 clouds of 7 to 120 points" in capsys.readouterr().out
    rows = read(tmp_path / "a.csv")
    assert [(int(row["cloud"]), int(row["point"])) for row in rows] == [
        (cloud, point) for cloud, size in enumerate(sizes.values()) for point in range(size)
    ]
    expected = np.concatenate([log_prob(models["flow"], points) for points in clouds.values()])
    assert np.allclose([float(row["log_density"]) for row in rows], expected, rtol=1e-6)
    by_cloud = read(tmp_path / "a.clouds.csv")
    assert [row["file"] for row in by_cloud] == list(sizes)
    assert [int(row["points"]) for row in by_cloud] == list(sizes.values())
    assert main([*words, str(tmp_path / "b.npy")]) == 0
    assert np.allclose(np.load(tmp_path / "b.npy"), expected, rtol=1e-6)
    assert np.load(tmp_path / "b.npy").shape == (177,)


def test_splits_are_a_column_or_chosen(models, tmp_path):
    np.savez(tmp_path / "kind.npz", points=some_points(60).reshape(4, 15, 3), split=["test", "train", "val", "test"])
    words = ["score", str(models["flow"]), str(tmp_path / "kind.npz"), "--out"]
    for name, options in {"everything": [], "again": ["--split", "all"], "chosen": ["--split", "test"]}.items():
        assert main([*words, str(tmp_path / f"{name}.csv"), *options]) == 0
    rows = read(tmp_path / "everything.clouds.csv")
    assert [(row["file"], row["index"], row["split"]) for row in rows] == [
        ("kind.npz", str(number), split) for number, split in enumerate(["test", "train", "val", "test"])
    ]
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "everything.csv").read_bytes()
    chosen = read(tmp_path / "chosen.clouds.csv")
    assert [row["split"] for row in chosen] == ["test", "test"]
    assert [row["log_density"] for row in chosen] == [rows[0]["log_density"], rows[3]["log_density"]]


def test_a_mesh_gives_as_many_points_as_asked_and_a_cloud_keeps_its_own(models, tmp_path, capsys):
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "cow.obj").write_bytes(pcf.data.example_path("spot").read_bytes())
    words = ["score", str(models["flow"]), str(folder), "--seed", "4", "--out"]
    assert main([*words, str(tmp_path / "a.csv")]) == 0
    assert read(tmp_path / "a.clouds.csv")[0]["points"] == "2048"
    np.save(folder / "dots.npy", some_points(33))
    assert main([*words, str(tmp_path / "b.csv"), "--num-points", "70"]) == 0
    assert [row["points"] for row in read(tmp_path / "b.clouds.csv")] == ["70", "33"]
    cow = pcf.data.load_clouds(folder / "cow.obj", 70, seed=4)[0].numpy()
    rows = read(tmp_path / "b.csv")[:70]
    assert np.array_equal(np.array([[row[axis] for axis in AXES] for row in rows], dtype=np.float32), cow)
    assert capsys.readouterr().err == ""
    # An option that has nothing to do is told of.
    options = ["--num-points", "70", "--out", str(tmp_path / "c.csv")]
    assert main(["score", str(models["flow"]), str(folder / "dots.npy"), *options]) == 0
    told = capsys.readouterr().err
    assert "--num-points 70 is for meshes: every point of" in told
    assert len(read(tmp_path / "c.csv")) == 33


def test_the_seed_draws_the_points_of_a_mesh_and_the_latents(models, tmp_path):
    np.save(tmp_path / "dots.npy", some_points(33))
    written = {}
    for name, data in {"flow": pcf.data.example_path("spot"), "vae": tmp_path / "dots.npy"}.items():
        for seed in ("0", "1"):
            out = tmp_path / f"{name}{seed}.csv"
            words = ["score", str(models[name]), str(data), "--seed", seed, "--out", str(out)]
            assert main([*words, *(["--num-points", "9"] if name == "flow" else [])]) == 0
            written[name, seed] = out.with_suffix(".clouds.csv").read_text()
        assert written[name, "0"] != written[name, "1"]


def test_a_score_does_not_depend_on_other_clouds(models, tmp_path):
    points = some_points(60).reshape(2, 30, 3)
    np.save(tmp_path / "both.npy", points)
    np.save(tmp_path / "second.npy", points[1])
    totals = {}
    for name in ("both", "second"):
        words = ["score", str(models["vae"]), str(tmp_path / f"{name}.npy"), "--out", str(tmp_path / f"{name}.csv")]
        assert main(words) == 0
        totals[name] = read(tmp_path / f"{name}.clouds.csv")[-1]["log_density"]
    assert totals["both"] == totals["second"]


@pytest.mark.parametrize("name", ["flow", "vae"])
def test_pieces_make_no_difference(name, models, tmp_path, monkeypatch):
    from pyro_pcflow.cli import models as saved
    from pyro_pcflow.nn import encoder as cloud_encoder

    np.save(tmp_path / "dots.npy", some_points(50))
    words = ["score", str(models[name]), str(tmp_path / "dots.npy"), "--out"]
    assert main([*words, str(tmp_path / "whole.npy")]) == 0
    pieces = []
    module = pcf.PointCloudFlow
    original = module.log_prob
    monkeypatch.setattr(module, "log_prob", lambda self, x, *more: pieces.append(len(x)) or original(self, x, *more))
    monkeypatch.setattr(saved, "POINTS_AT_ONCE", 20)
    monkeypatch.setattr(cloud_encoder, "POINTS_AT_ONCE", 20)
    monkeypatch.setattr(score_files, "ROWS_AT_ONCE", 20)
    assert main([*words, str(tmp_path / "pieces.npy")]) == 0
    assert pieces == [20, 20, 10]
    assert np.allclose(np.load(tmp_path / "pieces.npy"), np.load(tmp_path / "whole.npy"), rtol=1e-5)
    assert main([*words, str(tmp_path / "rows.csv")]) == 0
    assert [int(row["point"]) for row in read(tmp_path / "rows.csv")] == list(range(50))


def test_the_picture_shows_some_clouds_thinned(models, tmp_path, monkeypatch):
    shown = []
    picture = score._picture
    monkeypatch.setattr(score, "_picture", lambda clouds: shown.extend(clouds) or picture(clouds))
    monkeypatch.setattr(score, "SHOWN_CLOUDS", 2)
    monkeypatch.setattr(score, "SHOWN_POINTS", 10)
    np.save(tmp_path / "dots.npy", some_points(75).reshape(3, 25, 3))
    assert main(["score", str(models["flow"]), str(tmp_path / "dots.npy"), "--out", str(tmp_path / "a.csv")]) == 0
    assert [len(points) for points, _ in shown] == [9, 9]
    assert all(len(points) == len(scores) for points, scores in shown)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 100


def test_a_retry_after_a_kill_between_two_files(models, tmp_path):
    """The table of points appears last; what appeared before it is no reason to refuse."""
    np.save(tmp_path / "dots.npy", some_points(40))
    words = ["score", str(models["flow"]), str(tmp_path / "dots.npy"), "--out", str(tmp_path / "a.csv")]
    assert main(words) == 0
    expected = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "a.csv").unlink()
    assert main(words) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected


@pytest.mark.parametrize("name", ["a.clouds.csv", "a.png"])
def test_nothing_of_the_user_is_replaced(name, models, tmp_path, capsys):
    np.save(tmp_path / "dots.npy", some_points(40))
    (tmp_path / name).write_text("mine")
    words = ["score", str(models["flow"]), str(tmp_path / "dots.npy"), "--out", str(tmp_path / "a.csv")]
    assert main(words) == 2
    assert f"{name} exists already" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "a.csv").exists()

"""The command line, as a user types it, in an empty directory."""

from __future__ import annotations

import csv
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_pcflow as pcf
from pyro_pcflow.cli import main
from pyro_pcflow.training import toml


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training on the embedded cow."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--out", str(folder), "--max-steps", "60", "--num-points", "5000", "--device", "cpu"]) == 0
    return folder


def test_help_answers_before_torch_is_loaded():
    start = time.perf_counter()
    script = (
        "import sys, pyro_pcflow.cli as cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    text = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert "--max-seconds" in text
    assert time.perf_counter() - start < 10  # a second when the machine is quiet; torch alone takes several
    text = subprocess.run([sys.executable, "-m", "pyro_pcflow", "--help"], check=True, capture_output=True, text=True)
    assert all(command in text.stdout for command in ("train", "sample", "score", "convert"))


def test_run_folder(run):
    names = {path.name for path in run.iterdir()}
    pictures = {"samples.png", "film.webp", "film.gif", "viewer.html"}
    assert {"config.toml", "metrics.jsonl", "checkpoint.pt", "model.pt"} | pictures <= names
    for name in ("film.webp", "film.gif"):
        with Image.open(run / name) as film:
            assert film.n_frames > 24


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_sample(run, suffix, tmp_path):
    out = tmp_path / f"clouds{suffix}"
    command = ["sample", str(run), "--num-clouds", "3", "--num-points", "70", "--device", "cpu", "--out"]
    assert main([*command, str(out)]) == 0
    clouds = pcf.data.load_clouds(out, 70)
    assert clouds.shape == (3, 70, 3)
    torch.manual_seed(0)
    expected = pcf.load(run / "model.pt").cloud(num_points=70).sample((3,))
    order = [sorted(cloud.flatten().tolist()) for cloud in (clouds, expected)]
    assert order[0] == pytest.approx(order[1])
    assert main([*command, str(out)]) == 2  # never overwritten


def test_score(run, tmp_path):
    clouds = torch.cat([pcf.data.load_example("spot", 200), 3 + torch.randn(1, 200, 3)])
    pcf.data.save_clouds(clouds, tmp_path / "data.npz")
    arguments = ["score", str(run), str(tmp_path / "data.npz"), "--num-points", "200", "--device", "cpu", "--out"]
    assert main([*arguments, str(tmp_path / "scores.csv")]) == 0
    assert main([*arguments, str(tmp_path / "array.npy")]) == 0
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 400
    points = torch.tensor([[float(row[axis]) for axis in "xyz"] for row in rows])
    scores = torch.tensor([float(row["log_density"]) for row in rows])
    with torch.no_grad():
        expected = pcf.load(run / "model.pt").log_prob(points)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)
    assert np.load(tmp_path / "array.npy").shape == (2, 200)
    with (tmp_path / "scores.clouds.csv").open() as file:
        cow, stranger = csv.DictReader(file)
    assert float(cow["log_density"]) == pytest.approx(scores[:200].sum().item(), rel=1e-3)
    assert float(cow["log_density_per_point"]) > float(stranger["log_density_per_point"]) + 3
    with Image.open(tmp_path / "scores.png") as picture:
        assert picture.width > 300


SMALL = ["--couplings", "2", "--hidden", "8", "--max-steps", "3", "--device", "cpu"]


def test_a_seed_decides_the_weights(tmp_path):
    command = ["train", "--num-points", "120", *SMALL, "--out"]
    weights = {}
    for name, options in {"a": [], "b": [], "other": ["--seed", "1"]}.items():
        torch.seed()  # as random as that of a new process
        assert main([*command, str(tmp_path / name), *options]) == 0
        model = pcf.load(tmp_path / name / "model.pt")
        weights[name] = torch.cat([parameter.flatten() for parameter in model.parameters()])
    assert torch.equal(weights["a"], weights["b"])
    assert not torch.equal(weights["a"], weights["other"])


@pytest.mark.parametrize(
    ("options", "lr"),
    [
        (["--model", "flow"], 1e-2),
        ([], 8e-3),
        (["--preset", "nice"], 1e-3),
        (["--preset", "nice", "--lr", "0.5"], 0.5),
    ],
)
def test_each_kind_has_its_learning_rate(options, lr, tmp_path, monkeypatch):
    pcf.data.save_clouds(torch.randn(16, 120, 3), tmp_path / "kind.npz")
    rates = []

    def stop(*_, lr, **__):
        rates.append(lr)
        raise ValueError("enough")

    monkeypatch.setattr(pcf.training, "fit", stop)
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "kind.npz"), "--num-points", "120", "--out", out, *options]) == 2
    assert rates == [lr]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kind.npz", "kind.npy"])
def test_many_clouds_get_a_model_of_many(name, tmp_path, monkeypatch, capsys):
    """Clouds of a npy file stay in it."""
    clouds = 5 + torch.linspace(0.5, 1, 16).reshape(-1, 1, 1) * torch.randn(16, 120, 3)
    data, run = tmp_path / name, tmp_path / "run"
    pcf.data.save_clouds(clouds, data)
    options = ["--num-points", "120"]
    if name.endswith(".npy"):
        monkeypatch.setattr(pcf.data, "load_clouds", None)
        options = []
    assert main(["train", str(data), "--out", str(run), *options, *SMALL]) == 0
    monkeypatch.undo()
    assert "bound on held-out clouds, after 3 steps" in capsys.readouterr().out
    assert {"samples.png", "reconstructions.png", "walk.webp"} <= {path.name for path in run.iterdir()}
    # The noise is a share of the largest cloud, wherever it stands, and not of the first.
    settings = toml.loads((run / "config.toml").read_text())["settings"]
    assert settings["noise"] == pytest.approx(0.01 * pcf.data.half_side(clouds), rel=1e-4)
    vae = pcf.load(run / "model.pt")
    assert isinstance(vae, pcf.PointCloudVAE)
    assert vae.config["decoder"]["num_couplings"] == 2
    assert main(["sample", str(run), "--num-clouds", "3", "--num-points", "50", "--out", str(tmp_path / "a.npy")]) == 0
    drawn = np.load(tmp_path / "a.npy")
    assert drawn.shape == (3, 50, 3)
    assert abs(drawn.mean() - 5) < 1
    strangers = torch.cat([clouds[:1], clouds[:1] + 20])
    pcf.data.save_clouds(strangers, tmp_path / "two.npz")
    scores = tmp_path / "scores.csv"
    assert main(["score", str(run), str(tmp_path / "two.npz"), "--num-points", "120", "--out", str(scores)]) == 0
    with (tmp_path / "scores.clouds.csv").open() as file:
        own, far = (float(row["log_density"]) for row in csv.DictReader(file))
    assert own > far + 100
    with scores.open() as file:
        assert len(list(csv.DictReader(file))) == 240


@pytest.mark.parametrize(
    ("count", "model", "kind"), [(15, "auto", pcf.PointCloudFlow), (16, "flow", pcf.PointCloudFlow)]
)
def test_few_clouds_are_pooled(count, model, kind, tmp_path):
    pcf.data.save_clouds(torch.randn(count, 120, 3), tmp_path / "data.npz")
    run = tmp_path / "run"
    options = ["--num-points", "120", "--model", model]
    assert main(["train", str(tmp_path / "data.npz"), "--out", str(run), *options, *SMALL]) == 0
    assert type(pcf.load(run / "model.pt")) is kind


def test_convert(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    pcf.data.save_clouds(torch.randn(3, 60, 3), tmp_path / "data" / "three.npz")
    (tmp_path / "data" / "cow.obj").write_bytes(pcf.data.example_path("spot").read_bytes())
    out = tmp_path / "new" / "all.npy"
    command = ["convert", str(tmp_path / "data"), "--out", str(out), "--num-points", "50", "--seed", "4"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}: 4 clouds of 50 points in 3 dimensions\n"
    expected = pcf.data.load_clouds(tmp_path / "data", 50, seed=4)
    assert torch.equal(pcf.data.MappedClouds(out).read(torch.arange(4)), expected)
    written = out.read_bytes()
    command[-1] = "5"
    assert main(command) == 2
    assert out.read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.obj", "--out", "{tmp}/r"], "nowhere.obj"),
        (["train", "--out", "{run}"], "resume"),
        (["train", "--out", "{tmp}/r", "--couplings", "0", "--max-steps", "1"], "num_couplings"),
        (["train", "--out", "{tmp}/r", "--preset", "dpf", "--max-steps", "1"], "--model vae"),
        (
            ["train", "--out", "{tmp}/r", "--model", "vae", "--preset", "pdf", "--max-steps", "1"],
            "preset must be one of",
        ),
        (["train", "--out", "{tmp}/r", "--up", "w", "--max-steps", "1"], "up: expected"),
        (["sample", "{tmp}", "--out", "{tmp}/a.npz"], "model.pt"),
        (["sample", "{run}", "--out", "{tmp}/a.jpg"], ".npz"),
        (["sample", "{run}", "--num-clouds", "2", "--out", "{tmp}/a.xyz"], "one cloud"),
        (["score", "{run}", "{tmp}/none.ply", "--out", "{tmp}/a.csv"], "none.ply"),
        (["convert", "{tmp}/none.ply", "--out", "{tmp}/a.npy", "--num-points", "9"], "none.ply"),
        (["convert", "{tmp}", "--out", "{tmp}/a.npz", "--num-points", "9"], ".npy"),
        (["convert", "{tmp}", "--out", "{run}/model.npy", "--num-points", "0"], "num_points"),
    ],
)
def test_errors_are_one_line(arguments, words, run, tmp_path, capsys):
    filled = [argument.format(tmp=tmp_path, run=run) for argument in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("pcflow: ")
    assert words in error
    assert len(error.splitlines()) == 1

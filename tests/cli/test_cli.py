"""The command line, as a user types it, in an empty directory."""

from __future__ import annotations

import csv
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


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


def test_a_run_from_its_training_to_its_scores(tmp_path, capsys, no_pictures):
    """With no data, it is the embedded cow."""
    run, scores = tmp_path / "run", tmp_path / "scores.csv"
    assert main(["train", "--out", str(run), "--max-steps", "60", "--num-points", "5000", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "nats per point, held-out points, after 60 steps" in told
    names = ["checkpoint.pt", "config.toml", "metrics.jsonl", "model.pt"]
    assert told.splitlines()[-1] == f"{run}: {', '.join(names)}"
    clouds = torch.cat([pcf.data.load_example("spot", 200), 3 + torch.randn(1, 200, 3)])
    pcf.data.save_clouds(clouds, tmp_path / "data.npz")
    assert main(["score", str(run), str(tmp_path / "data.npz"), "--device", "cpu", "--out", str(scores)]) == 0
    with (tmp_path / "scores.clouds.csv").open() as file:
        cow, stranger = csv.DictReader(file)
    assert float(cow["log_density_per_point"]) > float(stranger["log_density_per_point"]) + 3


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".ply", ".xyz"])
def test_sample(models, suffix, tmp_path):
    out = tmp_path / f"clouds{suffix}"
    count = 3 if suffix.startswith(".np") else 1
    command = ["sample", str(models["flow"]), "--num-clouds", str(count), "--num-points", "70", "--device", "cpu"]
    command += ["--seed", "6", "--out", str(out)]
    assert main(command) == 0
    torch.manual_seed(6)
    expected = pcf.load(models["flow"]).sample(count, 70)
    assert torch.equal(pcf.data.load_clouds(out, None), expected)
    assert main(command) == 2  # never overwritten


def test_the_digits_of_a_model_of_doubles(models, tmp_path):
    words = ["sample", str(models["double"]), "--num-points", "20", "--device", "cpu", "--out"]
    for suffix in ("npy", "xyz"):
        assert main([*words, str(tmp_path / f"a.{suffix}")]) == 0
    assert np.array_equal(np.loadtxt(tmp_path / "a.xyz"), np.load(tmp_path / "a.npy")[0])


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


def test_convert_takes_a_split_or_asks_for_one(tmp_path, capsys):
    np.savez(tmp_path / "kind.npz", points=np.arange(60.0).reshape(4, 5, 3), split=["train", "test", "train", "val"])
    command = ["convert", str(tmp_path / "kind.npz"), "--num-points", "5", "--out"]
    assert main([*command, str(tmp_path / "out.npy")]) == 2
    words = "holds the splits train, val and test: name one with --split, or take them together with all"
    assert capsys.readouterr().err == f"pcflow: {tmp_path / 'kind.npz'} {words}\n"
    assert not (tmp_path / "out.npy").exists()
    for split, kept in {"train": [0, 2], "test": [1], "all": [0, 1, 2, 3]}.items():
        assert main([*command, str(tmp_path / f"{split}.npy"), "--split", split]) == 0
        assert np.load(tmp_path / f"{split}.npy")[:, 0, 0].tolist() == [15 * number for number in kept]

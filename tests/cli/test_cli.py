"""The command line, as a user types it, in an empty directory."""

from __future__ import annotations

import csv
import subprocess
import sys
import time

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

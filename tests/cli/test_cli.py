"""The command line, as a user types it, in an empty directory."""

from __future__ import annotations

import csv
import re
import subprocess
import sys

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


@pytest.mark.parametrize(
    ("words", "named", "left_out"),
    [
        (
            [],
            ["train", "sample", "score", "evaluate", "complete", "register", "convert"],
            {"torch", "inspect", "dataclasses", "pathlib"},
        ),
        (["train"], ["--max-seconds"], {"torch", "pyro_pcflow.cli.score"}),
    ],
)
def test_help_answers_before_much_is_imported(words, named, left_out):
    script = (
        "import sys, pyro_pcflow.cli as cli\n"
        f"try: cli.main({[*words, '--help']})\n"
        f"except SystemExit: print(*(sys.modules.keys() & {left_out}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert all(name in done.stdout for name in named)


def test_a_run_from_its_training_to_its_scores(tmp_path, capsys, no_pictures):
    """With no data, it is the embedded cow."""
    run, scores = tmp_path / "run", tmp_path / "scores.csv"
    assert main(["train", "--out", str(run), "--max-steps", "60", "--num-points", "5000", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"nats per point, held-out points, with noise 0\.\d+, after 60 steps", told)
    names = ["checkpoint.pt", "config.toml", "metrics.jsonl", "model.pt"]
    assert told.splitlines()[-1] == f"{run}: {', '.join(names)}"
    clouds = torch.cat([pcf.data.load_example("spot", 200), 3 + torch.randn(1, 200, 3)])
    pcf.data.save_clouds(clouds, tmp_path / "data.npz")
    assert main(["score", str(run), str(tmp_path / "data.npz"), "--device", "cpu", "--out", str(scores)]) == 0
    with (tmp_path / "scores.clouds.csv").open() as file:
        cow, stranger = csv.DictReader(file)
    assert float(cow["log_density_per_point"]) > float(stranger["log_density_per_point"]) + 3

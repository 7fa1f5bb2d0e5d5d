"""The command line, as a user types it, in an empty directory."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import COMMANDS, main


@pytest.mark.parametrize(
    ("words", "named", "left_out"),
    [
        (
            [],
            ["info", "view", "train", "sample", "score", "evaluate", "complete", "register", "convert", "exit status"],
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


LATE = {
    "nothing at the path": ["train", "nowhere.ply"],
    "a run is there": ["train", "--out", "run"],
    "categories of one density": ["train", "data", "--categories", "--model", "flow"],
    "a word of --set": ["train", "data", "--set", "latent_dim"],
    "a file is there": ["sample", "run", "--out", "there.npy"],
    "unknown suffix": ["sample", "run", "--out", "a.jpg"],
    "a format of a file": ["sample", "run", "--out", "a.npy", "--format", "ply"],
    "no model": ["sample", "empty", "--out", "a.npy"],
    "no samples": ["evaluate", "nowhere.npy", "--reference", "data"],
    "no references": ["evaluate", "there.npy", "--reference", "nowhere"],
    "labels of samples": ["evaluate", "there.npy", "--reference", "data", "--label", "1"],
    "no clouds": ["convert", "nowhere", "--num-points", "9", "--out", "a.npy"],
    "a sensor without direction": ["complete", "run", "data", "--out", "a.npy", "--offset", "1"],
    "no scan": ["complete", "run", "nowhere.ply", "--out", "a.npy"],
    "outliers or none": ["register", "run", "data", "--out", "a.json", "--outliers", "1", "9", "--no-outliers"],
    "nothing to describe": ["info", "nowhere"],
    "nothing to see": ["view", "data", "--no-open"],
    "a page that is there": ["view", "data", "--out", "there.html"],
}


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """For each command line, its status, what it says, and whether torch was imported, all of one process."""
    folder = tmp_path_factory.mktemp("early")
    for name in ("data", "empty", "run"):
        (folder / name).mkdir()
    for name in ("there.npy", "there.html", "run/model.pt"):
        (folder / name).touch()
    script = (
        "import contextlib, io, json, sys\n"
        "from pyro_pcflow.cli import main\n"
        "found = {}\n"
        "for name, words in json.loads(sys.argv[1]).items():\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as told:\n"
        "        status = main(words)\n"
        "    found[name] = [status, told.getvalue(), 'torch' in sys.modules]\n"
        "print(json.dumps(found))"
    )
    command = [sys.executable, "-c", script, json.dumps(LATE)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout)


@pytest.mark.parametrize("name", LATE)
def test_errors_that_need_no_torch_are_told_without_it(name, early):
    status, told, torch_is_there = early[name]
    assert status == 2
    assert told.count("\n") == 1
    assert not torch_is_there


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal_and_shows_an_example(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    # A usage of what must not be torn apart may be longer.
    assert [line for line in text.splitlines() if len(line) > int(columns) and not line.startswith(" " * 14)] == []
    assert f"  pcflow {command} " in text.partition("example")[2]


def test_json_is_all_that_is_on_standard_output(models, tmp_path, capsys, monkeypatch):
    """Whatever a library prints."""
    sample = pcf.PointCloudFlow.sample

    def chatty(*args, **options):
        print("by the way")
        return sample(*args, **options)

    monkeypatch.setattr(pcf.PointCloudFlow, "sample", chatty)
    out = tmp_path / "a.npy"
    assert main(["sample", str(models["flow"]), "--num-points", "9", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"out": str(out), "num_clouds": 1, "num_points": 9, "point_dim": 3}
    assert captured.err == "by the way\n"


def test_an_error_leaves_standard_output_empty_for_json(tmp_path, capsys):
    assert main(["info", str(tmp_path / "nothing"), "--json"]) == 2
    assert capsys.readouterr().out == ""


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

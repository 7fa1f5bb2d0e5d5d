"""Output of the commands: complete files or none, any names, and closed pipes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.random.default_rng(0).normal(1, 1, (4, 500, 3)).astype(np.float32))
    return path


def commands(models, data, out):
    return {
        "sample.npy": ["sample", models["flow"], "--num-points", "2000", "--out", out / "a.npy"],
        "sample.npz": ["sample", models["flow"], "--num-points", "2000", "--out", out / "a.npz"],
        "sample.ply": ["sample", models["flow"], "--num-points", "2000", "--out", out / "a.ply"],
        "sample.xyz": ["sample", models["flow"], "--num-points", "2000", "--out", out / "a.xyz"],
        "score.csv": ["score", models["flow"], data, "--out", out / "a.csv"],
        "score.npy": ["score", models["flow"], data, "--out", out / "a.npy"],
        "convert": ["convert", data, "--num-points", "400", "--out", out / "a.npy"],
        "evaluate": ["evaluate", data, "--reference", data, "--num-points", "60", "--out", out / "report"],
    }


@pytest.mark.parametrize("name", commands({"flow": ""}, "", pcf.data.example_path("spot").parent))
def test_a_full_disk_leaves_nothing_and_a_retry_works(name, models, data, tmp_path, capsys):
    words = [str(word) for word in commands(models, data, tmp_path / "out")[name]]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses what goes beyond, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        status = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert main(words) == 0
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("command", "signum", "told"),
    [
        ("sample", signal.SIGINT, "interrupted"),
        ("score", signal.SIGINT, "interrupted"),
        ("convert", signal.SIGINT, "interrupted"),
        ("score", signal.SIGTERM, "interrupted by SIGTERM"),
    ],
)
def test_an_interruption_leaves_nothing_and_a_retry_works(
    command, signum, told, models, data, tmp_path, capsys, monkeypatch
):
    """The signal itself, in the middle of the work."""
    from pyro_pcflow.data.reading import StoredCloud

    drawn = []

    def interrupt(function):
        def wrapped(*args, **options):
            drawn.append(args)
            if len(drawn) == 2:
                os.kill(os.getpid(), signum)
            return function(*args, **options)

        return wrapped

    with monkeypatch.context() as patches:
        if command == "sample":
            drawn.append(None)
            patches.setattr(pcf.PointCloudFlow, "sample", interrupt(pcf.PointCloudFlow.sample))
        else:
            patches.setattr(StoredCloud, "draw", interrupt(StoredCloud.draw))
        name = {"sample": "sample.npz", "score": "score.csv"}.get(command, command)
        words = [str(word) for word in commands(models, data, tmp_path / "out")[name]]
        assert main(words) == 128 + signum
    assert len(drawn) == 2
    assert capsys.readouterr().err == f"pcflow: {told}, and nothing was written that is not complete\n"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert main(words) == 0


def test_names_that_are_not_utf8(models, tmp_path, capsys, no_sheet, no_pictures):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    np.save(f"{folder}/\udce9.npy", np.random.default_rng(0).normal(1, 1, (4, 30, 3)))
    flow, tail = str(models["flow"]), ["--num-points", "30"]
    assert main(["sample", flow, "--out", f"{folder}/samples.npz", "--num-clouds", "4", *tail]) == 0
    assert main(["score", flow, f"{folder}/\udce9.npy", "--out", f"{folder}/scores.csv"]) == 0
    assert main(["convert", f"{folder}/\udce9.npy", "--out", f"{folder}/all.npy", *tail]) == 0
    words = ["evaluate", f"{folder}/\udce9.npy", "--reference", f"{folder}/\udce9.npy", "--out", f"{folder}/report"]
    assert main([*words, *tail]) == 0
    words = ["train", f"{folder}/\udce9.npy", "--out", f"{folder}/run", "--max-steps", "1", "--num-couplings", "1"]
    assert main([*words, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "caf\\xe9/samples.npz: 4 clouds of 30 points" in captured.out
    with open(f"{folder}/scores.clouds.csv", "rb") as file:
        assert b"\n0,\xe9.npy,0,," in file.read()
    with open(f"{folder}/report/report.md", encoding="utf-8") as file:
        assert "\\xe9" in file.read()


def pipe_without_a_reader():
    there, here = os.pipe()
    os.close(there)
    return open(here, "w", encoding="utf-8")


def test_a_reader_that_leaves(models, tmp_path, capsys, monkeypatch):
    """`pcflow ... | head`: no word of it, and the files are whole."""
    with pipe_without_a_reader() as output:
        monkeypatch.setattr(sys, "stdout", output)
        words = ["sample", str(models["flow"]), "--num-points", "9", "--out", str(tmp_path / "a.npz")]
        assert main(words) == 141
        # What is left is flushed when the file is closed, as at the end of a process.
        monkeypatch.undo()
    assert capsys.readouterr().err == ""
    assert np.load(tmp_path / "a.npz")["points"].shape == (1, 9, 3)


def test_a_reader_of_help_that_leaves():
    with pipe_without_a_reader() as output:
        command = [sys.executable, "-c", "import sys; from pyro_pcflow.cli import main; sys.exit(main(['--help']))"]
        # argparse drops what a write raises, and no more than a flush is left.
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, env=buffered)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_warning_of_a_library_takes_one_line(models, tmp_path, capsys, monkeypatch):
    import warnings

    sample = pcf.PointCloudFlow.sample

    def warn(*args, **options):
        warnings.warn("of two\nlines", UserWarning, stacklevel=1)
        return sample(*args, **options)

    monkeypatch.setattr(pcf.PointCloudFlow, "sample", warn)
    before = warnings.showwarning
    assert main(["sample", str(models["flow"]), "--num-points", "9", "--out", str(tmp_path / "a.npy")]) == 0
    assert capsys.readouterr().err == "pcflow: of two; lines\n"
    assert warnings.showwarning is before

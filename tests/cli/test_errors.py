"""Errors of every command: status 2 and one line on standard error, and no file under the name of a result."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main

WHOLE = {
    "train": ["--max-steps", "--num-points", "--num-couplings", "--hidden-dims", "--batch-size", "--seed"],
    "sample": ["--num-clouds", "--num-points", "--label", "--seed"],
    "score": ["--num-points", "--label", "--seed"],
    "evaluate": ["--num-points", "--num-clouds", "--draws", "--resolution", "--num-particles", "--label", "--seed"],
    "convert": ["--num-points", "--seed"],
    "complete": ["--num-points", "--num-samples", "--scan-points", "--label", "--seed"],
    "register": ["--num-samples", "--num-starts", "--scan-points", "--seed"],
}
REAL = {
    "train": ["--max-seconds", "--noise", "--lr"],
    "evaluate": ["--azim"],
    "complete": ["--softness"],
    "register": ["--spread", "--scale-deviation", "--softness"],
}
# Options for which nothing is a value, too.
FROM_ZERO = {"--seed", "--label", "--num-particles", "--num-couplings", "--noise", "--azim"}


@pytest.fixture(scope="module")
def files(tmp_path_factory, models):
    """Paths of every kind."""
    root = tmp_path_factory.mktemp("files")
    points = np.random.default_rng(0).normal(size=(4, 30, 3)).astype(np.float32)
    np.save(root / "clouds.npy", points)
    np.savez(root / "clouds.npz", points=points)
    np.save(root / "one.npy", points[:1])
    np.save(root / "flat.npy", points[..., :2])
    np.save(root / "nan.npy", np.full((4, 30, 3), np.nan))
    np.save(root / "line.npy", np.zeros(30))
    np.save(root / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("clouds.npy", "clouds.npz"):
        (root / f"cut_{name}").write_bytes((root / name).read_bytes()[:-100])
    for name in ("empty.npy", "empty.npz", "empty.pt", "empty.xyz", "empty.obj"):
        (root / name).touch()
    (root / "text.npz").write_text("nothing")
    (root / "text.pt").write_text("nothing")
    (root / "picture.jpg").write_text("nothing")
    (root / "nothing").mkdir()
    (root / "run").mkdir()
    (root / "dangling.npy").symlink_to(root / "nowhere.npy")
    torch.save({"weights": torch.zeros(3)}, root / "other.pt")
    bad = os.fsdecode(os.fsencode(root) + b"/bad\xff")
    np.save(bad + ".npy", np.zeros(30))
    for ending in (".npy", ".pt", ".xyz"):
        os.mkfifo(root / f"fifo{ending}")
    return root


def fails(words, capsys, *expected):
    """A command that a user typed wrongly."""
    assert main([str(word) for word in words]) == 2
    text = capsys.readouterr()
    lines = text.err.splitlines()
    assert len(lines) == 1, text.err
    assert lines[0].startswith("pcflow: ")
    assert len(lines[0]) > len("pcflow: ") + 10, "says nothing"
    for part in expected:
        assert part in lines[0]
    assert text.out == ""


def complete(command, models, files, out):
    """A command that would run."""
    return {
        "train": ["train", files / "clouds.npy", "--out", out / "run", "--max-steps", "1", "--device", "cpu"],
        "sample": ["sample", models["flow"], "--out", out / "a.npy", "--device", "cpu"],
        "score": ["score", models["flow"], files / "clouds.npy", "--out", out / "a.csv", "--device", "cpu"],
        "evaluate": [
            *["evaluate", models["flow"], "--reference", files / "clouds.npy", "--num-points", "30"],
            *["--out", out / "report", "--device", "cpu"],
        ],
        "convert": ["convert", files / "clouds.npy", "--out", out / "a.npy", "--num-points", "30"],
        "complete": ["complete", models["vae"], files / "one.npy", "--out", out / "a.npy", "--device", "cpu"],
        "register": ["register", models["flow"], files / "one.npy", "--out", out / "a.json", "--device", "cpu"],
    }[command]


@pytest.fixture
def never(monkeypatch):
    """Work that must not start before what can be told beforehand is told."""

    def stop(*_, **__):
        pytest.fail("the work started")

    monkeypatch.setattr(pcf.training, "fit", stop)
    monkeypatch.setattr(pcf.PointCloudFlow, "sample", stop)
    monkeypatch.setattr(pcf.PointCloudFlow, "log_prob", stop)
    monkeypatch.setattr(pcf.metrics, "evaluate", stop)
    monkeypatch.setattr(pcf.data, "convert_clouds", stop)


NONSENSE = ["-1", "0", "1.5", "nan", "inf", "many", "", "9" * 30, "1e400"]


def is_nonsense(command, option, value):
    if value == "0":
        return option not in FROM_ZERO
    if option in REAL.get(command, []):
        return value not in ("1.5", "9" * 30) and (value, option) != ("-1", "--azim")
    return True


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (command, option, value)
        for command in WHOLE
        for option in WHOLE[command] + REAL.get(command, [])
        for value in NONSENSE
        if is_nonsense(command, option, value)
    ],
)
def test_numbers(command, option, value, models, files, tmp_path, capsys, never):
    # With "=", a value with a minus sign is no other option.
    fails([*complete(command, models, files, tmp_path), f"{option}={value}"], capsys, option, "expected", repr(value))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", WHOLE)
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--device", "toaster"], "unknown device 'toaster'"),
        (["--device", "meta"], "'meta'"),
        (["--device", "cuda:99"], "torch sees"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--seed"], "--seed: expected one argument"),
        (["left", "over"], "unrecognized arguments"),
    ],
)
def test_words(command, extra, words, models, files, tmp_path, capsys, never):
    if command == "convert" and extra[0] == "--device":
        words = "unrecognized arguments"
    fails([*complete(command, models, files, tmp_path), *extra], capsys, words)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("command", "extra", "words"),
    [
        ("train", ["--model", "gan"], "invalid choice: 'gan'"),
        ("train", ["--preset", "pdf"], "--preset must be one of default, nice"),
        ("train", ["--preset", "dpf"], "--model vae"),
        ("train", ["--up", "w"], "up: expected"),
        ("train", ["--split", "val"], "belongs to no split"),
        ("score", ["--split", "val"], "belongs to no split"),
        ("evaluate", ["--split", "val"], "belongs to no split"),
        ("sample", ["--num-clouds", "2", "--out", "{out}/a.xyz"], "one cloud"),
        ("sample", ["--out", "{out}/a.jpg"], ".npz"),
        ("score", ["--out", "{out}/a.txt"], "ends in .csv or .npy"),
        ("convert", ["--out", "{out}/a.npz"], ".npy"),
        ("evaluate", ["--distance", "l2"], "--distance: expected one of"),
        ("evaluate", ["--normalization", "unit"], "--normalization: expected one of"),
        ("evaluate", ["--up", "w"], "up: expected"),
        ("evaluate", ["--num-clouds", "1"], "at least 2"),
    ],
)
def test_choices(command, extra, words, models, files, tmp_path, capsys, never):
    extra = [word.format(out=tmp_path) for word in extra]
    fails([*complete(command, models, files, tmp_path), *extra], capsys, words)
    assert not [*tmp_path.iterdir()]


def test_a_split_that_nothing_belongs_to(models, files, tmp_path, capsys):
    fails([*complete("convert", models, files, tmp_path), "--split", "val"], capsys, "belongs to no split")
    assert not [*tmp_path.iterdir()]


def test_ply_of_two_coordinates(models, tmp_path, capsys, never):
    fails(["sample", models["flat"], "--out", tmp_path / "a.ply", "--device", "cpu"], capsys, ".ply holds points of 3")


@pytest.mark.parametrize("words", [[], ["trian"], ["train", "a", "b"], ["sample"], ["score", "run"], ["convert", "a"]])
def test_commands_that_are_not_complete(words, capsys, never):
    fails(words, capsys, "--help)")


BAD_DATA = ["nowhere.npy", "cut_clouds.npy", "cut_clouds.npz", "empty.npy", "empty.npz", "empty.xyz", "empty.obj"]
BAD_DATA += ["text.npz", "picture.jpg", "nothing", "line.npy", "objects.npy", "nan.npy", "dangling.npy"]
BAD_DATA += ["fifo.npy", "fifo.xyz", os.fsdecode(b"bad\xff.npy"), os.fsdecode(b"not there\xff.npy"), "a" * 300, "\0"]
BAD_MODELS = ["nowhere", "nowhere.pt", "run", "empty.pt", "text.pt", "other.pt", "nothing", "fifo.pt"]
BAD_MODELS += ["clouds.npz", os.fsdecode(b"not there\xff"), "a" * 300, "\0"]


def in_time(words, capsys):
    """A pipe that is opened would wait for ever."""
    alarm = threading.Timer(60, os._exit, [9])
    alarm.start()
    try:
        fails(words, capsys)
    finally:
        alarm.cancel()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, name)
        for command in ["train", "score", "evaluate", "samples", "train set", "convert"]
        for name in BAD_DATA
        if (command, name) != ("samples", "nan.npy")  # samples may have failed, all of them
    ],
)
def test_data(command, name, models, files, tmp_path, capsys):
    words = {
        "train": ["train", files / name, "--out", tmp_path / "run", "--max-steps", "1"],
        "score": ["score", models["flow"], files / name, "--out", tmp_path / "a.csv"],
        "evaluate": ["evaluate", models["flow"], "--reference", files / name, "--out", tmp_path / "report"],
        "samples": ["evaluate", files / name, "--reference", files / "clouds.npy", "--out", tmp_path / "report"],
        "train set": [
            *["evaluate", files / "clouds.npy", "--reference", files / "clouds.npy", "--train", files / name],
            *["--num-points", "30", "--out", tmp_path / "report"],
        ],
        "convert": ["convert", files / name, "--out", tmp_path / "a.npy", "--num-points", "30"],
    }[command]
    in_time([str(word) for word in words], capsys)
    assert not [*tmp_path.rglob("*.*")]


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("command", ["sample", "score", "evaluate"])
def test_models(command, name, files, tmp_path, capsys):
    words = {
        "sample": ["sample", files / name, "--out", tmp_path / "a.npy"],
        "score": ["score", files / name, files / "clouds.npy", "--out", tmp_path / "a.csv"],
        "evaluate": [
            *["evaluate", files / name, "--reference", files / "clouds.npy", "--num-points", "31"],
            *["--out", tmp_path / "report"],
        ],
    }[command]
    in_time(words, capsys)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", ["train", "score", "evaluate", "convert"])
def test_a_model_where_data_belongs(command, models, files, tmp_path, capsys):
    words = [str(word) for word in complete(command, models, files, tmp_path)]
    place = words.index(str(files / "clouds.npy"))
    words[place] = str(models["flow"])
    fails(words, capsys, "flow.pt: unknown ending '.pt'; known are .obj")


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (command, place)
        for command in ["sample", "score", "convert", "evaluate", "train", "complete", "register"]
        for place in ["there", "link", "below a file", "no folder for writing"]
        # What is there may be the run to resume.
        if command != "train" or place not in ("there", "link")
    ],
)
def test_out(command, place, models, files, tmp_path, capsys, never, monkeypatch):
    suffixes = {"sample": ".npy", "score": ".csv", "convert": ".npy", "complete": ".npy", "register": ".json"}
    suffix = suffixes.get(command, "")
    folder = tmp_path / "out"
    folder.mkdir()
    words = complete(command, models, files, folder)
    out = words[words.index("--out") + 1]
    if place == "there":
        out.mkdir()
        expected = "exists already and is not overwritten"
    elif place == "link":
        out.symlink_to(tmp_path / "nowhere")
        expected = "exists already and is not overwritten"
    elif place == "below a file":
        (tmp_path / "file").write_text("mine")
        out = tmp_path / "file" / "sub" / f"a{suffix}"
        expected = "file is not a folder"
    else:
        # The user who runs the tests may be allowed to write anywhere.
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        out = tmp_path / "new" / f"a{suffix}"
        expected = f"can't be made: {tmp_path} may not be written to"
    before = sorted(path.name for path in tmp_path.rglob("*"))
    words[words.index("--out") + 1] = out
    fails(words, capsys, expected)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_run_that_is_there(tmp_path, files, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("mine")
    words = ["train", files / "clouds.npy", "--out", tmp_path / "run", "--max-steps", "1", "--device", "cpu"]
    fails(words, capsys, "run")
    assert (tmp_path / "run" / "config.toml").read_text() == "mine"


def test_a_file_where_a_run_belongs(tmp_path, files, capsys, no_pictures):
    (tmp_path / "run").write_text("mine")
    words = ["train", files / "clouds.npy", "--out", tmp_path / "run", "--max-steps", "1", "--device", "cpu"]
    fails(words, capsys, "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_too_few_points_to_hold_some_out(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(3, 3)))
    words = ["train", tmp_path / "a.npy", "--out", tmp_path / "run", "--max-steps", "1", "--device", "cpu"]
    fails(words, capsys, "held_out=0.1 of 3 ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (MemoryError(), 2, "not enough memory"),
        (MemoryError("12 TB"), 2, "not enough memory: 12 TB"),
        (ValueError("expected a number,\n  got a word"), 2, "expected a number,; got a word"),
        (OverflowError("too large"), 2, "too large"),
        (RuntimeError("[enforce]\nDefaultCPUAllocator: 1"), 2, "not enough memory: [enforce]; DefaultCPUAllocator: 1"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "not enough memory: CUDA out of memory. Tried"),
        (OSError(), 2, "OSError"),
        (KeyboardInterrupt(), 130, "interrupted, and nothing was written that is not complete"),
        (KeyboardInterrupt("kept in runs/a"), 130, "kept in runs/a"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "score", "evaluate"])
def test_what_happens_meanwhile(command, error, status, line, models, files, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(pcf.PointCloudFlow, "sample", stop)
    monkeypatch.setattr(pcf.PointCloudFlow, "log_prob", stop)
    words = [str(word) for word in complete(command, models, files, tmp_path)]
    assert main(words) == status
    assert capsys.readouterr().err == f"pcflow: {line}\n"
    assert not [*tmp_path.iterdir()]


def test_more_points_than_memory_holds(models, tmp_path, capsys):
    fails(
        ["sample", models["flow"], "--num-points", str(10**18), "--out", tmp_path / "a.npy", "--device", "cpu"],
        capsys,
        "not enough memory: ",
    )


@pytest.mark.parametrize("error", [AssertionError, TypeError, RuntimeError, AttributeError, KeyError])
def test_an_error_of_the_program_keeps_its_traceback(error, models, files, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise error("a bug")

    monkeypatch.setattr(pcf.PointCloudFlow, "sample", stop)
    with pytest.raises(error, match="a bug"):
        main([str(word) for word in complete("sample", models, files, tmp_path)])


def test_a_training_that_diverges_is_told(tmp_path, files, capsys, no_pictures):
    words = complete("train", {"flow": "", "vae": ""}, files, tmp_path)
    fails([*words, "--max-steps", "50", "--lr", "1e30"], capsys, "diverged at step ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["num_coupling=3"], "--set: PointCloudFlow: unknown option 'num_coupling' (did you mean 'num_couplings'?)"),
        (["latent_dim=3"], "unknown option 'latent_dim'"),
        (["hidden_dims=7"], "--set: "),
        (["num_couplings"], "expected NAME=VALUE"),
        (["=3"], "expected NAME=VALUE"),
        (["a..b=3"], "expected NAME=VALUE"),
        (["masks=halves", "masks=alternate"], "masks is given twice"),
        (["masks=halves", "masks.a=alternate"], "masks of masks.a is given as a value, too"),
        (["masks=thirds"], "masks"),
        (["num_couplings=3", "--num-couplings", "4"], "multiple values for keyword argument 'num_couplings'"),
        (["decoder.masks=halves", "--model", "vae", "latent_dims=3"], "unrecognized arguments: latent_dims=3"),
        (["decoder.hidden_dims=[4]", "--hidden-dims", "4", "--model", "vae"], "multiple values for keyword argument"),
    ],
)
def test_options_that_a_model_does_not_take(words, told, files, tmp_path, capsys, never, models):
    fails([*complete("train", models, files, tmp_path), "--set", *words], capsys, told)
    assert not [*tmp_path.iterdir()]

"""`train --config`: a run that begins with the settings of another."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main
from pyro_pcflow.cli.config import RunSettings
from pyro_pcflow.training import toml


def train(data, out, *words):
    return main(["train", str(data), "--out", str(out), "--device", "cpu", *words])


def weights(run):
    return pcf.load(run / "model.pt").state_dict()


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(0).normal(size=(300, 3)))
    return path


@pytest.fixture
def kind(tmp_path):
    path = tmp_path / "kind.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20, 40, 3)).astype(np.float32))
    return path


SMALL = ["--num-couplings", "2", "--hidden-dims", "8", "--max-steps", "3", "--seed", "4"]
NONE = "optimization.patience=None"
FLOW = [*SMALL, "--lr", "0.02", "--batch-size", "64", "--set", "masks=halves", "optimization.grad_clip=5", NONE]
VAE = [
    *SMALL,
    "--set",
    "latent_dim=2",
    "encoder.point_dims=[8]",
    "encoder.hidden_dims=[8]",
    "sampling.most_points=None",
]


@pytest.mark.parametrize(("data", "words"), [("scan", FLOW), ("kind", VAE), ("scan", ["--max-steps", "2"])])
@pytest.mark.parametrize("file", ["", "/config.toml"])
def test_a_run_is_repeated_to_the_last_bit(data, words, file, tmp_path, request, no_pictures, capsys):
    path = request.getfixturevalue(data)
    assert train(path, tmp_path / "one", *words) == 0
    assert train(path, tmp_path / "two", "--config", f"{tmp_path / 'one'}{file}") == 0
    first, second = (toml.read(tmp_path / name / "config.toml") for name in ("one", "two"))
    assert first == second
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items() if isinstance(value, torch.Tensor))
    assert "other data" not in capsys.readouterr().err


def test_options_go_before_the_file(scan, tmp_path, no_pictures):
    assert train(scan, tmp_path / "one", *FLOW) == 0
    words = ["--max-steps", "2", "--lr", "0.5", "--seed", "0", "--noise", "0.1", "--hidden-dims", "6"]
    assert (
        train(scan, tmp_path / "two", "--config", str(tmp_path / "one"), *words, "--set", "optimization.ema_decay=0")
        == 0
    )
    found = toml.read(tmp_path / "two" / "config.toml")
    settings = found["settings"]
    assert (settings["max_steps"], settings["lr"], settings["seed"], settings["ema_decay"]) == (2, 0.5, 0, 0.0)
    assert settings["grad_clip"] == 5.0
    assert found["data"]["batch_size"] == 64
    assert found["data"]["noise"] == pytest.approx(
        0.1 * pcf.data.half_extent(torch.from_numpy(np.load(scan))), rel=1e-5
    )
    config = found["module"]["config"]
    assert (config["hidden_dims"], config["masks"], config["num_couplings"]) == ([6], "halves", 2)


def test_one_limit_takes_the_place_of_both(tmp_path, scan, monkeypatch):
    (tmp_path / "config.toml").write_text("[settings]\nmax_steps = 5\nlr = 0.5\n")
    calls = []
    monkeypatch.setattr(pcf.training, "fit", lambda *_, **options: calls.append(options) or 1 / 0)
    for words, limits in {(): (5, None), ("--max-seconds", "7"): (None, 7.0), ("--max-steps", "2"): (2, None)}.items():
        with pytest.raises(ZeroDivisionError):
            train(scan, tmp_path / "run", "--config", str(tmp_path / "config.toml"), *words)
        assert (calls[-1]["max_steps"], calls[-1]["max_seconds"], calls[-1]["lr"]) == (*limits, 0.5)
        assert calls[-1]["noise"] == "auto"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[settings]\nlearning_rate = 1.0", "no run has settings.learning_rate; known are max_steps"),
        ("[settings]\nlr = 1.0\n[more]\na = 1", "no run has more"),
        ("[data]\nnoice = 1.0", "no run has data.noice"),
        ("[module]\nkind = 'flow'", "no run has module.kind"),
        ("[module]\nclass = 'AutoDecoder'", "module.class is 'AutoDecoder': train makes PointCloudFlow or"),
        ("[module]\nclass = 'PointCloudFlow'\ndtype = 'torch.float64'", "module.dtype is 'torch.float64'"),
        ("settings = 3", "settings is 3, and no table"),
        ("lr = ", "damaged"),
        ("[data]\naugment = ['mine.Twist']", "data.augment is ['mine.Twist']"),
        ("[settings]\nlr = 'high'", "lr is 'high': expected a number"),
        ("[settings]\nseed = 1.5", "seed is 1.5: expected a whole number"),
        ("[settings]\nbetas = 3", "betas must be two numbers"),
        ("[module]\nclass = 'PointCloudFlow'\n[module.config]\npoint_dim = 3\nfoo = 1", "unknown option 'foo'"),
    ],
)
def test_what_no_run_has_is_refused_by_name(text, told, tmp_path, scan, capsys):
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert train(scan, tmp_path / "run", "--config", str(path), "--max-steps", "1") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert told in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preset", "nice"], "--config says the shape of the model"),
        (["--model", "vae"], "--config is of a PointCloudFlow: leave --model vae out"),
    ],
)
def test_options_that_contradict_it(words, told, tmp_path, scan, capsys):
    path = tmp_path / "config.toml"
    path.write_text("[module]\nclass = 'PointCloudFlow'\n")
    assert train(scan, tmp_path / "run", "--config", str(path), *words) == 2
    assert told in capsys.readouterr().err


def test_other_data_is_told(scan, tmp_path, no_pictures, capsys):
    assert train(scan, tmp_path / "one", *SMALL) == 0
    other = tmp_path / "other.npy"
    np.save(other, np.random.default_rng(1).normal(size=(300, 3)))
    capsys.readouterr()
    assert train(other, tmp_path / "two", "--config", str(tmp_path / "one")) == 0
    assert "that run had other data" in capsys.readouterr().err


def test_what_toml_cannot_say_is_asked_for(tmp_path):
    """A file says nothing of None, whose place a default must not take."""
    path = tmp_path / "config.toml"
    path.write_text("[module]\nclass = 'PointCloudFlow'\n[module.config]\npoint_dim = 2\nbase = 'normal'\n")
    with pytest.raises(ValueError, match=re.escape("it says nothing of ")):
        RunSettings.read(path).make({}, [])

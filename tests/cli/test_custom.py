"""`--custom FILE.py:CLASS`: which files are run, and which classes are taken from them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main
from pyro_pcflow.cli.custom import load_custom

FILE = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path

with open({counter!r}, "a") as file:
    file.write("run ")

@dataclass
class Bend:
    amount: float = 1.0

class Twist(Bend):
    pass

number = 7
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "my classes.py"
    path.write_text(FILE.format(counter=str(tmp_path / "counter")))
    return path


def test_classes_of_one_file_which_is_run_once(mine):
    classes = load_custom([f"{mine}:Bend", f"{mine}:Twist"])
    assert [*classes] == ["Bend", "Twist"]
    bend, twist = classes.values()
    assert issubclass(twist, bend)
    assert bend(2.0) == bend(amount=2.0)
    assert (mine.parent / "counter").read_text() == "run "


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("{mine}", ValueError, "expected FILE.py:CLASS, got"),
        ("{mine}:", ValueError, "expected FILE.py:CLASS, got"),
        ("os:path", ValueError, "expected FILE.py:CLASS, got 'os:path'"),
        ("{mine}:Bent", ValueError, "defines no class Bent; it has Bend, Twist"),
        ("{mine}:number", ValueError, "defines no class number"),
        ("{mine}.py:Bend", FileNotFoundError, "no such file"),
    ],
)
def test_what_names_no_class(spec, error, words, mine):
    with pytest.raises(error, match=re.escape(words)):
        load_custom([spec.format(mine=mine)])


def test_two_classes_of_one_name(mine, tmp_path):
    (tmp_path / "other.py").write_text("class Bend: ...")
    with pytest.raises(ValueError, match="two classes are called Bend"):
        load_custom([f"{mine}:Bend", f"{tmp_path / 'other.py'}:Bend"])


@pytest.mark.parametrize("text", ["1 / 0", "class Broken(:", "raise ValueError('mine')"])
def test_an_error_in_the_file_keeps_its_traceback(text, tmp_path, models):
    (tmp_path / "broken.py").write_text(text)
    words = ["sample", str(models["flow"]), "--out", str(tmp_path / "a.npy")]
    with pytest.raises(RuntimeError, match=r"broken.py could not be run") as raised:
        main([*words, "--custom", f"{tmp_path / 'broken.py'}:Broken"])
    assert raised.value.__cause__ is not None


BEND = """
import torch
from pyro_pcflow.transforms import Elementwise

class Bend(Elementwise):
    num_parameters = 1

    def __init__(self, limit=1.0):
        self.limit = limit
        self.config = {"limit": limit}

    def forward_and_log_det(self, x, parameters):
        angle = torch.asinh(x) + self.limit * torch.tanh(parameters[..., 0] / self.limit)
        return torch.sinh(angle), torch.log(torch.cosh(angle)) - 0.5 * torch.log1p(x.square())

    def inverse_and_log_det(self, y, parameters):
        return self.forward_and_log_det(y, -parameters)
"""


@pytest.mark.parametrize("model", ["flow", "vae"])
def test_a_map_of_the_users_own_from_training_to_scores(model, tmp_path, capsys, monkeypatch, no_pictures, no_sheet):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bend.py").write_text(BEND)
    np.save("data.npy", np.random.default_rng(0).normal(size=(20, 30, 3)))
    custom, cpu = ["--custom", "bend.py:Bend"], ["--device", "cpu"]
    train = ["train", "data.npy", "--model", model, *custom, "--coupling", "Bend", "limit=0.25", "--num-couplings", "2"]
    train += ["--out", "run", *cpu]
    assert main([*train, "--max-steps", "2"]) == 0
    assert main([*train, "--max-steps", "3", "--resume"]) == 0
    assert main(["sample", "run", "--out", "samples.npy", "--num-clouds", "2", "--num-points", "9", *cpu, *custom]) == 0
    assert np.load("samples.npy").shape == (2, 9, 3)
    assert main(["score", "run", "samples.npy", "--out", "scores.npy", *cpu, *custom]) == 0
    words = ["--reference", "data.npy", "--num-points", "9", "--num-particles", "2", *cpu]
    assert main(["evaluate", "run", *words, *custom]) == 0
    capsys.readouterr()
    assert main(["sample", "run", "--out", "more.npy"]) == 2
    assert "the class 'Bend'" in capsys.readouterr().err
    (tmp_path / "again.py").write_text(BEND)
    (bend,) = load_custom(["again.py:Bend"]).values()
    module = pcf.load("run/model.pt", custom=[bend])
    config = module.config if model == "flow" else module.config["decoder"]
    assert isinstance(config["coupling"], bend)
    assert config["coupling"].limit == 0.25
    if model == "flow":
        scores = module.log_prob(torch.from_numpy(np.load("samples.npy"))).detach().numpy()
        assert np.allclose(scores, np.load("scores.npy"), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["Bent"], "--coupling must be one of affine, additive"),
        (["affine", "limit=2"], "--coupling affine: limit=2 is for a class of --custom"),
        (["Bend", "limi=2"], "unexpected keyword argument 'limi'"),
        (["Bend", "2"], "expected NAME=VALUE"),
    ],
)
def test_maps_that_are_not_there(words, told, tmp_path, capsys):
    (tmp_path / "bend.py").write_text(BEND)
    custom = ["--custom", f"{tmp_path / 'bend.py'}:Bend"]
    assert main(["train", "--out", str(tmp_path / "run"), *custom, "--coupling", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

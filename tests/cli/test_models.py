"""Every class that `pcf.save` writes works in `sample`, `score` and `evaluate`."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from helpers.saved_models import LABELS, MODELS
from pyro_pcflow.cli import main
from pyro_pcflow.cli.custom import load_custom
from pyro_pcflow.serialization.classes import MODELS as CLASSES

THREE_DIMENSIONAL = [name for name in MODELS if name not in ("flat", "six", "context", "mixture_context")]


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("pcflow: ")
    return lines[0]


@pytest.fixture
def clouds(tmp_path):
    path = tmp_path / "clouds.npz"
    points = 1 + torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(0))
    np.savez(path, points=points.numpy())
    return path


def test_the_model_of_a_completer_is_taken(tmp_path):
    vae = MODELS["vae"]()
    files = {"vae": vae, "completer": pcf.infer.Completer(vae, context_dim=4)}
    for name, module in files.items():
        pcf.save(module, tmp_path / f"{name}.pt")
        words = ["--num-clouds", "2", "--num-points", "9", "--seed", "3", "--device", "cpu"]
        assert main(["sample", str(tmp_path / f"{name}.pt"), *words, "--out", str(tmp_path / f"{name}.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "vae.npy"), np.load(tmp_path / "completer.npy"))


def test_all_classes_are_here():
    assert {type(make()).__name__ for make in MODELS.values()} == {*CLASSES}


@pytest.mark.parametrize("name", THREE_DIMENSIONAL)
def test_sample(name, models, tmp_path):
    words = ["sample", str(models[name]), "--num-clouds", "2", "--num-points", "30", "--seed", "3", "--device", "cpu"]
    assert main([*words, *LABELS.get(name, []), "--out", str(tmp_path / "a.npy")]) == 0
    drawn = np.load(tmp_path / "a.npy")
    module = pcf.load(models[name])
    torch.manual_seed(3)
    given = {"labels": torch.tensor([int(LABELS[name][1])] * 2)} if name in LABELS else {}
    expected = module.sample(2, 30, **given).numpy()
    assert np.array_equal(drawn, expected)
    assert drawn.dtype == (np.float64 if name == "double" else np.float32)


@pytest.mark.parametrize("name", THREE_DIMENSIONAL)
def test_score(name, models, clouds, tmp_path, capsys):
    words = ["score", str(models[name]), str(clouds), "--device", "cpu", "--seed", "3"]
    assert main([*words, *LABELS.get(name, []), "--out", str(tmp_path / "a.npy")]) == 0
    scores = np.load(tmp_path / "a.npy")
    points = torch.from_numpy(np.load(clouds)["points"])
    module = pcf.load(models[name])
    with (tmp_path / "a.clouds.csv").open() as file:
        totals = [float(row["log_density"]) for row in csv.DictReader(file)]
    if name in ("flow", "double", "mixture"):
        with torch.no_grad():
            expected = module.log_prob(points.to(next(module.parameters()).dtype))
        assert np.allclose(scores, expected.numpy(), rtol=1e-5, atol=1e-5)
        assert totals == pytest.approx(scores.astype(float).sum(1).tolist(), rel=1e-6)
    else:
        labels = torch.tensor([int(LABELS[name][1])]) if name in LABELS else None
        for number in range(3):
            torch.manual_seed(3)
            posterior = module.encode(points[number : number + 1], labels=labels)
            with torch.no_grad():
                density = module.decode(posterior.mean, 40, labels=labels)
                bound = module.log_prob(points[number : number + 1], labels=labels, posterior=posterior)
            assert scores[number].sum() == pytest.approx(density.log_prob(points[number]).item(), rel=1e-4)
            assert totals[number] == pytest.approx(bound.item(), rel=1e-5)
    assert f"{sum(totals) / 120:.3f} nats per point over 3 clouds of 40 points" in capsys.readouterr().out


@pytest.mark.parametrize("name", THREE_DIMENSIONAL)
def test_evaluate(name, models, clouds, tmp_path, no_sheet):
    words = ["evaluate", str(models[name]), "--reference", str(clouds), "--num-points", "20", "--draws", "1"]
    words += ["--num-particles", "3", "--seed", "5", "--device", "cpu", *LABELS.get(name, [])]
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    report = pcf.metrics.Report.from_json(tmp_path / "report" / "report.json")
    references = pcf.data.load_clouds(clouds, 20, seed=5)
    module = pcf.load(models[name])
    if name in ("flow", "double", "mixture"):
        expected = pcf.metrics.log_likelihood(module, references.to(next(module.parameters()).dtype))
    else:
        labels = torch.tensor([int(LABELS[name][1])] * 3) if name in LABELS else None
        expected = pcf.metrics.importance_weighted_bound(module, references, num_particles=3, seed=5, labels=labels)
    assert report.likelihood.kind == expected.kind
    assert report.likelihood.nats_per_point == pytest.approx(expected.nats_per_point, rel=1e-5)


@pytest.mark.parametrize("name", ["context", "mixture_context"])
@pytest.mark.parametrize("command", ["sample", "score", "evaluate"])
def test_a_flow_that_needs_a_context(command, name, models, clouds, tmp_path, capsys):
    words = {"sample": [], "score": [str(clouds)], "evaluate": ["--reference", str(clouds)]}[command]
    out = tmp_path / ("a.npz" if command == "sample" else "a.csv")
    assert main([command, str(models[name]), *words, "--out", str(out)]) == 2
    line = one_line(capsys)
    assert f"{name}.pt holds a " in line
    assert "needs a context of 4 numbers for each cloud, which no command has: call its sample" in line


@pytest.mark.parametrize("name", ["classes", "auto_classes"])
@pytest.mark.parametrize("command", ["sample", "score", "evaluate"])
@pytest.mark.parametrize(
    ("label", "words"),
    [
        (
            [],
            "holds a model of 3 classes, which does not know how frequent they were: give --label, one or several of 0",
        ),
        (["--label", "3"], "holds a model of the classes 0, 1, 2, got --label 3"),
        (["--label", "-1"], "argument --label: expected a whole number, at least 0"),
        (["--label", "chair"], "argument --label: expected a whole number, at least 0, got 'chair'"),
    ],
)
def test_labels_that_are_not_there(command, name, label, words, models, clouds, tmp_path, capsys):
    words_of = {"sample": [], "score": [str(clouds)], "evaluate": ["--reference", str(clouds)]}[command]
    out = tmp_path / ("a.npz" if command == "sample" else "a.csv")
    assert main([command, str(models[name]), *words_of, "--out", str(out), *label]) == 2
    assert words.replace("were", "are") in one_line(capsys)


@pytest.mark.parametrize("command", ["sample", "score", "evaluate"])
def test_a_label_for_a_model_without_classes(command, models, clouds, tmp_path, capsys):
    words = {"sample": [], "score": [str(clouds)], "evaluate": ["--reference", str(clouds), "--num-points", "9"]}[
        command
    ]
    out = tmp_path / ("a.npz" if command == "sample" else "a.csv")
    for name in ("vae", "auto", "flow"):
        assert main([command, str(models[name]), *words, "--out", str(out), "--label", "0"]) == 2
        assert "without classes: leave --label out" in one_line(capsys)


def test_several_labels_take_turns_in_samples(models, tmp_path):
    words = ["sample", str(models["classes"]), "--num-clouds", "5", "--num-points", "9", "--device", "cpu"]
    assert main([*words, "--label", "2", "0", "--out", str(tmp_path / "a.npy")]) == 0
    torch.manual_seed(0)
    expected = pcf.load(models["classes"]).sample(5, 9, labels=torch.tensor([2, 0, 2, 0, 2]))
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected.numpy())


def test_each_cloud_has_its_label_in_scores(models, clouds, tmp_path, capsys):
    words = ["score", str(models["classes"]), str(clouds), "--device", "cpu"]
    for number, labels in enumerate((["0"], ["2"], ["0", "2", "0"])):
        assert main([*words, "--label", *labels, "--out", str(tmp_path / f"{number}.npy")]) == 0
    zero, two, each = (np.load(tmp_path / f"{number}.npy") for number in range(3))
    assert np.array_equal(each, np.stack([zero[0], two[1], zero[2]]))
    assert not np.array_equal(zero, two)
    capsys.readouterr()
    for labels in (["0", "1"], ["0", "1", "2", "0"]):
        assert main([*words, "--label", *labels, "--out", str(tmp_path / "bad.npy")]) == 2
        assert f"expected one for all clouds, or one for each of {'3' if len(labels) == 2 else ''}" in one_line(capsys)
    assert not any(path.name.startswith("bad") for path in tmp_path.iterdir())


def test_each_reference_has_its_label(models, clouds, tmp_path, capsys, no_sheet):
    words = ["evaluate", str(models["classes"]), "--reference", str(clouds), "--num-points", "40", "--draws", "1"]
    words += ["--num-particles", "2", "--device", "cpu", "--label"]
    assert main([*words, "0", "2", "1", "--out", str(tmp_path / "each")]) == 0
    references, module = pcf.data.load_clouds(clouds, 40), pcf.load(models["classes"])
    expected = pcf.metrics.importance_weighted_bound(
        module, references, num_particles=2, labels=torch.tensor([0, 2, 1])
    )
    report = json.loads((tmp_path / "each" / "report.json").read_text())
    assert report["likelihood"]["nats_per_point"] == pytest.approx(expected.nats_per_point, rel=1e-6)
    capsys.readouterr()
    assert main([*words, "0", "2", "--out", str(tmp_path / "bad")]) == 2
    assert "one for each of 3 of" in one_line(capsys)


@pytest.mark.parametrize("name", ["flat", "six", "vae"])
@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_points_of_another_dimension(command, name, models, tmp_path, capsys):
    dim = pcf.load(models[name]).point_dim
    np.save(tmp_path / "four.npy", np.zeros((3, 20, 4)))
    words = [
        command,
        str(models[name]),
        *(["--reference"] if command == "evaluate" else []),
        str(tmp_path / "four.npy"),
    ]
    words += ["--num-points", "20"] if command == "evaluate" else []
    assert main([*words, "--out", str(tmp_path / "out.csv")]) == 2
    assert f"four.npy: points of 4 coordinates, but the model has points of {dim}" in one_line(capsys)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("name", "columns", "header"), [("flat", "1,2", "x,y"), ("six", "1,2,3,4,5,6", "x0,x1,x2,x3,x4,x5")]
)
def test_two_and_six_coordinates(name, columns, header, models, tmp_path):
    samples, scores = tmp_path / "samples.xyz", tmp_path / "scores.csv"
    assert main(["sample", str(models[name]), "--num-points", "30", "--out", str(samples), "--device", "cpu"]) == 0
    words = ["score", str(models[name]), str(samples), "--columns", columns, "--out", str(scores), "--device", "cpu"]
    assert main(words) == 0
    assert scores.read_text().splitlines()[0] == f"cloud,point,{header},log_density"


GAUSSIAN = """
import torch

class Gaussian(torch.nn.Module):
    point_dim, context_dim, config = 3, 0, {}

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.ones(3))

    def sample(self, num_clouds, num_points):
        return self.mean.detach() + torch.randn(num_clouds, num_points, 3)

    def log_prob(self, points):
        return torch.distributions.Normal(self.mean, 1.0).log_prob(points).sum(-1)

class Silent(Gaussian):
    sample = property(lambda self: self.nothing)
"""


def test_a_density_of_the_users_own(clouds, tmp_path, capsys, no_sheet):
    (tmp_path / "gaussian.py").write_text(GAUSSIAN)
    classes = load_custom([f"{tmp_path / 'gaussian.py'}:{name}" for name in ("Gaussian", "Silent")])
    for name, cls in classes.items():
        pcf.save(cls(), tmp_path / f"{name}.pt")
    tail = ["--device", "cpu", "--custom", f"{tmp_path / 'gaussian.py'}:Gaussian"]
    path = str(tmp_path / "Gaussian.pt")
    assert main(["sample", path, "--num-points", "9", "--out", str(tmp_path / "a.npy"), *tail]) == 0
    assert main(["score", path, str(clouds), "--out", str(tmp_path / "s.npy"), *tail]) == 0
    points = torch.from_numpy(np.load(clouds)["points"])
    expected = torch.distributions.Normal(1.0, 1.0).log_prob(points).sum(-1).numpy()
    assert np.allclose(np.load(tmp_path / "s.npy"), expected, atol=1e-5)
    words = ["--reference", str(clouds), "--num-points", "20", "--out", str(tmp_path / "report")]
    assert main(["evaluate", path, *words, *tail]) == 0
    capsys.readouterr()
    tail[-1] = tail[-1].replace("Gaussian", "Silent")
    assert main(["sample", str(tmp_path / "Silent.pt"), "--out", str(tmp_path / "b.npy"), *tail]) == 2
    assert "holds a Silent without sample: commands need point_dim, context_dim, sample, log_prob" in one_line(capsys)

"""`pcflow register`: what it writes is what `pcf.infer.register` finds."""

from __future__ import annotations

import json

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


@pytest.fixture
def scan(models, tmp_path):
    """Points of the flow, turned and moved."""
    torch.manual_seed(1)
    rotation = pcf.transforms.rotation_matrix(torch.tensor([1.0, 0.5, 0.0, -0.2]))
    points = pcf.load(models["flow"]).sample(1, 80)[0] @ rotation.T + torch.tensor([3.0, 0.0, 1.0])
    return pcf.data.save_clouds(points.unsqueeze(0), tmp_path / "scan.npy"), points


def words(models, path, out, *more, model="flow"):
    few = ["--num-starts", "16", "--num-samples", "6", "--seed", "5", "--device", "cpu"]
    return ["register", str(models[model]), str(path), "--out", str(out), *few, *more]


def test_register(models, scan, tmp_path, capsys):
    path, points = scan
    out = tmp_path / "new" / "pose.json"
    more = ["--spread", "0.5", "--around", "1", "0.5", "0", "-0.2", "--scale-deviation", "0.2", "--outliers", "2", "9"]
    assert main(words(models, path, out, *more)) == 0
    assert f"{out}, {out.with_suffix('.ply')}" in capsys.readouterr().out
    written = json.loads(out.read_text())
    flow = pcf.load(models["flow"]).requires_grad_(False)
    torch.manual_seed(5)
    found = pcf.infer.register(
        flow,
        points,
        around=torch.tensor([1.0, 0.5, 0.0, -0.2]),
        spread=0.5,
        scale=dist.LogNormal(0.0, 0.2),
        outlier_probability=dist.Beta(2.0, 9.0),
        num_starts=16,
        num_samples=6,
    )
    posed = flow.sample(1, 2048)[0] @ (found.modes.scale[0] * found.modes.rotation[0]).T + found.modes.translation[0]
    for name, expected in {
        "matrix": found.matrix,
        "covariance": found.covariance,
        "draws": found.matrices,
        "outlier_probabilities": found.outlier_probability,
    }.items():
        torch.testing.assert_close(torch.tensor(written[name]), expected.float(), rtol=1e-4, atol=1e-5)
    assert written["modes"]["weights"] == pytest.approx(found.modes.weight.tolist())
    assert written["diagnostics"] == {"num_starts": 16}
    ply = pcf.data.load_clouds(out.with_suffix(".ply"), None)[0]
    torch.testing.assert_close(ply, posed, rtol=1e-4, atol=1e-4)
    assert main(words(models, path, out)) == 2
    assert "pose.json" in capsys.readouterr().err  # never overwritten


def test_a_sensor_and_no_outliers(models, scan, tmp_path, monkeypatch):
    """The options reach the function, which is slow where a flow is seen from one side."""
    given = {}

    def spy(flow, points, **options):
        given.update(options)
        return register(flow, points, **(options | {"observe": None}))

    register = pcf.infer.register
    monkeypatch.setattr(pcf.infer, "register", spy)
    more = ["--no-outliers", "--direction", "0", "0", "2", "--offset", "0.5", "--softness", "0.1", "--spread", "0.1"]
    assert main(words(models, scan[0], tmp_path / "a.json", *more)) == 0
    seen = given["observe"](dist.Normal(torch.zeros(3), 1.0).to_event(1))
    assert given["outlier_probability"] is None
    sensor = seen.log_retention
    torch.testing.assert_close(sensor.direction, torch.tensor([0.0, 0.0, 1.0]))
    assert (sensor.offset, sensor.softness) == (0.5, 0.1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "vae"}, "a model of many shapes: register takes a flow of one object"),
        ({"more": ["--offset", "1"]}, "give --direction, too"),
        ({"more": ["--direction", "0", "0", "0"]}, "expected 3 numbers, not all of them 0"),
        ({"more": ["--around", "1", "0", "0", "0"]}, "give spread, too"),
        ({"out": "a.txt"}, "ends in .json"),
    ],
)
def test_errors(models, scan, tmp_path, capsys, change, told):
    out = tmp_path / change.get("out", "a.json")
    assert main(words(models, scan[0], out, *change.get("more", []), model=change.get("model", "flow"))) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()
    assert not out.with_suffix(".ply").exists()


def test_several_clouds_are_not_one_scan(models, tmp_path, capsys):
    pcf.data.save_clouds(torch.randn(2, 20, 3), tmp_path / "two.npz")
    assert main(words(models, tmp_path / "two.npz", tmp_path / "a.json")) == 2
    assert "holds 2 clouds or more: give a file of one scan" in capsys.readouterr().err


def test_a_mesh_needs_a_number_of_points(models, tmp_path, capsys):
    mesh = pcf.data.example_path("spot")
    assert main(words(models, mesh, tmp_path / "a.json")) == 2
    assert "--scan-points" in capsys.readouterr().err


def test_a_result_as_json(models, scan, tmp_path, capsys):
    out = tmp_path / "pose.json"
    assert main(words(models, scan[0], out, "--json", "--outliers", "2", "9")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["out"], found["picture"]) == (str(out), str(out.with_suffix(".ply")))
    assert found["matrix"] == json.loads(out.read_text())["matrix"]
    assert 0 <= found["outlier_share"] <= 1


def test_outliers_or_none(models, scan, tmp_path, capsys):
    assert main(words(models, scan[0], tmp_path / "pose.json", "--outliers", "2", "9", "--no-outliers")) == 2
    assert "give one of them" in capsys.readouterr().err

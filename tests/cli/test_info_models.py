"""What is in model files and run folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from helpers.saved_models import MODELS
from pyro_pcflow.cli import main
from pyro_pcflow.cli.info_models import last_scores


def info(capsys, *words):
    assert main(["info", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(name, models, capsys):
    module = pcf.load(models[name])
    found = info(capsys, models[name])
    assert found["class"] == type(module).__name__
    assert found["parameters"] == sum(parameter.numel() for parameter in module.parameters())
    assert found["type"] == ("float64" if name == "double" else "float32")
    assert found["trained"]
    if "mixture" in name:
        assert found["centre"] is None  # one for each of its flows
    else:
        # Those of the points: the training data lay around 1.
        assert np.abs(np.array(found["centre"]) - 1).max() < 0.3
        assert len(found["centre"]) == module.point_dim
    assert found["config"]["point_dim"] == module.point_dim
    assert main(["info", str(models[name])]) == 0
    assert f"{found['parameters']:,}" in capsys.readouterr().out


def test_a_model_that_was_never_trained(tmp_path, capsys):
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    flow.requires_grad_(False)
    pcf.save(flow, tmp_path / "new.pt")
    found = info(capsys, tmp_path / "new.pt")
    assert (found["trained"], found["centre"], found["origin"]) == (False, None, None)
    assert found["frozen"] == found["parameters"]


def test_the_origin_of_a_flow(tmp_path, capsys):
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    centre = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)
    flow.normalize(centre + torch.rand(500, 3, dtype=torch.float64))
    pcf.save(flow, tmp_path / "map.pt")
    found = info(capsys, tmp_path / "map.pt")
    assert flow.origin is not None
    assert found["origin"] == flow.origin.tolist()
    assert main(["info", str(tmp_path / "map.pt")]) == 0
    assert "subtracted from points in double precision" in capsys.readouterr().out


def test_a_run(tmp_path, capsys, no_pictures):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(200, 3)))
    run = tmp_path / "run"
    words = ["train", str(tmp_path / "a.npy"), "--out", str(run), "--max-steps", "3", "--device", "cpu", "--json"]
    assert main([*words, "--num-couplings", "2", "--hidden-dims", "8"]) == 0
    trained = json.loads(capsys.readouterr().out)
    found = info(capsys, run)
    assert found["scores"]["nats_per_point"] == trained["nats_per_point"]
    assert (found["scores"]["step"], found["scores"]["evaluated"]) == (3, 3)
    assert (found["ended"], found["model"]["class"]) == (True, "PointCloudFlow")
    assert found["data"]["noise"] == trained["noise"]
    assert found["settings"]["max_steps"] == 3
    (run / "model.pt").unlink()
    found = info(capsys, run)
    assert (found["ended"], found["model"]) == (False, None)
    assert main(["info", str(run)]) == 0
    assert "run, not ended: --resume continues it" in capsys.readouterr().out


def test_scores_of_a_log_that_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_scores(path) == {}
    lines = [{"step": step, "loss": 9.0 - step, **({"nats_per_point": -step} if step % 2 else {})} for step in range(5)]
    text = "\n".join(map(json.dumps, lines))
    path.write_text(text + '\n{"step": 5, "lo')
    assert last_scores(path) == {"step": 4, "loss": 5.0, "nats_per_point": -3, "evaluated": 3}
    path.write_text("x" * 100_000 + "\n" + text)
    assert last_scores(path)["step"] == 4

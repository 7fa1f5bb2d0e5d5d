"""What a pretraining leaves behind."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.common.scores import evidence_lower_bound
from benchmarks.tools import pretrain

SMALL = {"latent_dim": 4, "prior": "normal", "decoder": {"num_couplings": 2, "hidden_dims": [8]}}


@pytest.mark.slow
def test_pretraining_leaves_a_model_and_its_curve(category_file, tmp_path, command):
    out, others = tmp_path / "run", tmp_path / "others.npy"
    pcf.data.save_clouds(torch.randn(40, 200, 3), others)
    options = ("--model", json.dumps(SMALL), "--batch-size", 10, "--seconds", 0.5, "--out", out)
    printed = command(pretrain, category_file, "--train", others, *options).out
    found = re.search(r"8 clouds, evidence lower bound: (-?\d+\.\d{3}) nats per point", printed)
    with np.load(category_file) as file:
        test = torch.from_numpy(file["points"][file["split"] == "test"])
        noise = 0.01 * pcf.data.half_extent(torch.from_numpy(file["points"][file["split"] == "train"]))
    shipped = pcf.load(out / "shipped.pt")
    assert next(shipped.parameters()).dtype == torch.float16
    assert shipped.config == pcf.serialization.plain(pcf.PointCloudVAE(3, **SMALL).config, "config")
    again = evidence_lower_bound(shipped.float(), test, noise)["nats_per_point"]
    assert float(found[1]) == pytest.approx(again, abs=1e-3)
    assert (out / "curve.png").stat().st_size > 10_000
    config = (out / "config.toml").read_text("utf-8")
    assert [f"clouds = {count}" in config for count in (40, 24)] == [True, False]
    assert "batch_size = 10\n" in config


@pytest.mark.exhaustive
def test_pretraining_on_the_train_split(category_file, tmp_path, command):
    command(pretrain, category_file, "--model", json.dumps(SMALL), "--seconds", 0.2, "--out", tmp_path / "run")
    assert "clouds = 24\n" in (tmp_path / "run" / "config.toml").read_text("utf-8")


@pytest.mark.exhaustive
def test_a_training_goes_on_from_a_trained_model(category_file, tmp_path, command):
    torch.manual_seed(1)
    start = pcf.PointCloudVAE(3, **SMALL)
    start.normalize(torch.randn(100, 3))
    pcf.save(start, tmp_path / "start.pt")
    options = ("--start", tmp_path / "start.pt", "--seconds", 0.1, "--lr", 1e-12, "--encoder-points", 20, 60)
    command(pretrain, category_file, *options, "--out", tmp_path / "run")
    ended = pcf.load(tmp_path / "run" / "model.pt")
    for one, other in zip(start.parameters(), ended.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert "encoder_points = [20, 60]\n" in (tmp_path / "run" / "config.toml").read_text("utf-8")


def test_options_of_a_trained_model_may_change(category_file, tmp_path, command):
    """A correction that its weights do not have yet."""
    mixture = {**SMALL, "decoder": {"base": "mixture", "num_components": 4, "num_couplings": 0}, "num_corrections": 0}
    start = pcf.PointCloudVAE(3, **mixture)
    start.normalize(torch.randn(100, 3))
    pcf.save(start, tmp_path / "start.pt")
    change = json.dumps({"num_corrections": 2})
    options = ("--start", tmp_path / "start.pt", "--model", change, "--seconds", 0.1, "--lr", 1e-12)
    command(pretrain, category_file, *options, "--out", tmp_path / "run")
    ended = pcf.load(tmp_path / "run" / "model.pt")
    assert ended.num_corrections == 2
    for name, value in start.named_parameters():
        assert torch.allclose(value, ended.get_parameter(name), atol=1e-6), name

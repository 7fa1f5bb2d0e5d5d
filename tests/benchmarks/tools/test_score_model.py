"""Scores of a trained model, as they are printed."""

from __future__ import annotations

import re

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.tools import score_model


@pytest.mark.slow
def test_bounds_of_a_file(category_file, tmp_path, command):
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(3, 4, prior="normal", decoder={"num_couplings": 2, "hidden_dims": [8]})
    vae.normalize(torch.randn(100, 3))
    pcf.testing.randomize_parameters(vae, 0.3)
    pcf.save(vae, tmp_path / "vae.pt")
    lines = command(score_model, category_file, "--model", tmp_path / "vae.pt").out.splitlines()
    assert lines[0].startswith("8 clouds, evidence lower bound: ")
    refined = {
        steps: float(re.search(r": (-?\d+\.\d+) nats", line)[1])
        for steps, line in zip(score_model.REFINE_STEPS, lines[1:], strict=False)
    }
    assert refined[6] > refined[0]
    counts = [int(re.search(r"reads (\d+) of", line)[1]) for line in lines if "reads" in line]
    assert counts == list(score_model.ENCODED)

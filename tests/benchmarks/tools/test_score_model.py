"""Scores of a trained model, as they are printed."""

from __future__ import annotations

import re

import numpy as np
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
    counts = [int(re.search(r"from (\d+) points", line)[1]) for line in lines if "encoded" in line]
    assert counts == list(score_model.ENCODED)


def test_several_files_are_classes_and_a_licence_chooses_what_is_trained_on(tmp_path):
    for number, (name, licences) in enumerate(
        {"a": ["CC0", "BY", "BY", "BY"], "b": ["CC0", "CC0", "BY", "CC0"]}.items()
    ):
        points = torch.arange(4.0)[:, None, None].expand(4, 5, 3) + 10 * number
        split = ["train", "train", "val", "test"]
        np.savez(tmp_path / f"{name}.npz", points=points.numpy(), split=split, licence=licences)
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    train, validation, test = score_model.load_classes(files, "CC0")
    assert train[0][:, 0, 0].tolist() == [0, 10, 11]
    assert train[1].tolist() == [0, 1, 1]
    assert validation[0][:, 0, 0].tolist() == [2, 12]
    assert test[1].tolist() == [0, 1]
    (clouds, labels), *_ = score_model.load_classes(files[:1])
    assert len(clouds) == 2
    assert labels is None

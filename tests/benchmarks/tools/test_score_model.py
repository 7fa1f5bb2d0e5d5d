"""Scores of a trained model, as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_several_files_are_classes(tmp_path):
    for number, name in enumerate("ab"):
        points = torch.arange(4.0)[:, None, None].expand(4, 5, 3) + 10 * number
        split = ["train", "train" if number else "test", "val", "test"]
        np.savez(tmp_path / f"{name}.npz", points=points.numpy(), split=split)
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    train, validation, test = score_model.load_classes(files)
    assert train[0][:, 0, 0].tolist() == [0, 10, 11]
    assert train[1].tolist() == [0, 1, 1]
    assert validation[0][:, 0, 0].tolist() == [2, 12]
    assert test[1].tolist() == [0, 0, 1]
    (clouds, labels), *_ = score_model.load_classes(files[:1])
    assert len(clouds) == 1
    assert labels is None


def test_embedded_examples_are_classes():
    train, _, test = score_model.load_classes([Path("chair"), Path("table")])
    assert train[0].shape == (22, 8192, 3)
    assert train[1].bincount().tolist() == [17, 5]
    assert len(test[0]) == len(test[1])

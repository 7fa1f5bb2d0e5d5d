"""`pcflow sample`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".ply", ".xyz"])
def test_sample(models, suffix, tmp_path):
    out = tmp_path / f"clouds{suffix}"
    count = 3 if suffix.startswith(".np") else 1
    command = ["sample", str(models["flow"]), "--num-clouds", str(count), "--num-points", "70", "--device", "cpu"]
    command += ["--seed", "6", "--out", str(out)]
    assert main(command) == 0
    torch.manual_seed(6)
    expected = pcf.load(models["flow"]).sample(count, 70)
    assert torch.equal(pcf.data.load_clouds(out, None), expected)
    assert main(command) == 2  # never overwritten


def test_the_digits_of_a_model_of_doubles(models, tmp_path):
    words = ["sample", str(models["double"]), "--num-points", "20", "--device", "cpu", "--out"]
    for suffix in ("npy", "xyz"):
        assert main([*words, str(tmp_path / f"a.{suffix}")]) == 0
    assert np.array_equal(np.loadtxt(tmp_path / "a.xyz"), np.load(tmp_path / "a.npy")[0])

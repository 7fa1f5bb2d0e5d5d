"""What a pretraining leaves behind."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.common.scores import evidence_lower_bound
from benchmarks.tools import pretrain


@pytest.mark.slow
def test_pretraining_leaves_a_model_and_its_curve(category_file, tmp_path, command):
    out = tmp_path / "run"
    printed = command(pretrain, category_file, "--seconds", 0.5, "--out", out).out
    found = re.search(r"test split, 8 clouds: (-?\d+\.\d{3}) nats per point", printed)
    with np.load(category_file) as file:
        test = torch.from_numpy(file["points"][file["split"] == "test"])
        noise = 0.01 * pcf.data.half_extent(torch.from_numpy(file["points"][file["split"] == "train"]))
    again = evidence_lower_bound(pcf.load(out / "model.pt"), test, noise)["nats_per_point"]
    assert float(found[1]) == pytest.approx(again, abs=1e-3)
    assert (out / "curve.png").stat().st_size > 10_000

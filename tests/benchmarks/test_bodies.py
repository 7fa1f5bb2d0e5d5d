"""Bodies are found again, walks are measured, and the distance is that of its definition."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from benchmarks import bodies


def test_chamfer_by_hand():
    """One cloud at the origin, the other at distances 1 and 2: (1 + 4) / 2 there and 1 back."""
    x, y = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert bodies.chamfer(x, bodies.trees_of(torch.stack([y, y]))) == pytest.approx([3.5, 3.5])
    assert bodies.matched(y, y.flip(0)).tolist() == y.tolist()


@pytest.mark.slow
def test_bodies_are_found_and_walks_measured(category_file, tmp_path, command):
    torch.manual_seed(0)
    model = pcf.PointCloudVAE(3, 8, decoder={"num_couplings": 4, "hidden_dims": [16]}, encoder={"point_dims": [16]})
    with np.load(category_file) as file:
        model.normalize(torch.from_numpy(file["points"]))
    pcf.save(model, tmp_path / "model.pt")
    out = command(bodies, tmp_path / "model.pt", category_file, "--walks", 2).out
    assert "the other 7 test bodies" in out
    assert "2 walks, all finite" in out
    assert len(re.findall(r"(walk|blend, matched|blend, unmatched): 0\.\d{5}", out)) == 3

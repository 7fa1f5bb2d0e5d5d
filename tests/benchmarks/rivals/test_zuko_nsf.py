"""zuko's flow as a density in the data's units."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.distributions import Distribution

from benchmarks.rivals.zuko_nsf import ZukoNSF

pytest.importorskip("zuko")


def test_its_density_has_the_units_of_the_data():
    torch.manual_seed(0)
    flow, points = ZukoNSF(2, transforms=2, hidden_dims=[8]).double(), torch.randn(500, 2, dtype=torch.float64)
    before = flow.log_prob(points)
    flow.normalize(5 + 3 * (points - points.mean(0)) / (points - points.mean(0)).square().mean().sqrt())
    torch.testing.assert_close(flow.log_prob(5 + 3 * points), before - 2 * torch.tensor(3.0).log())


def test_it_leaves_the_validation_of_distributions_as_it_is(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(Distribution, "_validate_args", True)
    ZukoNSF(2)
    assert Distribution._validate_args

"""The unit that flows of other libraries take from their points is ours."""

from __future__ import annotations

import torch

import pyro_pcflow as pcf
from benchmarks.rivals.standardized import Standardized


def test_it_has_the_one_unit_of_our_flow():
    points = 5 + torch.randn(500, 3) * torch.tensor([1.0, 2.0, 0.5])
    other, ours = Standardized(3), pcf.PointCloudFlow(3, num_couplings=1)
    other.normalize(points)
    ours.normalize(points)
    assert other.normalized
    torch.testing.assert_close(other.loc, ours.units.loc)
    torch.testing.assert_close(other.scale, ours.units.scale.expand(3))

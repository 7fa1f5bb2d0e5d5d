"""The change of units."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf

T = pcf.transforms


def test_one_scale_and_a_shift_for_each_coordinate():
    data = torch.tensor([3.0, -2.0]) + torch.tensor([1.0, 5.0]) * torch.randn(1000, 2)
    units = T.standardize(2)
    assert not units.fitted
    units.fit(data)
    torch.testing.assert_close(units.loc, data.mean(0))
    torch.testing.assert_close(units.scale, (data - data.mean(0)).square().mean().sqrt())
    noise, log_det = units.inverse_and_log_det(data)
    torch.testing.assert_close(noise * units.scale + units.loc, data)
    torch.testing.assert_close(log_det, -2 * units.scale.log().expand(1000))
    twin = T.standardize(2)
    twin.load_state_dict(units.state_dict())
    assert twin.fitted


@pytest.mark.parametrize("data", [torch.ones(5, 2), torch.full((5, 2), math.inf)])
def test_points_without_units(data):
    units = T.standardize(2)
    with pytest.raises(ValueError, match="cannot take units from 5 points"):
        units.fit(data)
    assert not units.fitted
    assert units.scale == 1

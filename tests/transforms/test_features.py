"""Features have units of their own: what they are counted in changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.transforms import Standardize


def points(count=600):
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(count, 3, generator=generator)
    intensity = 500 + 200 * torch.tanh(xyz[:, :1]) + 20 * torch.randn(count, 1, generator=generator)
    return torch.cat([xyz, intensity], dim=1)


def test_each_feature_has_a_scale_and_coordinates_share_one():
    units = Standardize(5, feature_dim=2)
    data = torch.randn(4000, 5) * torch.tensor([1.0, 2.0, 3.0, 100.0, 0.01]) + 7
    units.fit(data)
    spread = (data - data.mean(0)).square().mean(0)
    assert torch.allclose(units.scale[:3], spread[:3].mean().sqrt().expand(3), rtol=1e-5)
    assert torch.allclose(units.scale[3:], spread[3:].sqrt(), rtol=1e-4)
    noise, log_det = units.inverse_and_log_det(data)
    jacobian = torch.autograd.functional.jacobian(lambda point: units.inverse_and_log_det(point)[0], data[0])
    assert log_det[0].item() == pytest.approx(jacobian.slogdet().logabsdet.item(), rel=1e-5)
    assert torch.allclose(units.transform_and_log_det(noise)[0], data, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("feature_dim", [-1, 3, 4])
def test_a_coordinate_must_be_left(feature_dim):
    with pytest.raises(ValueError, match="feature_dim must be less than point_dim=3"):
        Standardize(3, feature_dim)


def test_a_feature_that_says_nothing_is_refused():
    data = points()
    data[:, 3] = 5
    with pytest.raises(ValueError, match="a feature is the same for all points: leave it out"):
        pcf.fit(pcf.PointCloudFlow(4, num_couplings=1, hidden_dims=[8], feature_dim=1), data, max_steps=1)


@pytest.mark.parametrize("noise", [0.05, "auto"])
def test_the_unit_of_a_feature_changes_nothing_but_the_density_itself(noise):
    """Intensities in per cent or from 0 to 65535: the same training, up to the Jacobian of the change."""
    scores = []
    for factor in (1.0, 256.0):
        data = points() * torch.tensor([1.0, 1.0, 1.0, factor])
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(4, num_couplings=2, hidden_dims=[8], feature_dim=1)
        result = pcf.fit(flow, data, max_steps=30, noise=noise)
        scores.append(result.nats_per_point + math.log(factor))
    # A power of two rounds nothing but the loss.
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_the_feature_dim_is_saved_and_loaded(tmp_path):
    flow = pcf.PointCloudFlow(4, num_couplings=1, hidden_dims=[8], feature_dim=1)
    flow.normalize(points())
    pcf.save(flow, tmp_path / "a.pt")
    again = pcf.load(tmp_path / "a.pt")
    assert again.feature_dim == 1
    assert torch.equal(again.units.scale, flow.units.scale)
    assert torch.equal(again.log_prob(points()), flow.log_prob(points()))

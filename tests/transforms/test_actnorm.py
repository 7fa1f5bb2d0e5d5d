"""A scale and a shift that the first data set."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf

T = pcf.transforms


def test_the_first_data_alone_set_it():
    norm, data = T.act_norm(3).double(), 5 + torch.tensor([0.1, 1.0, 20.0]) * torch.randn(100, 3)
    data = data.double()
    noise = norm.inv(data)
    assert noise.mean(0).abs().max() < 1e-9
    torch.testing.assert_close(noise.std(0, correction=0), torch.ones(3).double())
    norm.inv(100 * data)
    torch.testing.assert_close(norm.inv(data.clone()), noise)


def test_a_loaded_one_is_not_set_again():
    norm, twin = T.act_norm(2), T.act_norm(2)
    norm.inv(5 + torch.randn(50, 2))
    twin.load_state_dict(norm.state_dict())
    assert twin.initialized
    other = torch.randn(30, 2)
    torch.testing.assert_close(twin.inv(other), norm.inv(other.clone()))


def test_weights_that_samples_trained_are_not_overwritten():
    norm = T.act_norm(2)
    with torch.no_grad():
        norm.loc[0] = 3.0
    norm.inv(torch.randn(50, 2))
    assert norm.loc.tolist() == [3.0, 0.0]
    assert norm.initialized


def test_a_scale_beyond_the_bound_is_set_to_the_bound():
    norm = T.act_norm(1, max_log_scale=2.0).double()
    norm.initialize(1e6 * torch.randn(100, 1))
    assert 1.5 < norm.log_scale.item() < 2.0


@pytest.mark.parametrize("data", [torch.ones(1, 2), torch.tensor([[1.0, math.nan], [0.0, 0.0]])])
def test_it_needs_two_finite_points(data):
    with pytest.raises(ValueError, match="at least 2 finite points"):
        T.act_norm(2).inv(data)

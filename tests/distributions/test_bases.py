"""The noise that a flow carries to data."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions.bases import ConditionalNormal, StandardNormal

CONTEXTS = torch.linspace(-2, 2, 20).reshape(5, 4).double()


def make_conditional(scale=1.0):
    return pcf.testing.randomize_parameters(ConditionalNormal(3, 4), scale).double()


def test_standard_normal_follows_its_module(dtype):
    noise = StandardNormal(3).to(dtype)
    points = torch.randn(7, 3, dtype=dtype)
    expected = dist.Normal(torch.zeros(3, dtype=dtype), 1.0).to_event(1).log_prob(points)
    torch.testing.assert_close(noise.distribution(None).log_prob(points), expected)
    assert noise.distribution(None).sample((4,)).dtype == dtype
    assert not noise.state_dict()


def test_a_new_conditional_base_is_standard_normal():
    points = torch.randn(5, 3).double()
    torch.testing.assert_close(
        ConditionalNormal(3, 4).double().distribution(CONTEXTS).log_prob(points),
        StandardNormal(3).double().distribution(None).log_prob(points),
    )


def test_mean_and_scale_come_from_the_context():
    base, points = make_conditional(), torch.randn(7, 5, 3).double()
    loc, log_scale = base.network(CONTEXTS).chunk(2, -1)
    expected = dist.Normal(loc, log_scale.tanh().exp()).to_event(1)
    density = base.distribution(CONTEXTS)
    assert (density.batch_shape, density.event_shape) == ((5,), (3,))
    torch.testing.assert_close(density.log_prob(points), expected.log_prob(points))
    draws = density.sample((40_000,))
    assert ((draws.mean(0) - loc).abs() < 5 * expected.stddev / 200).all()
    assert ((draws.std(0) / expected.stddev - 1).abs() < 5 / (2 * 40_000) ** 0.5).all()


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_the_scale_is_bounded(factor):
    density = make_conditional(factor).distribution(CONTEXTS)
    scale = (density.transforms[0](torch.ones(3).double()) - density.transforms[0](torch.zeros(3).double())).detach()
    assert scale.min() >= math.exp(-1) - 1e-9
    assert scale.max() <= math.e + 1e-9
    assert (scale - 1).abs().max() > 0.5

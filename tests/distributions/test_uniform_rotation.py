"""Uniform rotations: a density, uniform over directions, in every shape."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_pcflow.distributions import UniformRotation
from pyro_pcflow.transforms import rotation_matrix


@pytest.mark.parametrize("length_scale", [0.1, 0.2])
@pytest.mark.parametrize("size", [2, 4])
def test_it_is_a_density_and_uniform(size, length_scale):
    """Normalized, by E[q / p] = 1 under a normal; all directions alike; in a plate."""
    torch.manual_seed(0)
    around = torch.nn.functional.normalize(torch.randn(size), dim=0)
    prior = UniformRotation(around, length_scale)
    quaternions = prior.sample((100_000,)) + around
    assert (quaternions.norm(dim=-1).log().std() / length_scale - 1).abs() < 0.02
    assert (quaternions.mean(0).abs() < 4 * size**-0.5 / 100_000**0.5 * 1.1).all()
    other = dist.Normal(-around, 0.55).to_event(1)
    draws = other.sample((1_000_000,))
    ratio = (prior.log_prob(draws) - other.log_prob(draws)).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / 1000
    with pyro.plate("clouds", 5):
        assert pyro.sample("q", prior).shape == (5, size)


def test_rotations_have_the_moments_of_haar_measure():
    """Entries of a uniform rotation have mean 0 and variance 1/3 (the columns are uniform on the sphere)."""
    torch.manual_seed(0)
    around = torch.tensor([0.5, 0.5, -0.5, 0.5])
    rotations = rotation_matrix(around + UniformRotation(around).sample((50_000,)))
    assert rotations.mean(0).abs().max() < 4 * (1 / 3 / 50_000) ** 0.5
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 0.01


def test_expanded_and_differentiable():
    around = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1).double().requires_grad_()
    prior = UniformRotation(around, 0.3)
    larger = prior.expand(torch.Size([5, 3]))
    assert (larger.batch_shape, larger.event_shape, larger.length_scale) == ((5, 3), (4,), 0.3)
    assert repr(larger).startswith("UniformRotation(batch_shape=(5, 3), event_shape=(4,)")
    offset = torch.randn(5, 3, 4).double()
    torch.testing.assert_close(larger.log_prob(offset), prior.log_prob(offset))
    prior.rsample((2,)).sum().backward()
    assert around.grad is not None
    with pytest.raises(ValueError, match="within the support"):
        UniformRotation(torch.tensor([0.0, 1.0]), validate_args=True).log_prob(torch.tensor([torch.nan, 0.0]))

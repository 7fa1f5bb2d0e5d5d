"""Vectorised Hamiltonian Monte Carlo, on densities with known moments."""

from __future__ import annotations

import pyro
import pytest
import torch

from pyro_pcflow.infer.hmc import Tempered, sample_hmc


def gaussian(means, deviations):
    """A standard normal prior and a likelihood that is normal in the noise, one for each problem."""

    def log_densities(noise):
        return -0.5 * noise.square().sum(-1), -0.5 * ((noise - means) / deviations).square().sum(-1)

    return log_densities


@pytest.mark.parametrize("exponent", [1.0, 0.2])
@pytest.mark.parametrize("scaled", [False, True])
def test_moments_of_tempered_normals(exponent, scaled):
    """Two problems of different widths, whose posteriors are normal by completing the square."""
    pyro.set_rng_seed(0)
    means = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).double()
    deviations = torch.tensor([[0.5, 2.0], [0.1, 0.3]]).double()
    precision = 1 + exponent / deviations.square()
    expected = exponent * means / deviations.square() / precision
    root = torch.diag_embed(precision.rsqrt()) if scaled else None
    result = sample_hmc(
        Tempered(gaussian(means, deviations), exponent),
        torch.zeros(64, 2, 2).double(),
        num_steps=100,
        warmup_steps=60,
        root=root,
    )
    draws = result.noise.flatten(0, 1)
    # An effective number of a fifth of all draws, and four standard errors.
    error = 4 * precision.rsqrt() / (len(draws) / 5) ** 0.5
    assert ((draws.mean(0) - expected).abs() < error).all()
    assert ((draws.std(0) * precision.sqrt() - 1).abs() < 0.1).all()
    assert ((result.acceptance - 0.8).abs() < 0.19).all()
    if not scaled:
        assert result.step_size[1] < result.step_size[0]


def test_the_exponent_may_differ_between_problems():
    pyro.set_rng_seed(0)
    means, deviations = torch.full((2, 1), 3.0).double(), torch.ones(2, 1).double()
    target = Tempered(gaussian(means, deviations), torch.tensor([1.0, 1e-6]).double())
    result = sample_hmc(target, torch.zeros(64, 2, 1).double(), num_steps=100, warmup_steps=40)
    mean = result.noise.mean((0, 1)).squeeze()
    assert abs(mean[0] - 1.5) < 0.1
    assert abs(mean[1]) < 0.1


def test_a_step_that_leaves_the_numbers_is_rejected():
    """A density that ends at zero keeps its chains on its own side."""

    def log_densities(noise):
        inside = noise.squeeze(-1) > 0
        height = torch.where(inside, -noise.squeeze(-1), torch.nan)
        return height, torch.zeros_like(height)

    pyro.set_rng_seed(0)
    result = sample_hmc(Tempered(log_densities), torch.ones(50, 1).double(), num_steps=200, warmup_steps=100)
    assert (result.noise > 0).all()
    assert result.noise.isfinite().all()
    # An exponential distribution of mean 1.
    assert abs(result.noise.mean() - 1) < 0.15


def test_log_likelihood_is_that_of_the_draws():
    log_densities = gaussian(torch.ones(3, 2).double(), torch.ones(3, 2).double())
    result = sample_hmc(Tempered(log_densities, 0.3), torch.zeros(4, 3, 2).double(), num_steps=5, warmup_steps=5)
    for noise, log_likelihood in zip(result.noise, result.log_likelihood, strict=True):
        torch.testing.assert_close(log_densities(noise)[1], log_likelihood)
    assert result.noise.shape == (5, 4, 3, 2)
    assert not result.noise.requires_grad


def test_the_scale_makes_a_narrow_ridge_round():
    """In its units a step is as long as on a standard normal, although the ridge is a hundred times as narrow."""
    pyro.set_rng_seed(0)
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.99, 0.01, 0.0], [-0.5, 0.3, 0.02]]).double()
    ridge = torch.distributions.MultivariateNormal(torch.zeros(3).double(), scale_tril=factor)

    def log_densities(noise):
        return ridge.log_prob(noise), noise.new_zeros(noise.shape[:-1])

    start = ridge.sample((64,))
    options = {"num_steps": 100, "warmup_steps": 60, "root": factor}
    result = sample_hmc(Tempered(log_densities), start, **options)
    assert result.step_size > 0.5
    assert result.acceptance > 0.6
    covariance = result.noise.flatten(0, 1).T.cov()
    torch.testing.assert_close(covariance, ridge.covariance_matrix, rtol=0.1, atol=0.02)

"""The evidence by annealed importance sampling, where it is known in closed form."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from pyro_pcflow.infer import evidence
from pyro_pcflow.infer.annealing import pareto_k


class Linear(pcf.PointCloudVAE):
    """Points that are linear in two latents, in the noise, so that posterior and evidence are closed forms."""

    def __init__(self):
        super().__init__(3, 2, prior="normal", decoder={"num_couplings": 1, "hidden_dims": [4]})
        self.known = make_conjugate(strength=0.7)
        self.decoder = self.known.flow
        self.double()


@pytest.fixture(scope="module")
def linear():
    return Linear()


@pytest.fixture(scope="module")
def data(linear):
    torch.manual_seed(0)
    latents = torch.randn(3, 2).double()
    return latents, linear.decode(latents, 20).sample()


def wide_start(num_clouds, width=1.0):
    """The prior, or a wider normal: far from the posterior."""
    noise = dist.MultivariateNormal(torch.zeros(num_clouds, 2).double(), scale_tril=width * torch.eye(2).double())
    return dist.TransformedDistribution(noise, [])


@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_bounds_are_the_evidence(linear, data, padded):
    """From far away and back, within four standard errors of the mean weight, of clouds of different sizes."""
    torch.manual_seed(1)
    latents, clouds = data
    mask = None
    if padded:
        mask = torch.arange(20) < torch.tensor([5, 12, 20]).unsqueeze(-1)
        clouds = torch.where(mask.unsqueeze(-1), clouds, torch.nan)
    exact = torch.stack(
        [
            linear.known.log_evidence(cloud.nan_to_num(), None if mask is None else kept)
            for cloud, kept in zip(clouds, clouds if mask is None else mask, strict=True)
        ]
    )
    found = evidence(
        linear,
        clouds,
        mask=mask,
        posterior=wide_start(3),
        latents=latents,
        num_particles=200,
        num_temperatures=40,
    )
    weights = (found.log_weights - exact).exp()
    assert ((weights.mean(0) - 1).abs() < 4 * weights.std(0) / 200**0.5).all()
    assert (weights.std(0) < 3).all()
    assert ((found.lower - exact).abs() < 0.5).all()
    assert ((found.upper - exact).abs() < 0.5).all()
    assert (found.pareto_k < 0.7).all()
    assert (found.effective_sample_size > 20).all()


def test_refined_posteriors_are_the_default_start(linear, data):
    _, clouds = data
    torch.manual_seed(2)
    exact = torch.stack([linear.known.log_evidence(cloud) for cloud in clouds])
    found = evidence(linear, clouds, num_particles=64, num_temperatures=8)
    # Nearly the posterior itself, as that is normal.
    assert ((found.lower - exact).abs() < 0.3).all()
    assert found.upper is None


def test_few_temperatures_are_looser_and_say_so(linear, data):
    torch.manual_seed(3)
    _, clouds = data
    exact = torch.stack([linear.known.log_evidence(cloud) for cloud in clouds])
    one = evidence(linear, clouds, posterior=wide_start(3, 3.0), num_particles=30, num_temperatures=1)
    many = evidence(linear, clouds, posterior=wide_start(3, 3.0), num_particles=30, num_temperatures=60)
    assert one.lower.mean() < many.lower.mean() < exact.mean() + 0.3
    assert one.effective_sample_size.mean() < many.effective_sample_size.mean()
    assert one.pareto_k.mean() > many.pareto_k.mean()


def test_a_flow_prior_and_labels():
    torch.manual_seed(4)
    vae = pcf.PointCloudVAE(latent_dim=4, num_classes=2, decoder={"num_couplings": 2, "hidden_dims": [8]})
    labels = torch.tensor([0, 1, 1])
    found = evidence(vae, torch.randn(3, 30, 3), labels=labels, num_particles=4, num_temperatures=3)
    assert found.lower.shape == (3,)
    assert found.pareto_k.isnan().all()
    with pytest.raises(TypeError, match="labels"):
        evidence(vae, torch.randn(3, 30, 3))


def test_the_tail_of_weights():
    """Ratios of two exponential densities have a tail of known shape: of rates 1 and r it is 1 - r."""
    torch.manual_seed(5)
    x = torch.distributions.Exponential(1.0).sample((20_000,))
    for rate in (0.2, 0.6):
        k = pareto_k((1 - rate) * x)
        assert abs(k - (1 - rate)) < 0.12
    assert pareto_k(torch.zeros(24)).isnan()
    assert pareto_k(torch.randn(100, 2, 3)).shape == (2, 3)


def test_wrong_use(linear, data):
    latents, clouds = data
    with pytest.raises(ValueError, match="at least 1"):
        evidence(linear, clouds, num_particles=0)
    with pytest.raises(ValueError, match=r"expected latents of shape \(3, 2\), got \(2,\)"):
        evidence(linear, clouds, posterior=wide_start(3), latents=latents[0])
    with pytest.raises(ValueError, match="as model"):
        evidence(linear, clouds, posterior=dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))
    assert math.isfinite(evidence(linear, clouds, posterior=wide_start(3), num_temperatures=1).lower.sum())

"""The rival whose decoder is a mixture of Gaussians: its density beside torch's, its samples, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as dist

import pyro_pcflow as pcf
from benchmarks.rivals.gaussian_vae import GaussianPoints, GaussianVAE
from helpers.ellipsoids import ellipsoids


def mixture(*batch, num_gaussians=5, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 7 + torch.randn(*batch, num_gaussians, dim, generator=generator, dtype=torch.float64)
    widths = 0.1 + torch.rand(*batch, num_gaussians, 1, generator=generator, dtype=torch.float64)
    weights = torch.randn(*batch, num_gaussians, generator=generator, dtype=torch.float64).log_softmax(-1)
    return centres, widths, weights


@pytest.mark.parametrize("batch", [(), (2,), (4, 2)])
def test_the_density_is_that_of_the_mixture(batch):
    centres, widths, weights = mixture(*batch)
    found = GaussianPoints(centres, widths, weights, 11)
    assert (found.batch_shape, found.event_shape) == (batch, (11, 3))
    parts = dist.Normal(centres.unsqueeze(-3), widths.unsqueeze(-3)).expand([*batch, 11, 5, 3])
    weights = dist.Categorical(logits=weights.unsqueeze(-2).expand(*batch, 11, -1))
    expected = dist.Independent(dist.MixtureSameFamily(weights, dist.Independent(parts, 1)), 1)
    clouds = 7 + torch.randn(*batch, 11, 3, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob(clouds), expected.log_prob(clouds))
    assert found.expand(torch.Size([3, *batch])).log_prob(clouds).shape == (3, *batch)


def test_samples_have_its_mean_and_covariance():
    torch.manual_seed(0)
    centres, widths, weights = mixture(2)
    points = GaussianPoints(centres, widths, weights, 1000).sample([100])
    assert points.shape == (100, 2, 1000, 3)
    share = weights.exp().unsqueeze(-1)
    mean = (share * centres).sum(-2)
    torch.testing.assert_close(points.mean((0, 2)), mean, atol=0.02, rtol=0)
    spread = centres - mean.unsqueeze(-2)
    covariance = (share * spread).mT @ spread + torch.diag_embed((share * widths**2).sum(-2).expand(-1, 3))
    for cloud in range(2):
        found = points[:, cloud].flatten(0, 1).T.cov()
        torch.testing.assert_close(found, covariance[cloud], atol=0.05, rtol=0)


@pytest.mark.slow
def test_it_learns_shapes_by_its_bound():
    clouds = ellipsoids(40)
    torch.manual_seed(0)
    vae = GaussianVAE(16, latent_dim=8)
    vae.normalize(clouds.flatten(0, 1))
    before = vae.log_prob(clouds, num_particles=4).mean()
    pcf.fit(vae, clouds, held_out=0, noise=0.02, max_steps=150, lr=8e-3, seed=0)
    vae.eval()
    assert vae.log_prob(clouds, num_particles=4).mean() > before + 200
    assert vae.sample(3, 70).shape == (3, 70, 3)

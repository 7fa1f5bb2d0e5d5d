"""Refined posteriors against posteriors and evidences in closed form, see `helpers.conjugate`."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from helpers.small_vae import ENCODER, make_vae, ragged


def known_vae(num_points, *, batch=(), shift=0.0):
    """A VAE, clouds, and their posteriors and the model of `helpers.conjugate`; `shift` is that of the encoder."""
    # Of this one the two latents are correlated, given a cloud.
    known = make_conjugate(seed=1)
    options = {name: value for name, value in known.flow.config.items() if name not in ("point_dim", "context_dim")}
    vae = pcf.PointCloudVAE(3, 2, prior="normal", decoder=options, encoder=ENCODER).double()
    vae.decoder = known.flow
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        vae.encoder.output.bias.zero_()
        vae.encoder.output.bias[:2] = shift
    clouds = known.flow.cloud(torch.randn(*batch, 2, dtype=torch.float64), num_points=num_points).sample()
    return vae.requires_grad_(False).eval(), clouds, known.posterior(clouds), known


def normals(vae, posterior):
    """A refined posterior as normals over latents, for a prior that is standard normal."""
    assert not posterior.transforms
    return MultivariateNormal(posterior.base_dist.loc, scale_tril=posterior.base_dist.scale_tril)


@pytest.mark.parametrize("num_points", [1, 5, 300])
def test_the_mean_becomes_the_mode(num_points):
    vae, clouds, exact, _ = known_vae(num_points, batch=(4,), shift=3.0)
    found = vae.refine(clouds, num_steps=40).base_dist.loc
    precision = exact.precision_matrix
    offset = (found - exact.mean).unsqueeze(-1)
    distance = (offset.mT @ precision @ offset).squeeze().sqrt()
    assert distance.max() < 0.01


def test_the_covariance_is_that_of_the_posterior():
    """From the scores of 64 groups in two dimensions: an expected divergence of at most 2 * 3 / (4 * 64)."""
    vae, clouds, exact, _ = known_vae(512, batch=(20,))
    divergence = kl_divergence(normals(vae, vae.refine(clouds, num_steps=10)), exact)
    assert divergence.mean() < 0.05


def test_only_points_in_the_mask_count():
    vae, clouds, _, known = known_vae(200, batch=(20,))
    mask = torch.arange(200) < 8
    exact = known.posterior(clouds, mask)
    divergence = kl_divergence(normals(vae, vae.refine(clouds, mask.expand(20, 200), num_steps=10)), exact)
    assert divergence.mean() < 0.05


@pytest.mark.parametrize("shift", [1e6, 1e30, torch.inf])
def test_a_start_where_the_prior_has_no_mass(shift):
    """An encoder that points there has every density of the points vanish, with its gradient."""
    vae, clouds, exact, _ = known_vae(50, batch=(4,), shift=shift)
    found = vae.refine(clouds, num_steps=40).base_dist.loc
    assert ((found - exact.mean).abs() < 0.1 * exact.stddev).all()


def test_a_few_steps_close_most_of_the_gap():
    vae, clouds, _, known = known_vae(30, batch=(20,), shift=2.0)
    evidence = torch.stack([known.log_evidence(cloud) for cloud in clouds])
    before = evidence - vae.log_prob(clouds, num_particles=8)
    after = evidence - vae.log_prob(clouds, num_particles=8, refine_steps=3)
    assert before.mean() > 2
    assert after.mean() < 0.1


def test_the_bound_stays_a_bound():
    """On average at most the evidence, within four standard errors, also where the covariance is a poor one."""
    vae, clouds, _, known = known_vae(6)
    bounds = vae.log_prob(clouds.expand(2000, 6, 3), num_particles=1, refine_steps=1)
    assert bounds.mean() < known.log_evidence(clouds) + 4 * bounds.std() / len(bounds) ** 0.5
    weights = (bounds - known.log_evidence(clouds)).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / len(weights) ** 0.5


def test_a_cloud_without_points_has_the_prior():
    vae, _, _, _ = known_vae(5)
    posterior = vae.refine(torch.zeros(2, 0, 3, dtype=torch.float64))
    torch.testing.assert_close(posterior.base_dist.loc, torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(posterior.base_dist.covariance_matrix, torch.eye(2).double().expand(2, 2, 2))


def test_no_step_leads_down():
    vae = make_vae()
    clouds = 3 + 2 * torch.randn(6, 40, 3, dtype=torch.float64)

    def height(z):
        (transform,) = vae.latent_prior().transforms
        noise = transform.inv(z)
        return vae.decode(z, 40).log_prob(clouds) - noise.square().sum(-1) / 2

    z = vae.encode(clouds).mean
    before = height(z)
    for _ in range(4):
        posterior = vae.refine(clouds, num_steps=1, posterior=torch.distributions.Normal(z, 1.0))
        z = posterior.transforms[0](posterior.base_dist.loc)
        assert (height(z) >= before - 1e-9).all()
        before = height(z)


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"noise_input": True}, {"num_flows": 2}])
def test_neither_other_clouds_nor_what_a_mask_leaves_out_matter(options):
    vae = make_vae(**options)
    clouds, mask = ragged(padding=100.0)
    given = {}
    if vae.num_classes:
        given["labels"] = torch.tensor([0, 1, 2, 0])
    if vae.noise_input:
        given["noise_level"] = torch.linspace(0, 1, 4, dtype=torch.float64)

    def refined(clouds):
        torch.manual_seed(0)
        posterior = vae.refine(clouds, mask, 5, **given)
        assert (posterior.batch_shape, posterior.event_shape) == ((4,), (4,))
        return posterior.base_dist

    before = refined(clouds)
    others = torch.where(mask.unsqueeze(-1), clouds, torch.full_like(clouds, -7.0))
    others[2] += 1.0
    after = refined(others)
    for part in ("loc", "scale_tril"):
        same = getattr(before, part) == getattr(after, part)
        assert same.flatten(1).all(1).tolist() == [True, True, False, True]


def test_pieces_of_a_batch(monkeypatch):
    vae, clouds, exact, _ = known_vae(50, batch=(2, 3), shift=1.0)
    monkeypatch.setattr("pyro_pcflow.models.refinement.POINTS_AT_ONCE", 100)
    posterior = vae.refine(clouds, num_steps=20)
    assert posterior.batch_shape == (2, 3)
    torch.testing.assert_close(posterior.base_dist.loc, exact.mean, atol=1e-3, rtol=0)


def test_in_any_mode_and_without_gradients():
    vae = make_vae()
    clouds = 3 + 2 * torch.randn(2, 20, 3, dtype=torch.float64)
    vae.log_prob(clouds, refine_steps=2).sum().backward()
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())
    assert any(parameter.grad is not None for parameter in vae.decoder.parameters())
    with torch.inference_mode():
        assert vae.log_prob(clouds, refine_steps=1).shape == (2,)


def test_errors():
    vae = make_vae()
    clouds = torch.zeros(2, 5, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least one step, got num_steps=0"):
        vae.refine(clouds, num_steps=0)
    with pytest.raises(ValueError, match="refine_steps must not be negative, got -1"):
        vae.log_prob(clouds, refine_steps=-1)
    with pytest.raises(ValueError, match="expected clouds"):
        vae.refine(torch.zeros(2, 5, 4))

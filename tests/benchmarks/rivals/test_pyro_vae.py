"""The model from Pyro's couplings is a density, has as many parameters as ours, and sees its new weights."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from benchmarks.common.scores import count_parameters
from benchmarks.rivals.pyro_vae import PyroCloudVAE, affine_vae, matched_in_size


def make_rival():
    torch.manual_seed(0)
    rival = PyroCloudVAE(
        3,
        4,
        num_couplings=3,
        hidden_dims=(8, 8),
        prior_couplings=2,
        prior_hidden_dims=(8,),
        encoder={"point_dims": [8]},
    ).double()
    for parameter in rival.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rival.normalize(2 + 3 * torch.randn(50, 3, dtype=torch.float64))
    return rival


def density_by_autograd(stack, value):
    """`log N(noise) + log |det d noise / d value|`, with the Jacobian by autograd."""

    def noise_of(point):
        for transform in reversed(stack.transforms):
            point = transform.inv(point)
        return point

    jacobian = torch.autograd.functional.jacobian(noise_of, value).reshape(value.numel(), -1)
    return Normal(0, 1).log_prob(noise_of(value)).sum() + jacobian.slogdet().logabsdet


def test_pyros_decoder_has_the_density_that_autograd_computes():
    rival = make_rival()
    z = torch.randn(2, 4, dtype=torch.float64)
    clouds = 2 + torch.randn(2, 5, 3, dtype=torch.float64)
    got = rival.decode(z, 5).log_prob(clouds)
    one = [rival.decode(row, 1).base_dist.stack for row in z]
    for i in range(2):
        expected = sum(density_by_autograd(one[i], point.unsqueeze(0)) for point in clouds[i])
        torch.testing.assert_close(got[i], expected)


def test_pyros_prior_has_the_density_that_autograd_computes():
    prior = make_rival().latent_prior()
    z = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z), density_by_autograd(prior.stack, z))


def test_pyros_decoder_takes_several_latents_of_one_cloud():
    """As the importance-weighted bound asks of it."""
    rival = make_rival()
    z, clouds = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    got = rival.decode(z, 5).log_prob(clouds)
    expected = torch.stack([rival.decode(particle, 5).log_prob(clouds) for particle in z])
    torch.testing.assert_close(got, expected)
    assert rival.log_prob(clouds, num_particles=3).shape == (2,)


def test_pyros_vae_sees_its_new_weights():
    """Scoring one tensor twice with a step between, which Pyro's own cache would answer from memory."""
    rival = make_rival()
    z, clouds = torch.randn(1, 4, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    for _ in range(2):
        got = rival.latent_prior().log_prob(z), rival.decode(z, 5).log_prob(clouds)
        fresh = make_rival()
        fresh.load_state_dict(rival.state_dict())
        expected = fresh.latent_prior().log_prob(z), fresh.decode(z, 5).log_prob(clouds)
        torch.testing.assert_close(got, expected)
        with torch.no_grad():
            for parameter in rival.parameters():
                parameter.add_(0.1)


def test_it_has_as_many_parameters_as_ours():
    ours = affine_vae()
    assert count_parameters(matched_in_size(ours)) == pytest.approx(count_parameters(ours), rel=0.03)

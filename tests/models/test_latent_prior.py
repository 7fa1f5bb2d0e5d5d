"""The prior over latents: a density, and a better prior than a standard normal where latents have two modes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_pcflow as pcf
from pyro_pcflow.models import latent_flow


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()


@pytest.mark.parametrize("latent_dim", [2, 3, 8])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_a_new_one_is_standard_normal(latent_dim, context_dim):
    prior = latent_flow(latent_dim, context_dim)
    context = torch.randn(5, context_dim) if context_dim else None
    density = prior.condition(context)
    assert density.event_shape == (latent_dim,)
    assert density.batch_shape == ((5,) if context_dim else ())
    z = 2 * torch.randn(5, latent_dim)
    torch.testing.assert_close(density.log_prob(z), dist.Normal(0, 1).expand([latent_dim]).to_event(1).log_prob(z))


@pytest.mark.parametrize("options", [{}, {"context_dim": 3}, {"lu_linear": True, "act_norm": True}])
def test_it_integrates_to_one(options):
    torch.manual_seed(0)
    prior = latent_flow(2, num_couplings=4, hidden_dims=[16], **options).double()
    if options.get("act_norm"):
        prior.log_prob(torch.randn(100, 2).double())
    pcf.testing.randomize_parameters(prior, 0.3)
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    context = torch.randn(3, dtype=torch.float64) if "context_dim" in options else None
    with torch.no_grad():
        log_prob = prior.condition(context).log_prob(grid)
        assert (log_prob.exp().sum() * 0.05**2).item() == pytest.approx(1, abs=1e-3)
        # And it is no longer standard normal.
        assert (log_prob - dist.Normal(0, 1).expand([2]).to_event(1).log_prob(grid)).abs().max() > 0.1


def test_every_coordinate_is_moved_and_every_parameter_trained():
    prior = pcf.testing.randomize_parameters(latent_flow(5, 2, num_couplings=2, hidden_dims=[8])).double()
    z = torch.randn(20, 5, dtype=torch.float64)
    prior.log_prob(z, torch.randn(20, 2, dtype=torch.float64)).sum().backward()
    assert [name for name, value in prior.named_parameters() if value.grad is None or not value.grad.any()] == []
    (transform,) = prior.condition(torch.randn(2, dtype=torch.float64)).transforms
    assert ((transform(z) - z).abs() > 1e-6).any(0).all()


def test_options_reach_the_flow():
    prior = latent_flow(4, num_couplings=3, hidden_dims=[7], activation="tanh", masks="move_one")
    assert prior.config["activation"] == "tanh"
    assert prior.config["masks"] == "move_one"
    assert prior.config["num_couplings"] == 3
    assert latent_flow(4).config["num_frequencies"] == 0


@pytest.mark.parametrize("latent_dim", [0, 1])
def test_a_latent_too_small(latent_dim):
    with pytest.raises(ValueError, match=r"at least 2|point_dim|2 coordinates"):
        latent_flow(latent_dim)


class ImageVAE(nn.Module):
    """A plain Pyro VAE of 8 x 8 pixels, whatever its prior."""

    def __init__(self, prior):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 64))
        self.prior = prior

    def model(self, images):
        pyro.module("vae", self)
        with pyro.plate("images", len(images)):
            normal = dist.Normal(images.new_zeros(2), 1.0).to_event(1)
            prior = normal if self.prior is None else self.prior.condition()
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(self.decoder(z), 0.1).to_event(1), obs=images)

    def guide(self, images):
        pyro.module("vae", self)
        loc, raw = self.encoder(images).chunk(2, -1)
        with pyro.plate("images", len(images)):
            pyro.sample("z", dist.Normal(loc, F.softplus(raw)).to_event(1))


def blobs(count, seed):
    """Images of a blob that is in one of two corners, a little moved, shape `(count, 64)`."""
    generator = torch.Generator().manual_seed(seed)
    corner = 2.0 * torch.randint(2, (count, 1, 1), generator=generator) - 1
    where = 2.2 * corner + 0.3 * torch.randn(count, 2, 1, generator=generator)
    row, column = (place.unsqueeze(-1) for place in where.unbind(1))
    axis = torch.arange(8) - 3.5
    image = torch.exp(-((axis.unsqueeze(-1) - row).square() + (axis - column).square()) / 4)
    image = image + 0.1 * torch.randn(image.shape, generator=generator)
    return image.reshape(count, 64)


def bound_of(prior, images, held_out):
    torch.manual_seed(0)
    pyro.clear_param_store()
    vae = ImageVAE(prior)
    svi = SVI(vae.model, vae.guide, pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.995}), Trace_ELBO())
    for step in range(600):
        first = 100 * step % len(images)
        svi.step(images[first : first + 100])
    with torch.no_grad():
        losses = [Trace_ELBO().loss(vae.model, vae.guide, held_out) for _ in range(20)]
    return -sum(losses) / len(losses) / len(held_out)


@pytest.mark.slow
def test_it_is_the_better_prior_of_any_vae_whose_latents_have_two_modes():
    """Nothing here knows of points."""
    images, held_out = blobs(2000, seed=1), blobs(1000, seed=2)
    normal = bound_of(None, images, held_out)
    flow = bound_of(latent_flow(2, num_couplings=6, hidden_dims=[32]), images, held_out)
    assert flow > normal + 0.1

"""Latents as noise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_pcflow as pcf
from pyro_pcflow.infer import non_centred
from pyro_pcflow.infer.noise_space import NoiseSpace


@pytest.fixture(scope="module")
def prior():
    flow = pcf.models.latent_flow(4, num_couplings=2, hidden_dims=[8])
    return pcf.testing.randomize_parameters(flow, 0.3).double().requires_grad_(False)


@pytest.fixture
def clouds_model(prior):
    """Three clouds, a latent with a flow prior for each and a positive one."""

    def model():
        with pyro.plate("clouds", 3):
            z = pyro.sample("z", prior.condition())
            width = pyro.sample("width", dist.LogNormal(torch.zeros(()).double(), 0.5))
            pyro.sample("x", dist.Normal(z, width.unsqueeze(-1)).to_event(1), obs=torch.ones(3, 4).double())

    return model


def test_terms_are_those_of_the_model(clouds_model, prior):
    """The prior of the noise is that of the latents by the change of variables, and the likelihood is unchanged."""
    pyro.set_rng_seed(0)
    space = NoiseSpace(clouds_model, torch.Size([3]))
    assert space.batch_shape == (3,)
    assert space.size == 5
    noise = space.from_prior(7)
    assert noise.shape == (7, 3, 5)
    log_prior, log_likelihood = space.log_densities(noise)
    latents = space.latents(noise)
    assert {name: value.shape for name, value in latents.items()} == {
        "z": (7, 3, 4),
        "z_base": (7, 3, 4),
        "width": (7, 3),
    }
    for chain in range(7):
        for cloud in range(3):
            z, width = latents["z"][chain, cloud], latents["width"][chain, cloud]
            torch.testing.assert_close(
                log_likelihood[chain, cloud], dist.Normal(z, width).log_prob(torch.ones(4).double()).sum()
            )
            normal = dist.Normal(torch.zeros(()).double(), 1.0)
            # A log-normal in its logarithm is normal, of deviation 0.5.
            expected = normal.log_prob(latents["z_base"][chain, cloud]).sum() + dist.Normal(
                torch.zeros(()).double(), 0.5
            ).log_prob(width.log())
            torch.testing.assert_close(log_prior[chain, cloud], expected)
    (transform,) = prior.condition().transforms
    torch.testing.assert_close(transform(latents["z_base"]), latents["z"])


def test_the_noise_of_values_and_back(clouds_model):
    space = NoiseSpace(clouds_model, torch.Size([3]))
    noise = space.from_prior(2)
    torch.testing.assert_close(space.join(space.latents(noise)), noise)
    assert space.slice_of("z_base") == slice(0, 4)


def test_a_latent_of_all_clouds_makes_one_problem():
    def model():
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("clouds", 3):
            scale = pyro.sample("scale", dist.Gamma(torch.ones(()).double(), 1.0))
            pyro.sample("x", dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), obs=torch.ones(3, 2).double())

    pyro.set_rng_seed(1)
    space = NoiseSpace(model, torch.Size([3]))
    assert space.batch_shape == ()
    assert space.size == 5
    noise = space.from_prior(4)
    assert noise.shape == (4, 5)
    latents = space.latents(noise)
    assert latents["loc"].shape == (4, 2)
    assert latents["scale"].shape == (4, 3)
    log_prior, log_likelihood = space.log_densities(noise)
    for chain in range(4):
        data = {name: value[chain] for name, value in latents.items()}
        trace = poutine.trace(poutine.condition(model, data=data)).get_trace()
        trace.compute_log_prob()
        torch.testing.assert_close(trace.nodes["x"]["log_prob_sum"], log_likelihood[chain])
        # The positive latent is inferred as its logarithm.
        expected = trace.nodes["loc"]["log_prob_sum"] + trace.nodes["scale"]["log_prob_sum"] + data["scale"].log().sum()
        torch.testing.assert_close(log_prior[chain], expected)


def test_deterministic_sites_are_kept(prior):
    def model():
        z = pyro.sample("z", prior.condition())
        pyro.deterministic("double", 2 * z)
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.zeros(4).double())

    space = NoiseSpace(model, torch.Size())
    latents = space.latents(space.from_prior(5))
    torch.testing.assert_close(latents["double"], 2 * latents["z"])


def test_which_latents_are_non_centred(prior):
    def model():
        pyro.sample("flow", prior.condition())
        pyro.sample("normal", dist.Normal(0.0, 1.0))
        pyro.sample("positive", dist.LogNormal(0.0, 1.0))
        pyro.sample("seen", prior.condition(), obs=torch.zeros(4).double())

    names = poutine.trace(non_centred(model)).get_trace().stochastic_nodes
    assert names == ["flow_base", "normal", "positive"]


def test_models_that_cannot_be_walked_in():
    def nothing():
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    def discrete():
        number = pyro.sample("number", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(number, 1.0), obs=torch.zeros(()))

    with pytest.raises(ValueError, match="no latents"):
        NoiseSpace(nothing, torch.Size())
    with pytest.raises(ValueError, match="'number' is discrete"):
        NoiseSpace(discrete, torch.Size())

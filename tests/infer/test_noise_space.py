"""Latents as noise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_pcflow as pcf
from pyro_pcflow.distributions import PointCloud
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


def test_a_model_that_does_not_broadcast_is_an_error():
    """Under a plate to the left its mean has a dimension too many, and each chain would see the data of all."""
    inputs, outputs = torch.randn(5, 4), torch.randn(5)

    def wrong():
        weights = pyro.sample("weights", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Normal((weights.unsqueeze(-2) @ inputs.mT).squeeze(-2), 1.0), obs=outputs)

    def right():
        weights = pyro.sample("weights", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Normal((weights * inputs).sum(-1), 1.0), obs=outputs)

    with pytest.raises(ValueError, match="another log-density when many chains"):
        NoiseSpace(wrong, torch.Size()).check_that_chains_are_apart()
    NoiseSpace(right, torch.Size()).check_that_chains_are_apart()


def test_the_prior_alone():
    vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
    cloud = torch.randn(3, 10, 3)

    def model():
        pyro.sample("x", PointCloud(vae.point_model(3), num_points=10), obs=cloud)

    space = NoiseSpace(model, torch.Size([3]))
    noise = space.from_prior(5)
    torch.testing.assert_close(space.log_prior(noise), space.log_densities(noise)[0])
    assert space.log_prior(noise).shape == (5, 3)


def test_information_of_points_and_of_other_data():
    """Of a normal with known covariance: `N` times the precision, of any data, by random signs or by simulation."""
    pyro.set_rng_seed(0)
    root = torch.tensor([[0.5, 0.0], [0.3, 0.2]]).double()
    precision = torch.linalg.inv(root @ root.mT)

    def model(as_cloud):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        point = dist.MultivariateNormal(loc, scale_tril=root)
        if as_cloud:
            pyro.sample("x", PointCloud(point, num_points=40), obs=cloud)
        else:
            pyro.sample("x", point.expand_by([]), obs=cloud[0])

    cloud = dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=root).sample((40,))
    for as_cloud, count in ((True, 40), (False, 1)):
        space = NoiseSpace(lambda as_cloud=as_cloud: model(as_cloud), torch.Size())
        # Where the cloud has its mean, squares of scores are those of the empirical covariance.
        place = cloud.mean(0) if as_cloud else torch.zeros(2).double()
        found = space.information(place.expand(100, 2), 100) / count
        centred = cloud - cloud.mean(0)
        expected = precision @ (centred.mT @ centred / 40) @ precision if as_cloud else precision
        # Squares of normals have a relative standard error of sqrt(2 / 10000).
        scale = expected.diagonal().sqrt()
        assert ((found - expected).abs() / scale / scale.unsqueeze(-1) < 5 * (2 / 1e4) ** 0.5).all()


def test_chains_piece_by_piece(prior, monkeypatch):
    """Densities, derivatives and information are those of all chains at once."""

    def model():
        with pyro.plate("clouds", 2):
            z = pyro.sample("z", prior.condition())
            # Of a single point, so that the random sign of its score does not matter.
            cloud = PointCloud(dist.Normal(z, 0.5).to_event(1), num_points=1)
            pyro.sample("x", cloud, obs=torch.ones(2, 1, 4).double())

    def found(noise):
        pyro.set_rng_seed(0)
        space = NoiseSpace(model, torch.Size([2]))
        noise = noise.clone().requires_grad_()
        log_prior, log_likelihood = space.log_densities(noise)
        weight = torch.linspace(1, 2, 10).reshape(5, 2).double()
        (slope,) = torch.autograd.grad((log_prior + weight * log_likelihood).sum(), noise)
        with torch.no_grad():
            plain = space.log_densities(noise)
        return log_prior, log_likelihood, slope, *plain, space.information(noise, 1)

    noise = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    together = found(noise)
    # Eight numbers a chain: two chains at once, and one is left.
    monkeypatch.setattr("pyro_pcflow.infer.noise_space.NUMBERS_AT_ONCE", 16)
    for piecewise, whole in zip(found(noise), together, strict=True):
        torch.testing.assert_close(piecewise, whole)

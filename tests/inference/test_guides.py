"""Pyro's automatic guides on posteriors that are known in closed form, or on a grid; our couplings as a guide."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
)

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()


class Clouds:
    """A batch of clouds with one context each, of which everything is known."""

    def __init__(self, sizes, context_dim, as_plates=False):
        torch.manual_seed(0)
        self.known = make_conjugate(context_dim=context_dim)
        self.as_plates = as_plates
        self.zero = torch.zeros(context_dim, dtype=torch.float64)
        contexts = torch.randn(len(sizes), context_dim, dtype=torch.float64)
        self.mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(-1)
        self.clouds = self.known.flow.cloud(contexts, mask=self.mask).sample()
        self.posterior = self.known.posterior(self.clouds, self.mask)
        pairs = zip(self.clouds, self.mask, strict=True)
        self.log_evidence = float(sum(self.known.log_evidence(cloud, mask) for cloud, mask in pairs))

    def __call__(self):
        prior, (num_clouds, num_points) = dist.Normal(self.zero, 1.0).to_event(1), self.mask.shape
        if self.as_plates:
            with pyro.plate("clouds", num_clouds, dim=-2):
                z = pyro.sample("z", prior)
                with pyro.plate("points", num_points, dim=-1), poutine.mask(mask=self.mask):
                    pyro.sample("x", self.known.flow.condition(z), obs=self.clouds)
        else:
            with pyro.plate("clouds", num_clouds):
                z = pyro.sample("z", prior)
                pyro.sample("x", self.known.flow.cloud(z, mask=self.mask), obs=self.clouds)


def train(model, guide, *, elbo=Trace_ELBO, num_particles=16, num_steps=400, lr=0.1, decay=0.985):
    optimizer = pyro.optim.ClippedAdam({"lr": lr, "lrd": decay})
    elbo = elbo(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=2)
    svi = SVI(model, guide, optimizer, elbo)
    for _ in range(num_steps):
        svi.step()
    return guide


def gap(model, guide, log_evidence):
    """Log-evidence minus ELBO, and four standard errors of it."""
    elbo = Trace_ELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=2)
    with torch.no_grad():
        gaps = torch.tensor([log_evidence + elbo.loss(model, guide) for _ in range(16)])
    return float(gaps.mean()), float(gaps.std())


BATCH = (0, 1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("as_plates", [False, True])
def test_auto_delta_finds_the_mode(as_plates):
    model = Clouds(BATCH, 2, as_plates)
    guide = train(model, AutoDelta(model), num_particles=1)
    got = guide.median()["z"].reshape(3, 2)
    torch.testing.assert_close(got, model.posterior.mean, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("elbo", "as_plates"), [(Trace_ELBO, False), (TraceMeanField_ELBO, True)])
def test_auto_normal_finds_the_best_independent_normal(elbo, as_plates):
    """It has the posterior's mean and the scale of the posterior's conditionals."""
    model = Clouds(BATCH, 2, as_plates)
    guide = train(model, AutoNormal(model), elbo=elbo)
    scale = model.posterior.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    assert ((guide.locs.z.reshape(3, 2) - model.posterior.mean).abs() < 0.1 * scale).all()
    assert ((guide.scales.z.reshape(3, 2) / scale).log().abs() < 0.1).all()


def check_normal(guide, posterior):
    """Mean and covariance of all latent coordinates, within a tenth in units of standard deviations."""
    mean, covariance = posterior.mean.reshape(-1), torch.block_diag(*posterior.covariance_matrix)
    scale = covariance.diagonal().sqrt()
    got = guide.get_posterior()
    assert ((got.mean - mean).abs() < 0.1 * scale).all()
    assert ((got.covariance_matrix - covariance).abs() < 0.1 * scale * scale.unsqueeze(-1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("as_plates", [False, True])
def test_auto_multivariate_normal_finds_the_posterior(as_plates):
    """Six coordinates, uncorrelated between clouds."""
    model = Clouds(BATCH, 2, as_plates)
    guide = train(model, AutoMultivariateNormal(model), num_particles=32)
    check_normal(guide, model.posterior)
    mean, error = gap(model, guide, model.log_evidence)
    assert -error < mean < 0.05


@pytest.mark.slow
def test_auto_low_rank_multivariate_normal_finds_the_posterior():
    """A diagonal and one factor make any covariance of two coordinates."""
    model = Clouds((4,), 2)
    guide = train(model, AutoLowRankMultivariateNormal(model, rank=1), num_particles=32)
    check_normal(guide, model.posterior)
    mean, error = gap(model, guide, model.log_evidence)
    assert -error < mean < 0.05


def couplings(latent_dim, num_couplings=2, hidden=8, **options):
    """What AutoNormalizingFlow asks for; float64 like the model."""
    return pcf.transforms.coupling_stack(
        latent_dim,
        num_couplings=num_couplings,
        hidden_dims=[hidden],
        activation="tanh",
        num_frequencies=0,
        **options,
    ).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "context_dim", "as_plates", "options", "distance"),
    [
        pytest.param((4,), 2, False, {}, 0.03, id="2"),
        # One coupling scales a coordinate by at most e, and the smallest posterior scale is 0.2: two for each.
        pytest.param(
            (0, 1, 4), 1, True, {"num_couplings": 6}, 0.03, id="3_from_three_clouds", marks=pytest.mark.exhaustive
        ),
        pytest.param(
            (4,), 7, False, {"masks": "halves", "lu_linear": True}, 0.15, id="7", marks=pytest.mark.exhaustive
        ),
    ],
)
def test_couplings_as_a_guide_reach_the_evidence(sizes, context_dim, as_plates, options, distance):
    model = Clouds(sizes, context_dim, as_plates)
    guide = AutoNormalizingFlow(model, partial(couplings, **options))
    guide()
    start, _ = gap(model, guide, model.log_evidence)
    train(model, guide, lr=0.05)
    mean, error = gap(model, guide, model.log_evidence)
    assert -error < mean < distance
    assert start > 1
    draws = guide.get_posterior().sample((4000,)).reshape(4000, -1)
    exact = model.posterior
    assert ((draws.mean(0) - exact.mean.reshape(-1)).abs() < 0.25 * exact.stddev.reshape(-1)).all()
    assert ((draws.std(0) / exact.stddev.reshape(-1)).log().abs() < 0.25).all()


@pytest.mark.slow
def test_one_latent_coordinate_needs_another_transform():
    """A coupling has nothing to keep, and says so; a scale and a shift are all that a normal posterior needs."""
    model = Clouds((4,), 1)
    with pytest.raises(ValueError, match="at least 2 coordinates, got point_dim=1"):
        AutoNormalizingFlow(model, couplings)()

    def scale_and_shift(latent_dim):
        norm = pcf.transforms.act_norm(latent_dim).double()
        # Otherwise the first latents that are ever scored would set it.
        norm.initialize(torch.randn(100, latent_dim))
        return norm

    guide = train(model, AutoNormalizingFlow(model, scale_and_shift))
    mean, error = gap(model, guide, model.log_evidence)
    assert -error < mean < 0.01
    exact = model.posterior
    latents = exact.mean + exact.stddev * torch.linspace(-2, 2, 5, dtype=torch.float64).unsqueeze(-1)
    got = guide.get_posterior().log_prob(latents).detach()
    torch.testing.assert_close(got, exact.log_prob(latents), rtol=0, atol=0.2)


def test_scoring_leaves_a_trained_act_norm_alone():
    """A guide is trained by sampling: its inverse is first needed when someone scores latents."""
    model = Clouds((4,), 2)
    guide = train(model, AutoNormalizingFlow(model, partial(couplings, act_norm=True)), num_steps=20)
    before = [parameter.detach().clone() for parameter in guide.transform.parameters()]
    guide.get_posterior().log_prob(torch.randn(10, 2, dtype=torch.float64))
    for parameter, value in zip(guide.transform.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), value)


@pytest.mark.exhaustive
def test_couplings_bend_where_a_normal_cannot():
    """On a banana, whose evidence is summed on a grid: a quarter of a nat from it, where a normal loses half a nat."""
    known = make_conjugate(context_dim=1, strength=0.6)
    cloud = known.flow.cloud(torch.tensor([0.5], dtype=torch.float64), num_points=2).sample()

    def context(z):
        return z[..., 1:] + z[..., :1] ** 2 - 1

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", known.flow.cloud(context(z), num_points=2), obs=cloud)

    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_joint = torch.distributions.Normal(0.0, 1.0).log_prob(grid).sum(-1)
    log_joint = log_joint + known.flow.cloud(context(grid), num_points=2).log_prob(cloud)
    log_evidence = float(log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log())

    normal = train(model, AutoMultivariateNormal(model))
    flow = AutoNormalizingFlow(model, partial(couplings, num_couplings=4, hidden=16))
    train(model, flow, num_particles=32, num_steps=500, lr=0.02, decay=0.995)
    by_normal, error = gap(model, normal, log_evidence)
    by_flow, _ = gap(model, flow, log_evidence)
    assert by_normal - error > 0.5
    assert -error < by_flow < 0.25

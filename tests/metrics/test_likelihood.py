"""Held-out likelihood against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import pyro_pcflow as pcf
from pyro_pcflow.metrics import LogLikelihood, importance_weighted_bound, likelihood, log_likelihood


def test_exact_likelihood_of_a_flow_in_pieces(monkeypatch):
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    clouds = torch.randn(7, 50, 3)
    flow.normalize(clouds)
    monkeypatch.setattr(likelihood, "POINTS_AT_ONCE", 120)
    result = log_likelihood(flow, clouds, units="millimetres")
    expected = flow.cloud(num_points=50).log_prob(clouds).detach()
    torch.testing.assert_close(result.nats_per_cloud.float(), expected)
    assert result.nats_per_point == pytest.approx(expected.mean().item() / 50, rel=1e-5)
    assert result.standard_error == pytest.approx((expected / 50).std().item() / math.sqrt(7), rel=1e-4)
    assert (result.kind, result.units, result.num_points) == ("exact", "millimetres", 50)
    # The unit counts: coordinates ten times as large cost log(10) nats for each of them.
    flow.normalize(10 * clouds)
    assert log_likelihood(flow, 10 * clouds).nats_per_point == pytest.approx(
        result.nats_per_point - 3 * math.log(10), abs=1e-3
    )


def test_contexts_belong_to_clouds(monkeypatch):
    monkeypatch.setattr(likelihood, "POINTS_AT_ONCE", 70)
    flow = pcf.PointCloudFlow(2, context_dim=4, num_couplings=2, hidden_dims=[8])
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    clouds, contexts = torch.randn(5, 30, 2), torch.randn(5, 4)
    expected = flow.cloud(contexts, num_points=30).log_prob(clouds).detach()
    torch.testing.assert_close(log_likelihood(flow, clouds, context=contexts).nats_per_cloud.float(), expected)
    with pytest.raises(ValueError, match=r"context: expected shape \(5, C\)"):
        log_likelihood(flow, clouds, context=contexts[:4])


class LinearGaussian:
    """Clouds whose points share a latent mean: the log-likelihood is known, the bound is by importance weighting."""

    def exact(self, clouds):
        covariance = torch.eye(clouds.shape[1], dtype=clouds.dtype) + 1
        return MultivariateNormal(torch.zeros_like(covariance[0]), covariance).log_prob(clouds.mT).sum(-1)

    def log_prob(self, clouds, num_particles):
        count = clouds.shape[1]
        posterior = Normal(clouds.sum(1) / (count + 1), 1.5 / math.sqrt(count + 1))
        z = posterior.sample((num_particles,))
        joint = Normal(z.unsqueeze(-2), 1.0).log_prob(clouds).sum((-1, -2)) + Normal(0.0, 1.0).log_prob(z).sum(-1)
        return (joint - posterior.log_prob(z).sum(-1)).logsumexp(0) - math.log(num_particles)


def test_bound_rises_to_the_likelihood():
    model, clouds = LinearGaussian(), torch.randn(200, 10, 2, dtype=torch.float64) + 1
    exact = model.exact(clouds)
    few, many = (importance_weighted_bound(model, clouds, num_particles=k) for k in (1, 2000))
    assert few.nats_per_cloud.mean() < exact.mean() - 0.05
    torch.testing.assert_close(many.nats_per_cloud, exact, atol=0.15, rtol=0)
    assert (few.kind, few.units) == ("importance-weighted bound, K = 1", "the data's units")
    assert importance_weighted_bound(model, clouds[:2], num_particles=1, units="metres").units == "metres"
    state = torch.get_rng_state()
    again = importance_weighted_bound(model, clouds, num_particles=1)
    assert torch.equal(again.nats_per_cloud, few.nats_per_cloud)
    assert torch.equal(torch.get_rng_state(), state)


def test_bound_of_a_vae_is_its_own():
    vae = pcf.load_pretrained("body")
    bodies = pcf.data.load_example("body", num_points=100, split="test")[:3]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        expected = vae.log_prob(bodies, num_particles=5).detach()
    bound = importance_weighted_bound(vae, bodies, num_particles=5, seed=4)
    torch.testing.assert_close(bound.nats_per_cloud.float(), expected)


def test_labels_belong_to_clouds(monkeypatch):
    class Shifted:
        def log_prob(self, clouds, num_particles, labels):
            return clouds.sum((1, 2)) * 0 + 10 * labels + num_particles

    monkeypatch.setattr("pyro_pcflow.metrics.likelihood.POINTS_AT_ONCE", 10)
    bound = importance_weighted_bound(Shifted(), torch.randn(3, 5, 2), num_particles=2, labels=torch.tensor([0, 3, 1]))
    assert bound.nats_per_cloud.tolist() == [2, 32, 12]
    with pytest.raises(ValueError, match=r"labels: expected shape \(3,\), one per cloud, got \(2,\)"):
        importance_weighted_bound(Shifted(), torch.randn(3, 5, 2), labels=torch.tensor([0, 3]))


def test_a_nan_is_never_repaired():
    normal = MultivariateNormal(torch.zeros(2), torch.eye(2), validate_args=False)
    clouds = torch.randn(4, 9, 2)
    clouds[1, 3, 0] = torch.nan
    result = log_likelihood(normal, clouds)
    assert result.nats_per_cloud.isnan().tolist() == [False, True, False, False]
    assert math.isnan(result.nats_per_point)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_likelihood(None, torch.zeros(4, 3)), "expected shape"),
        (lambda: log_likelihood(Normal(0.0, 1.0), torch.zeros(2, 4, 3)), "importance_weighted_bound"),
        (lambda: importance_weighted_bound(None, torch.zeros(2, 4, 3), num_particles=0), "num_particles"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_one_cloud_has_no_standard_error():
    assert math.isnan(LogLikelihood(torch.zeros(1), 5, "exact").standard_error)

"""Clouds of random size: a finite point process."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO, config_enumerate

import pyro_pcflow as pcf
from pyro_pcflow.infer import sample_point_process

POINT = dist.Normal(torch.zeros(3), 1.0).to_event(1)
CLOUDS = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(3))
LOG_PROBS = torch.distributions.Normal(0.0, 1.0).log_prob(CLOUDS).sum(-1)
SIZES = torch.tensor([0, 1, 4, 6])
MASK = torch.arange(6) < SIZES.unsqueeze(-1)


def log_joint(size, point=POINT, **options):
    def model():
        with pyro.plate("clouds", 4):
            sample_point_process("x", size, point, obs=CLOUDS, mask=MASK, **options)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    return trace.nodes["x_size"]["log_prob"] + trace.nodes["x"]["log_prob"]


def test_poisson_density_by_hand():
    """A Poisson process of intensity rate * p: exp(-rate) prod rate p(x_i), over n! for ordered points."""
    by_hand = torch.stack(
        [
            -3.0 + n * math.log(3.0) - math.lgamma(n + 1) + log_prob[:n].sum()
            for n, log_prob in zip(SIZES.tolist(), LOG_PROBS, strict=True)
        ]
    )
    torch.testing.assert_close(log_joint(dist.Poisson(3.0)), by_hand)


def test_categorical_density_by_hand():
    probs = torch.tensor([0.1, 0.2, 0.05, 0.15, 0.2, 0.1, 0.2])
    by_hand = probs[SIZES].log() + torch.stack(
        [log_prob[:n].sum() for n, log_prob in zip(SIZES.tolist(), LOG_PROBS, strict=True)]
    )
    torch.testing.assert_close(log_joint(dist.Categorical(probs)), by_hand)


def test_density_is_normalised():
    """Summed over sizes and integrated over places: E under another process of the ratio is 1."""
    other = dist.Normal(torch.zeros(3), 1.3).to_event(1)

    def model(size, point):
        with pyro.plate("clouds", 50_000):
            return sample_point_process("x", size, point, max_points=20)

    clouds, mask = model(dist.Poisson(2.0), other)
    top = dist.Poisson(1.5).log_prob(mask.sum(-1).float()) + pcf.PointCloud(POINT, mask=mask).log_prob(clouds)
    bottom = dist.Poisson(2.0).log_prob(mask.sum(-1).float()) + pcf.PointCloud(other, mask=mask).log_prob(clouds)
    ratio = (top - bottom).exp()
    assert ratio.std() < 3
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / 50_000**0.5


def test_draws_have_the_sizes_of_the_prior():
    samples = Predictive(lambda: sample_point_process("x", dist.Poisson(3.0), POINT, max_points=20), num_samples=5000)()
    assert samples["x"].shape == (5000, 20, 3)
    count = (samples["x"] != 0).all(-1).sum(-1)
    assert torch.equal(count, samples["x_size"].long())
    assert (count.float().mean() - 3).abs() < 4 * (3 / 5000) ** 0.5


def test_size_carries_evidence_about_a_label():
    """Two kinds of clouds that differ in nothing but their size, enumerated."""
    rates = torch.tensor([2.0, 6.0])

    @config_enumerate
    def model():
        with pyro.plate("clouds", 4):
            kind = pyro.sample("kind", dist.Bernoulli(0.3)).long()
            sample_point_process("x", dist.Poisson(rates[kind]), POINT, obs=CLOUDS, mask=MASK)

    def guide():
        pass

    marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(model, guide)
    weights = torch.stack([torch.tensor(0.7), torch.tensor(0.3)]).log() + dist.Poisson(rates).log_prob(
        SIZES.float().unsqueeze(-1)
    )
    torch.testing.assert_close(marginals["kind"].probs, weights.softmax(-1)[:, 1])


def test_an_observed_cloud_without_a_mask_has_all_its_points():
    trace = poutine.trace(lambda: sample_point_process("x", dist.Poisson(3.0), POINT, obs=CLOUDS[0])).get_trace()
    assert trace.nodes["x_size"]["value"] == 6
    torch.testing.assert_close(
        trace.log_prob_sum(), dist.Poisson(3.0).log_prob(torch.tensor(6.0)) + POINT.log_prob(CLOUDS[0]).sum()
    )


def test_wrong_use():
    with pytest.raises(ValueError, match="max_points is missing"):
        sample_point_process("x", dist.Poisson(3.0), POINT)
    with pytest.raises(ValueError, match="more than max_points=2"):
        sample_point_process("x", dist.Delta(torch.tensor(3.0)), POINT, max_points=2)
    with pytest.raises(ValueError, match="belongs to observed clouds"):
        sample_point_process("x", dist.Poisson(3.0), POINT, max_points=6, mask=MASK[0])

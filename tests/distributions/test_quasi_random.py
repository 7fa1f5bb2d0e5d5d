"""Quasi-Monte Carlo samples."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions.quasi_random import quasi_monte_carlo


@pytest.mark.parametrize("base", [dist.Normal, dist.Laplace])
def test_the_same_samples_each_time_and_no_trace_of_them(base):
    """An integral by them is a smooth function of parameters only so."""
    distribution = base(torch.zeros(3), 2.0).to_event(1)
    state = torch.get_rng_state()
    first, log_weights = quasi_monte_carlo(distribution, 64)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(quasi_monte_carlo(distribution, 64)[0], first)
    torch.testing.assert_close(log_weights.logsumexp(0), torch.tensor(0.0))


@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_mixture_is_sampled_component_by_component(context_dim):
    """The mean under a flow on a mixture, and its gradient in the weights, which no sample carries."""
    flow = pcf.PointCloudFlow(3, context_dim, base="mixture", num_components=8, num_couplings=1, hidden_dims=[8])
    flow = pcf.testing.randomize_parameters(flow, 0.03).double()
    density = flow.condition(torch.randn(4, context_dim).double() if context_dim else None)
    samples, log_weights = quasi_monte_carlo(density, 4093)
    assert samples.shape == (4096, *density.batch_shape, 3)
    mean = (log_weights.exp().unsqueeze(-1) * samples).sum(0)
    drawn = density.sample((20_000,))
    assert ((drawn.mean(0) - mean).abs() < 5 * drawn.std(0) / 20_000**0.5).all()
    (gradient,) = torch.autograd.grad(mean.sum(), flow.base.logits)
    sums = []
    for change in (1e-4, -2e-4):
        with torch.no_grad():
            flow.base.logits[0] += change
            samples, log_weights = quasi_monte_carlo(density, 4093)
            sums.append((log_weights.exp().unsqueeze(-1) * samples).sum())
    torch.testing.assert_close((sums[0] - sums[1]) / 2e-4, gradient[0, 0], rtol=1e-5, atol=1e-8)


def test_samples_without_gradients_are_refused():
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2, 3), 1.0).to_event(1))
    with pytest.raises(TypeError, match="samples carry gradients, got MixtureSameFamily"):
        quasi_monte_carlo(mixture, 64)

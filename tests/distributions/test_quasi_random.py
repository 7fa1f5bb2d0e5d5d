"""Quasi-Monte Carlo samples."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_pcflow.distributions.quasi_random import quasi_monte_carlo


@pytest.mark.parametrize("base", [dist.Normal, dist.Laplace])
def test_the_same_samples_each_time_and_no_trace_of_them(base):
    """An integral by them is a smooth function of parameters only so."""
    distribution = base(torch.zeros(3), 2.0).to_event(1)
    state = torch.get_rng_state()
    first = quasi_monte_carlo(distribution, 64)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(quasi_monte_carlo(distribution, 64), first)

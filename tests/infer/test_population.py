"""Particles on the way from a proposal to a target, between normals, where every step is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_pcflow.infer.population import annealed, resampled

COUNT = 1000


def one_dimensional(proposal, target):
    """A path between two densities over the real line, the same for each problem."""

    def path(noise):
        log_proposal = proposal.log_prob(noise.squeeze(-1))
        return log_proposal, target(noise.squeeze(-1)) - log_proposal

    return path


def between(proposal, target, temperature):
    """The normal whose density is the geometric mean of two, by completing the square."""
    precision = (1 - temperature) / proposal.variance + temperature / target.variance
    total = (1 - temperature) * proposal.mean / proposal.variance + temperature * target.mean / target.variance
    return Normal(total / precision, precision.rsqrt())


@pytest.mark.parametrize("width", [0.02, 0.8])
def test_candidates_are_as_far_as_they_reach(width):
    """Few of them lie where a narrow target is, and all where a wide one is."""
    torch.manual_seed(0)
    proposal = Normal(torch.zeros(2).double(), 1.0)
    target = Normal(torch.tensor([0.2, -0.1]).double(), torch.tensor(width).double())
    candidates = proposal.sample((32 * COUNT,)).unsqueeze(-1)
    found = resampled(candidates, one_dimensional(proposal, target.log_prob), COUNT, distinct=False)
    if width > 0.5:
        assert (found.temperature > 1 - 1e-6).all()
    else:
        assert ((found.temperature > 0.01) & (found.temperature < 1)).all()
    expected = between(proposal, target, found.temperature)
    # Of systematic draws of candidates of which more than so many count.
    assert ((found.noise.squeeze(-1).mean(0) - expected.mean) / expected.stddev * COUNT**0.5).abs().max() < 4
    assert ((found.noise.squeeze(-1).std(0) / expected.stddev).log().abs() < 0.15).all()


def test_distinct_candidates_of_any_weights():
    torch.manual_seed(0)
    proposal = Normal(torch.zeros(2).double(), 1.0)
    path = one_dimensional(proposal, Normal(0.0, 1e-3).log_prob)
    found = resampled(proposal.sample((2 * COUNT,)).unsqueeze(-1), path, COUNT, distinct=True)
    assert all(len(noise.unique()) == COUNT for noise in found.noise.squeeze(-1).T)
    # Nearer to the target than the proposal's, of which they are half.
    assert (found.noise.abs().mean((0, 2)) < 0.7 * (2 / math.pi) ** 0.5).all()


def test_a_narrow_target_is_reached_on_the_path():
    """A thousandth as wide as the proposal, and two widths of it aside."""
    torch.manual_seed(0)
    proposal = Normal(torch.zeros(2).double(), 1.0)
    target = Normal(torch.tensor([2.0, 0.3]).double(), torch.tensor([1e-3, 0.1]).double())
    path = one_dimensional(proposal, target.log_prob)

    stops = []

    def find_root(noise, temperature):
        stops.append((noise.squeeze(-1), between(proposal, target, temperature)))
        return stops[-1][1].stddev[:, None, None]

    start = resampled(proposal.sample((32 * COUNT,)).unsqueeze(-1), path, COUNT, distinct=False)
    found = annealed(path, start, find_root, num_leapfrogs=4)
    assert (found.temperature == 1).all()
    assert ((found.step_size > 0.2) & (found.step_size < 5)).all()
    assert len(stops) > 4
    for draws, expected in [*stops, (found.noise.squeeze(-1), target)]:
        # As of a fifth as many independent draws.
        assert ((draws.mean(0) - expected.mean) / expected.stddev * (COUNT / 5) ** 0.5).abs().max() < 4
        assert ((draws.std(0) / expected.stddev).log().abs() < 0.2).all()


def test_modes_get_particles_by_their_mass():
    """Modes between which no trajectory goes, of which the lighter one is the wider one."""
    torch.manual_seed(0)
    proposal = Normal(torch.zeros(1).double(), 3.0)
    modes = Normal(torch.tensor([-3.0, 3.0]).double(), torch.tensor([0.05, 0.2]).double())
    masses = torch.tensor([0.8, 0.2]).double()

    def target(x):
        return (modes.log_prob(x.unsqueeze(-1)) + masses.log()).logsumexp(-1)

    path = one_dimensional(proposal, target)

    def find_root(noise, temperature):
        return torch.full((1, 1, 1), 0.1).double()

    start = resampled(proposal.sample((2 * COUNT,)).unsqueeze(-1), path, COUNT, distinct=False)
    assert start.temperature < 0.5
    found = annealed(path, start, find_root, num_leapfrogs=3)
    share = (found.noise < 0).double().mean().item()
    # As of a fifth as many independent draws.
    assert abs(share - 0.8) < 4 * math.sqrt(0.8 * 0.2 / (COUNT / 5))


@pytest.mark.parametrize("outside", [math.nan, -math.inf])
def test_particles_that_left_the_numbers_have_no_weight(outside):
    torch.manual_seed(0)
    proposal = Normal(torch.zeros(1).double(), 1.0)

    def target(x):
        return torch.where(x > 0, -x, outside)

    path = one_dimensional(proposal, target)
    start = resampled(proposal.sample((4 * COUNT,)).unsqueeze(-1), path, COUNT, distinct=False)
    root = torch.ones(1, 1, 1).double()
    found = annealed(path, start, lambda noise, temperature: root, num_leapfrogs=3)
    assert (start.noise > 0).all()
    assert (found.noise > 0).all()
    assert abs(found.noise.mean() - 1) < 0.15

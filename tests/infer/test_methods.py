"""Pieces of the methods of completion; what they find is tested with `complete`."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_pcflow.distributions import PointCloud
from pyro_pcflow.infer import methods
from pyro_pcflow.infer.methods import _root, _thinned, by_hmc
from pyro_pcflow.infer.noise_space import NoiseSpace


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_the_root_of_the_inverse_of_the_precision(scale):
    """However unlike the directions are."""
    torch.manual_seed(0)
    factor = torch.randn(2, 4, 2).double()
    information = scale * factor @ factor.mT
    deviation, exponent = torch.tensor([1.0, 2.0, 0.5, 1.0]).double().expand(2, 4), torch.tensor([1.0, 0.1]).double()
    gain = exponent[:, None, None] * deviation[..., None] * information * deviation[..., None, :]
    root = _root(deviation, gain)
    precision = deviation.square().reciprocal().diag_embed() + exponent[:, None, None] * information
    identity = root.mT @ precision @ root
    torch.testing.assert_close(identity, torch.eye(4).double().expand(2, 4, 4), rtol=1e-5, atol=1e-5)
    assert _root(deviation.float(), gain.float()).isfinite().all()


def test_draws_at_even_distances():
    noise = torch.arange(8 * 4.0).reshape(8, 4, 1)
    assert _thinned(noise, 4).flatten().tolist() == [28.0, 29.0, 30.0, 31.0]
    # Chains that lie side by side may have come from one particle: fewer draws than chains are of all parts of them.
    assert _thinned(noise, 2).flatten().tolist() == [28.0, 30.0]
    assert _thinned(noise, 6).flatten().tolist() == [28.0, 29.0, 30.0, 12.0, 13.0, 14.0]
    assert len(_thinned(noise, 32).unique()) == 32


def test_a_narrow_posterior_is_walked_in_the_metric_of_its_points():
    """Six hundred times as narrow along one axis as along the other: steps would be as short without a metric."""
    pyro.set_rng_seed(0)
    width = torch.tensor([0.05, 30.0]).double()

    def model():
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("x", PointCloud(dist.Normal(loc, width).to_event(1), num_points=len(cloud)), obs=cloud)

    # With so many points the first coordinate is known to 0.0016, and the second to 0.7.
    cloud = dist.Normal(torch.tensor([0.3, -0.2]).double(), width).to_event(1).sample((1000,))
    space, mask = NoiseSpace(model, torch.Size()), torch.ones(1000, dtype=torch.bool)
    draws, diagnostics, chains = by_hmc(space, cloud, mask, None, None, None, 200, 32, 40, 60)
    assert diagnostics["step_size"] > 0.1
    assert (diagnostics["r_hat"] < 1.2).all()
    precision = 1 + 1000 / width.square()
    mean = 1000 / width.square() * cloud.mean(0) / precision
    assert ((draws.mean(0) - mean).abs() * precision.sqrt() < 0.4).all()
    assert ((draws.std(0) * precision.sqrt()).log().abs() < 0.3).all()
    assert chains.samples["loc"].shape == (32, 40, 2)


def test_modes_are_weighed_whatever_was_proposed(monkeypatch):
    """Points tell a distance from the origin, and nothing of the side, of which a proposal thinks that it knows."""
    pyro.set_rng_seed(0)
    wide = torch.tensor(0.1).double()

    def model():
        place = pyro.sample("place", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
        pyro.sample("x", PointCloud(dist.Normal(place.abs(), wide).to_event(1), num_points=len(cloud)), obs=cloud)

    cloud = dist.Normal(torch.ones(1).double(), wide).to_event(1).sample((9,))
    sides, masses = torch.tensor([1.0, -1.0]).double(), torch.tensor([0.9, 0.1]).double()

    def log_ratio(noise):
        proposed = (dist.Normal(sides, wide).log_prob(noise) + masses.log()).logsumexp(-1)
        return dist.Normal(0.0, 1.0).log_prob(noise.squeeze(-1)) - proposed

    def propose(space, proposal, partial, mask, labels, count):
        place = sides[torch.multinomial(masses, count, replacement=True)] + wide * torch.randn(count).double()
        return place.unsqueeze(-1), log_ratio

    monkeypatch.setattr(methods, "by_proposal", propose)
    # So few that their weights alone do not reach the posterior.
    monkeypatch.setattr(methods, "num_candidates", lambda num_chains: 2 * num_chains)
    monkeypatch.setattr(methods, "_exponent", lambda temper, proposal, mask: torch.tensor(1.0).double())
    space, mask = NoiseSpace(model, torch.Size()), torch.ones(9, dtype=torch.bool)
    draws, _, _ = by_hmc(space, cloud, mask, None, object(), 1.0, 1000, 1000, 4, 2)
    # As of a fifth as many independent draws.
    assert abs((draws > 0).double().mean() - 0.5) < 4 * (0.25 / 200) ** 0.5
    assert abs(draws.abs().mean() - cloud.mean()) < 0.02


def test_few_steps_are_enough_from_the_prior():
    """Two deviations of the prior away along each of six axes, and a seventieth as wide."""
    pyro.set_rng_seed(0)
    wide = torch.tensor(0.1).double()

    def model():
        place = pyro.sample("place", dist.Normal(torch.zeros(6).double(), 1.0).to_event(1))
        pyro.sample("x", PointCloud(dist.Normal(place, wide).to_event(1), num_points=len(cloud)), obs=cloud)

    cloud = dist.Normal(torch.full((6,), 2.0).double(), wide).to_event(1).sample((50,))
    space, mask = NoiseSpace(model, torch.Size()), torch.ones(50, dtype=torch.bool)
    draws, _, _ = by_hmc(space, cloud, mask, None, None, None, 256, 64, 4, 4)
    precision = 1 + 50 / wide.square()
    error = (draws - 50 / wide.square() * cloud.mean(0) / precision) * precision.sqrt()
    # Of 64 chains, four standard errors.
    assert (error.mean(0).abs() < 4 / 8).all()
    assert (error.std(0).log().abs() < 0.4).all()

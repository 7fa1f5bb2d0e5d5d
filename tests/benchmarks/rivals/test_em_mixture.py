"""A mixture by expectation maximisation: its density, and where it ends."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from benchmarks.rivals.em_mixture import EMMixture

pytest.importorskip("sklearn")

TRUE = MixtureSameFamily(
    Categorical(torch.tensor([0.3, 0.7])),
    MultivariateNormal(
        torch.tensor([[0.0, 0.0], [5.0, 1.0]]), torch.diag_embed(torch.tensor([[1.0, 0.1], [0.5, 1.0]]))
    ),
)


def test_it_converges_to_the_mixture_that_points_came_from():
    torch.manual_seed(0)
    points = TRUE.sample((4000,))
    mixture = EMMixture(points, components=2, noise=1e-3, seconds=60.0)
    assert mixture.converged
    assert mixture.stored == 2 * (1 + 2 + 3)
    assert (mixture.log_prob(points) - TRUE.log_prob(points)).abs().mean() < 0.05


def test_noise_adds_its_square_to_each_variance():
    torch.manual_seed(0)
    points = TRUE.component_distribution.sample((4000,))[:, 0]
    mixture = EMMixture(points, components=1, noise=2.0, seconds=60.0)
    expected = MultivariateNormal(points.mean(0), points.mT.cov() + 4 * torch.eye(2))
    torch.testing.assert_close(mixture.log_prob(points).float(), expected.log_prob(points), rtol=0, atol=0.01)


def test_it_ends_when_its_time_is_over():
    torch.manual_seed(0)
    mixture = EMMixture(torch.rand(1000, 3), components=20, noise=1e-3, seconds=0.0)
    assert not mixture.converged
    assert mixture.iterations == 1

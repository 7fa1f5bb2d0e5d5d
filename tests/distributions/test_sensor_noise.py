"""Gaussian sensor noise, exact and by quadrature."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from helpers.gaussian_sheet import thin_sheet
from pyro_pcflow.distributions import NoisyPoint, one_sided, with_noise
from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture, as_gaussians
from pyro_pcflow.distributions.sensor_noise import gauss_hermite
from pyro_pcflow.transforms import similarity


def make_flow(**options):
    flow = pcf.PointCloudFlow(3, num_couplings=3, hidden_dims=[8], activation="tanh", **options)
    return pcf.testing.randomize_parameters(flow, 0.2).double()


# The documented errors; the bounds are theirs with a small allowance.
@pytest.mark.parametrize(("ratio", "nodes", "bound"), [(1, 3, 0.04), (1, 5, 0.003), (4, 3, 0.55), (4, 5, 0.2)])
def test_convolution_of_a_sheet(ratio, nodes, bound):
    loc, covariance = thin_sheet()
    scale = 0.03 * ratio
    sheet = dist.MultivariateNormal(loc, covariance)
    exact = dist.MultivariateNormal(loc, covariance + scale**2 * torch.eye(3).double())
    points = exact.sample((2000,))
    error = NoisyPoint(sheet, scale, nodes).log_prob(points) - exact.log_prob(points)
    assert error.std() < bound
    assert error.mean().abs() < bound / 3


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_quadrature_has_the_moments_of_a_normal(nodes, dim):
    places, log_weights = gauss_hermite(nodes, dim)
    weights = log_weights.exp()
    torch.testing.assert_close(weights.sum(), torch.ones(()).double())
    for order in range(2 * nodes):
        moment = 0 if order % 2 else math.prod(range(1, order, 2))
        for axis in range(dim):
            got = (weights * places[:, axis] ** order).sum().item()
            assert got == pytest.approx(moment, abs=1e-10)


def test_no_noise_is_no_change():
    flow = make_flow().condition()
    points = torch.randn(5, 3).double()
    torch.testing.assert_close(NoisyPoint(flow, 0.0).log_prob(points), flow.log_prob(points))


def test_density_of_a_flow_against_brute_force():
    """A plain Monte Carlo convolution of a flow with nontrivial couplings."""
    flow = make_flow(num_frequencies=0).condition()
    points = flow.sample((10,))
    got = NoisyPoint(flow, 0.1, nodes=5).log_prob(points)
    shifted = points + 0.1 * torch.randn(50_000, 1, 3).double()
    density = flow.log_prob(shifted).exp()
    error = density.std(0) / 50_000**0.5
    assert ((got.exp() - density.mean(0)).abs() < 4 * error + 1e-3 * density.mean(0)).all()


def test_noise_per_cloud_draws_and_gradients():
    point = dist.Normal(torch.zeros(4, 3).double(), 0.3).to_event(1)
    scale = torch.tensor([0.1, 0.2, 0.3, 0.4]).double().requires_grad_()
    noisy = NoisyPoint(point, scale)
    assert noisy.batch_shape == (4,)
    draws = noisy.sample((50_000,))
    expected = (0.09 + scale.detach().square()).sqrt()
    assert ((draws.std((0, 2)) - expected).abs() < 4 * expected / 300_000**0.5).all()
    wide = noisy.expand((2, 4))
    assert wide.rsample((5,)).shape == (5, 2, 4, 3)
    assert wide.log_prob(draws[0]).shape == (2, 4)
    clouds = pcf.PointCloud(noisy, num_points=7)
    value = clouds.sample()
    by_hand = torch.stack([NoisyPoint(point, scale[i]).log_prob(value[i].unsqueeze(-2))[:, i].sum() for i in range(4)])
    torch.testing.assert_close(clouds.log_prob(value), by_hand)
    points = draws[:3].clone()
    assert torch.autograd.gradcheck(lambda s: NoisyPoint(point, s).log_prob(points), (scale,))


def test_wrong_noise():
    point = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    with pytest.raises(ValueError, match="not negative"):
        NoisyPoint(point, -0.1)
    with pytest.raises(ValueError, match="at least one quadrature node"):
        NoisyPoint(point, 0.1, nodes=0)
    with pytest.raises(ValueError, match=r"event shape \(D,\)"):
        NoisyPoint(dist.Normal(0.0, 1.0), 0.1)
    with pytest.raises(TypeError, match="got Tensor"):
        NoisyPoint(torch.zeros(3), 0.1)


def gaussian_flow():
    flow = pcf.PointCloudFlow(3, 2, base="mixture", num_components=5, num_couplings=0)
    return pcf.testing.randomize_parameters(flow, 0.3).double().requires_grad_(False)


@pytest.mark.parametrize("batch_shape", [(), (4,)])
def test_noise_of_gaussians_is_exact(batch_shape):
    """Of a posed mixture and a width per cloud, against torch's own mixture of the convolved Gaussians."""
    torch.manual_seed(0)
    pose = similarity(torch.randn(4).double(), torch.randn(3).double(), 0.6)
    point = dist.TransformedDistribution(gaussian_flow().condition(torch.randn(*batch_shape, 2).double()), [pose])
    width = 0.1 + torch.rand(batch_shape).double()
    noisy = with_noise(point, width)
    assert isinstance(noisy, GaussianMixture)
    assert noisy.batch_shape == batch_shape
    log_weights, loc, root = as_gaussians(point)
    covariance = root @ root.mT + width.square()[..., None, None, None] * torch.eye(3).double()
    expected = dist.MixtureSameFamily(
        torch.distributions.Categorical(logits=log_weights), dist.MultivariateNormal(loc, covariance)
    )
    points = noisy.sample((50,))
    torch.testing.assert_close(noisy.log_prob(points), expected.log_prob(points))


def test_noise_of_a_normal_and_of_anything_else():
    normal = dist.Normal(torch.zeros(2, 3).double(), 0.3).to_event(1)
    points = torch.randn(7, 2, 3).double()
    expected = dist.Normal(torch.zeros(2, 3).double(), 0.5).to_event(1).log_prob(points)
    torch.testing.assert_close(with_noise(normal, 0.4).log_prob(points), expected)
    assert isinstance(with_noise(make_flow().condition(), 0.4, nodes=2), NoisyPoint)
    assert with_noise(make_flow().condition(), 0.4, nodes=2).nodes == 2
    with pytest.raises(ValueError, match="not negative"):
        with_noise(normal, -0.1)


def test_noise_of_gaussians_follows_their_parameters():
    """They are evaluated when points are scored, and carry the gradients of the width."""
    flow = gaussian_flow()
    context = torch.zeros(2).double()
    width = torch.tensor(0.2).double().requires_grad_()
    noisy = with_noise(flow.condition(context), width)
    points = torch.randn(5, 3).double()
    before = noisy.log_prob(points)
    assert torch.autograd.gradcheck(lambda w: with_noise(flow.condition(context), w).log_prob(points), (width,))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.5)
    assert (noisy.log_prob(points) - before).abs().min() > 1e-3


def test_what_one_side_of_noisy_gaussians_is_normalised_by():
    """No sample of quasi-Monte Carlo: one would be far off."""
    up = torch.tensor([0.0, 0.0, 1.0]).double()
    noisy = with_noise(dist.Normal(torch.full((3,), 0.2).double(), 0.3).to_event(1), 0.4)
    seen = one_sided(noisy, up, offset=0.5, softness=1.2, num_samples=1)
    expected = torch.special.ndtr(torch.tensor(-0.3 / 1.3).double()).log()
    torch.testing.assert_close(seen.log_normalizer(), expected)

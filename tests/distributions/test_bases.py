"""The noise that a flow carries to data."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions.bases import ConditionalNormal, MixtureOfGaussians, StandardNormal

CONTEXTS = torch.linspace(-2, 2, 20).reshape(5, 4).double()


def make_conditional(scale=1.0):
    return pcf.testing.randomize_parameters(ConditionalNormal(3, 4), scale).double()


def test_standard_normal_follows_its_module(dtype):
    noise = StandardNormal(3).to(dtype)
    points = torch.randn(7, 3, dtype=dtype)
    expected = dist.Normal(torch.zeros(3, dtype=dtype), 1.0).to_event(1).log_prob(points)
    torch.testing.assert_close(noise.distribution(None).log_prob(points), expected)
    assert noise.distribution(None).sample((4,)).dtype == dtype
    assert not noise.state_dict()


def test_a_new_conditional_base_is_standard_normal():
    points = torch.randn(5, 3).double()
    torch.testing.assert_close(
        ConditionalNormal(3, 4).double().distribution(CONTEXTS).log_prob(points),
        StandardNormal(3).double().distribution(None).log_prob(points),
    )


def test_mean_and_scale_come_from_the_context():
    base, points = make_conditional(), torch.randn(7, 5, 3).double()
    loc, log_scale = base.network(CONTEXTS).chunk(2, -1)
    expected = dist.Normal(loc, log_scale.tanh().exp()).to_event(1)
    density = base.distribution(CONTEXTS)
    assert (density.batch_shape, density.event_shape) == ((5,), (3,))
    torch.testing.assert_close(density.log_prob(points), expected.log_prob(points))
    draws = density.sample((40_000,))
    assert ((draws.mean(0) - loc).abs() < 5 * expected.stddev / 200).all()
    assert ((draws.std(0) / expected.stddev - 1).abs() < 5 / (2 * 40_000) ** 0.5).all()


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_the_scale_is_bounded(factor):
    density = make_conditional(factor).distribution(CONTEXTS)
    scale = (density.transforms[0](torch.ones(3).double()) - density.transforms[0](torch.zeros(3).double())).detach()
    assert scale.min() >= math.exp(-1) - 1e-9
    assert scale.max() <= math.e + 1e-9
    assert (scale - 1).abs().max() > 0.5


def make_mixture(context_dim=0, num_components=5, scale=0.2, **options):
    torch.manual_seed(0)
    base = MixtureOfGaussians(3, context_dim, num_components=num_components, hidden_dims=[8], **options)
    return pcf.testing.randomize_parameters(base, scale).double()


def on_a_sphere(count):
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(1)).double()
    return points / points.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("context_dim", [0, 4])
def test_the_parameters_of_a_mixture_are_regressions(context_dim):
    """Each coordinate is normal given the ones before it, with the width and the slopes of the parameters."""
    base = make_mixture(context_dim)
    context = CONTEXTS if context_dim else None
    logits, loc, factor = base.gaussians(context)
    covariance = torch.linalg.inv(factor.mT @ factor)
    slope = covariance[..., 1, 0] / covariance[..., 0, 0]
    width = (covariance[..., 1, 1] - slope * covariance[..., 1, 0]).sqrt()
    torch.testing.assert_close(1 / factor[..., 1, 1], width)
    torch.testing.assert_close(-factor[..., 1, 0] * width, slope)
    density = base.distribution(context)
    assert (density.batch_shape, density.event_shape) == (logits.shape[:-1], (3,))
    expected = dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.MultivariateNormal(loc, covariance))
    points = torch.randn(7, *density.batch_shape, 3).double()
    torch.testing.assert_close(density.log_prob(points), expected.log_prob(points))


@pytest.mark.parametrize("size", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_widths_are_bounded_and_smooth(size):
    base = make_mixture(min_width=0.01, num_components=1)
    with torch.no_grad():
        base.raw_width.fill_(size)
    factor = base.gaussians(None).inverse_scale_tril
    width = 1 / factor.diagonal(dim1=-2, dim2=-1)
    assert ((width >= 0.01) & (width <= 100.02)).all()
    base.distribution(None).log_prob(torch.randn(9, 3).double()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in base.parameters())


@pytest.mark.parametrize("size", [-1e4, -30.0, 0.1, 30.0, 1e4])
@pytest.mark.parametrize("which", ["raw_width", "slopes"])
def test_the_widths_that_slopes_make_are_bounded(size, which):
    """That of no coordinate exceeds `sqrt(2) * max_width`, and the floor of the others stays."""
    base = make_mixture(min_width=0.01, max_width=3.0)
    with torch.no_grad():
        getattr(base, which).mul_(size)
    factor = base.gaussians(None).inverse_scale_tril
    widths = torch.linalg.inv(factor).square().sum(-1).sqrt()
    assert (widths <= math.sqrt(2) * 3.0 * (1 + 1e-9)).all()
    assert (1 / factor.diagonal(dim1=-2, dim2=-1) >= 0.01 * (1 - 1e-9)).all()
    base.distribution(None).log_prob(torch.randn(9, 3).double()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in base.parameters())


def test_what_is_far_below_the_bound_is_as_without_it():
    free, bounded = make_mixture(), make_mixture(max_width=1e4)
    for one, other in zip(free.gaussians(None), bounded.gaussians(None), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_context_that_training_never_saw_writes_no_cloud_of_any_size():
    """A network goes on as a straight line; the centres alone follow it."""
    flow = pcf.PointCloudFlow(3, 4, base="mixture", num_components=16, num_couplings=0)
    pcf.testing.randomize_parameters(flow, 0.3)
    offsets = []
    for max_width in (flow.base.max_width, math.inf):
        flow.base.max_width = max_width
        _, points, labels = flow.base.distribution(30 * CONTEXTS.float()).sample_with_noise((500,))
        loc = flow.base.gaussians(30 * CONTEXTS.float()).loc
        centres = (
            loc.expand(500, *loc.shape).gather(-2, labels[..., None, None].expand(*labels.shape, 1, 3)).squeeze(-2)
        )
        offsets.append((points - centres).abs().max())
    assert offsets[0] < 6 * math.sqrt(2) * 3 < offsets[1] / 10


def test_a_density_that_falls_onto_a_point_is_bounded():
    """Points at one place, or in a plane, have no density; the floor of the widths keeps that of the model finite."""
    base = make_mixture(min_width=0.1)
    with torch.no_grad():
        base.raw_width.fill_(-100.0)
        base.loc.fill_(0.0)
    peak = base.distribution(None).log_prob(torch.zeros(3).double()).detach()
    assert peak == pytest.approx(-1.5 * math.log(2 * math.pi) - 3 * math.log(0.1))


def test_a_network_writes_a_mixture_once_per_cloud():
    base, rows = make_mixture(4), []
    base.network.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape))
    density = base.distribution(CONTEXTS.unsqueeze(1))
    assert not rows
    density.expand((5, 100)).log_prob(torch.randn(5, 100, 3).double())
    assert rows == [(5, 1, 4)]


def test_a_start_is_that_of_the_clusters():
    """Far blobs become Gaussians of their shares, means and covariances."""
    torch.manual_seed(0)
    shares, centres = [0.2, 0.3, 0.5], torch.tensor([[-3.0, 0, 0], [0, 3, 0], [3, 0, 3]]).double()
    mixing = torch.tensor([[0.3, 0, 0], [0.2, 0.1, 0], [-0.2, 0.1, 0.2]]).double()
    points = torch.cat(
        [
            centre + torch.randn(int(3000 * share), 3).double() @ mixing.T
            for share, centre in zip(shares, centres, strict=True)
        ]
    )
    base = MixtureOfGaussians(3, num_components=3).double()
    state = torch.get_rng_state()
    base.start(points)
    assert torch.equal(torch.get_rng_state(), state)
    logits, loc, factor = base.gaussians(None)
    order = logits.argsort()
    torch.testing.assert_close(logits.softmax(-1)[order], torch.tensor(shares).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(loc[order], centres, rtol=0, atol=0.03)
    covariance = mixing @ mixing.T
    expected = covariance + 0.3 * covariance.trace() / 3 * torch.eye(3)
    assert ((torch.linalg.inv(factor.mT @ factor) - expected).abs() < 0.1 * covariance.trace()).all()
    again = MixtureOfGaussians(3, num_components=3).double()
    again.start(points)
    assert torch.equal(again.loc, base.loc)


def test_a_start_from_clusters_is_better_than_one_by_chance():
    points = on_a_sphere(3000)
    base = MixtureOfGaussians(3, num_components=50).double()
    by_chance = base.distribution(None).log_prob(points).mean()
    base.start(points)
    assert base.distribution(None).log_prob(points).mean() > by_chance + 1


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_start_from_few_points(count):
    """Fewer points than Gaussians, or the same one several times."""
    points = on_a_sphere(count).repeat(2, 1)
    base = MixtureOfGaussians(3, num_components=50).double()
    base.start(points)
    log_prob = base.distribution(None).log_prob(points)
    assert log_prob.isfinite().all()
    assert len(base.loc.unique(dim=0)) == 50


@pytest.mark.parametrize(("count", "used"), [(9, 1), (60, 5), (1000, 8)])
def test_few_points_use_few_components(count, used):
    """The others have no weight, no samples, and no gradient that an optimizer would notice."""
    torch.manual_seed(0)
    base = MixtureOfGaussians(3, num_components=8, points_per_component=10)
    points = torch.randn(count, 3)
    base.start(points)
    mixture = base.distribution(None)
    weights = base.gaussians(None).logits.softmax(-1)
    assert int((weights > 0).sum()) == used
    mixture.log_prob(points).sum().backward()
    for parameter in base.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad[used:].abs().sum() < 1e-20
    assert int(mixture.sample_with_labels((500,))[1].max()) < used
    small = MixtureOfGaussians(3, num_components=used)
    small.start(points)
    torch.testing.assert_close(mixture.log_prob(points), small.distribution(None).log_prob(points))

"""A sensor that records some of the points."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from helpers.gaussian_sheet import thin_sheet
from pyro_pcflow.distributions import PointMixture, SoftHalfSpace, ThinnedPoint, one_sided, with_background


def make_flow(**options):
    flow = pcf.PointCloudFlow(3, num_couplings=3, hidden_dims=[8], activation="tanh", **options)
    return pcf.testing.randomize_parameters(flow, 0.2).double()


DIRECTION = torch.tensor([2.0, -1.0, 2.0]).double() / 3


def unknown_mean(sensor):
    """The same sensor without its mean under a normal distribution."""
    return lambda points: sensor(points)


@pytest.mark.parametrize(("wrap", "atol"), [(lambda sensor: sensor, 1e-9), (unknown_mean, 1e-3)])
def test_normalizer_and_density_of_a_normal(wrap, atol):
    """`E Phi((d x - o) / s)` under `N(mu, S)` is `Phi((d mu - o) / sqrt(s^2 + d S d))`."""
    loc, covariance = torch.randn(3).double(), thin_sheet(0.3)[1]
    half = torch.linalg.cholesky(covariance)
    rotation, spread, _ = torch.linalg.svd(half)
    pose = pcf.transforms.Similarity(rotation, loc)
    point = dist.TransformedDistribution(dist.Normal(torch.zeros(3).double(), spread).to_event(1), [pose])
    seen = ThinnedPoint(point, wrap(SoftHalfSpace(DIRECTION, offset=0.4, softness=0.2)))
    spread_along = (0.2**2 + DIRECTION @ covariance @ DIRECTION).sqrt()
    kept = torch.special.ndtr((DIRECTION @ loc - 0.4) / spread_along)
    torch.testing.assert_close(seen.log_normalizer(), kept.log(), rtol=0, atol=atol)
    points = torch.randn(9, 3).double()
    height = (points @ DIRECTION - 0.4) / 0.2
    exact = dist.MultivariateNormal(loc, covariance).log_prob(points) + torch.special.log_ndtr(height) - kept.log()
    torch.testing.assert_close(seen.log_prob(points), exact, rtol=0, atol=atol)
    hidden = (
        dist.MultivariateNormal(loc, covariance).log_prob(points) + torch.special.log_ndtr(-height) - (-kept).log1p()
    )
    torch.testing.assert_close(seen.complement().log_prob(points), hidden, rtol=0, atol=atol)


@pytest.mark.parametrize("posed", [False, True])
def test_the_normalizer_of_a_mixture_of_gaussians_is_exact(posed):
    """Under units and a pose, for a batch of contexts, sensors and both sides, against quasi-Monte Carlo."""
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, 2, base="mixture", num_components=8, num_couplings=0)
    pcf.testing.randomize_parameters(flow, 0.3).double().normalize(3 + torch.randn(100, 3).double())
    point = flow.condition(torch.randn(4, 2).double())
    if posed:
        pose = pcf.transforms.similarity(torch.randn(4, 4).double(), torch.randn(3).double(), 0.7)
        point = dist.TransformedDistribution(point, [pose])
    directions = torch.nn.functional.normalize(torch.randn(4, 3).double(), dim=-1)
    offset = (point.sample((1000,)).mean(0) * directions).sum(-1)
    sensor = SoftHalfSpace(directions, offset, 0.1)
    exact = ThinnedPoint(point, sensor)
    assert exact.log_normalizer().shape == (4,)
    # The sensor's batch is hidden with its mean.
    near = ThinnedPoint(point, unknown_mean(sensor), num_samples=2**18)
    torch.testing.assert_close(exact.log_normalizer(), near.log_normalizer(), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        exact.complement().log_normalizer(), near.complement().log_normalizer(), rtol=0, atol=1e-3
    )
    sides = torch.stack([exact.log_normalizer(), exact.complement().log_normalizer()])
    torch.testing.assert_close(sides.logsumexp(0), torch.zeros(4).double())
    points = point.sample((5,))
    torch.testing.assert_close(exact.log_prob(points), near.log_prob(points), rtol=0, atol=1e-3)


def test_the_exact_normalizer_has_the_gradient_of_its_values():
    flow = pcf.PointCloudFlow(3, 2, base="mixture", num_components=4, num_couplings=0)
    pcf.testing.randomize_parameters(flow, 0.3).double()
    context = torch.randn(2, 2).double().requires_grad_()
    points = torch.randn(2, 3).double()
    assert torch.autograd.gradcheck(lambda c: one_sided(flow.condition(c), DIRECTION).log_prob(points), (context,))


def test_both_sides_make_the_whole():
    flow = make_flow().condition()
    seen = one_sided(flow, DIRECTION)
    hidden = seen.complement()
    points = flow.sample((50,))
    joint = torch.stack(
        [seen.log_normalizer() + seen.log_prob(points), hidden.log_normalizer() + hidden.log_prob(points)]
    )
    torch.testing.assert_close(joint.logsumexp(0), flow.log_prob(points))
    torch.testing.assert_close(seen.log_normalizer().exp() + hidden.log_normalizer().exp(), torch.ones(()).double())


def test_a_soft_edge_is_left_to_chance():
    """A normal point beside a normal edge: an eighth of the plane of both is recorded and lies behind."""
    thing = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    points = one_sided(thing, DIRECTION, softness=1.0).sample((20_000,))
    behind = (points @ DIRECTION < 0).double().mean()
    assert abs(behind - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5


@pytest.mark.exhaustive
def test_error_of_the_normalizer_for_a_flow():
    """The documented 4e-3, root mean square over flows, against two million samples each."""
    errors = []
    for seed in range(4):
        torch.manual_seed(seed)
        flow, keep = make_flow().condition(), SoftHalfSpace(DIRECTION, 0.1)
        with torch.no_grad():
            exact = torch.stack([keep(flow.sample((400_000,))).exp().mean() for _ in range(5)]).mean()
            errors.append((ThinnedPoint(flow, keep).log_normalizer() - exact.log()).item())
    assert (sum(error**2 for error in errors) / 4) ** 0.5 < 4.5e-3


def test_draws_come_from_the_density():
    flow = make_flow()
    flow = dist.TransformedDistribution(flow.condition(), [pcf.transforms.similarity(torch.randn(4, 4).double())])
    seen = one_sided(flow, DIRECTION)
    points = seen.sample((20_000,))
    assert points.shape == (20_000, 4, 3)
    other = one_sided(dist.Normal(torch.zeros(3).double(), 0.8).to_event(1), DIRECTION)
    ratio = (other.log_prob(points) - seen.log_prob(points)).exp()
    assert ((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / 20_000**0.5 + 2e-3).all()
    assert seen.expand((2, 4)).sample((3,)).shape == (3, 2, 4, 3)


def test_draws_of_objects_that_are_hardly_seen():
    """In a batch, of one object a thousandth, of the other all: each place has a draw of its own density."""
    offset = torch.tensor([3.1, -50.0]).double()
    thing = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1).expand((2,))
    seen = one_sided(thing, DIRECTION, offset=offset, softness=0.01)
    points = seen.sample((40, 50))
    assert points.shape == (40, 50, 2, 3)
    assert len(points.flatten(0, 1).unique(dim=0)) == 2000
    height = points @ DIRECTION
    assert (height[..., 0] > 3).all()
    # Along the edge nothing is thinned, of either.
    across = torch.linalg.svd(DIRECTION.unsqueeze(0)).Vh[1:]
    for deviation in (points @ across.T).flatten(0, 1).std(0).flatten():
        assert abs(deviation - 1) < 4 / (2 * 2000) ** 0.5
    # The height above an edge far out is nearly exponential: its mean is that of a truncated normal.
    normal = dist.Normal(torch.zeros(()).double(), 1.0)
    edge = offset[0]
    mean = normal.log_prob(edge).exp() / (1 - normal.cdf(edge))
    assert abs(height[..., 0].mean() - mean) < 4 * height[..., 0].std() / 2000**0.5 + 1e-3
    assert abs(height[..., 1].mean()) < 4 / 2000**0.5
    assert seen.sample().shape == (2, 3)
    assert seen.sample((0, 5)).shape == (0, 5, 2, 3)


def test_a_batch_of_sensors_and_gradients():
    context = torch.randn(3, 2).double().requires_grad_()
    flow = make_flow(context_dim=2, base="conditional")
    directions = torch.nn.functional.normalize(torch.randn(3, 3).double(), dim=-1)
    points = torch.randn(3, 3).double()
    seen = one_sided(flow.condition(context), directions, num_samples=64)
    one_by_one = torch.stack(
        [
            one_sided(flow.condition(c), d, num_samples=64).log_prob(x)
            for c, d, x in zip(context, directions, points, strict=True)
        ]
    )
    torch.testing.assert_close(seen.log_prob(points), one_by_one)
    assert torch.autograd.gradcheck(
        lambda c: one_sided(flow.condition(c), directions, num_samples=64).log_prob(points), (context,)
    )


def test_components_of_a_mixture_are_integrated_one_by_one():
    low, high = torch.full((3,), -1.0).double(), torch.ones(3).double()
    normal = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    scan = with_background(normal, 0.25, low, high)
    kept = one_sided(scan, DIRECTION, softness=1e-3).log_normalizer().exp()
    torch.testing.assert_close(kept, torch.tensor(0.5).double(), rtol=0, atol=5e-3)
    assert isinstance(scan, PointMixture)


def test_wrong_sensors():
    point = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    with pytest.raises(ValueError, match="length 1"):
        one_sided(point, torch.ones(3))
    with pytest.raises(ValueError, match="positive softness"):
        one_sided(point, DIRECTION, softness=0.0)
    with pytest.raises(ValueError, match="do not broadcast"):
        one_sided(point.expand((5,)), DIRECTION.expand(4, 3))
    with pytest.raises(ValueError, match="num_samples"):
        one_sided(point, DIRECTION, num_samples=0)
    with pytest.raises(TypeError, match="carry gradients"):
        ThinnedPoint(dist.Poisson(torch.ones(3)).to_event(1), lambda x: -x[..., 0]).log_normalizer()
    far = one_sided(dist.Normal(torch.zeros(3).double(), 0.1).to_event(1), DIRECTION, offset=50.0)
    with pytest.raises(ValueError, match="next to nothing"):
        far.sample()

"""Every point distribution against every promise: a new one is one line here."""

from __future__ import annotations

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_sample

import pyro_pcflow as pcf
from pyro_pcflow.distributions import MixtureOfFlows, NoisyPoint, PointMixture, one_sided, with_background, with_noise
from pyro_pcflow.distributions.base import CompositeDistribution, select_points
from pyro_pcflow.distributions.quasi_random import _sobol_normal
from pyro_pcflow.transforms import similarity

SMALL = {"num_couplings": 2, "hidden_dims": [8], "activation": "tanh", "num_frequencies": 0}
UP = torch.tensor([0.0, 0.0, 1.0]).double()
LOW, HIGH = torch.full((3,), -3.0).double(), torch.full((3,), 3.0).double()


def make(module, scale=0.2):
    torch.manual_seed(0)
    return pcf.testing.randomize_parameters(module(), scale).double().requires_grad_(False)


FLOW = make(lambda: pcf.PointCloudFlow(3, 2, **SMALL))
BASED = make(lambda: pcf.PointCloudFlow(3, 2, base="conditional", **SMALL))
GAUSSIANS = make(lambda: pcf.PointCloudFlow(3, 2, base="mixture", num_components=5, **SMALL), 0.05)
MIXTURE = make(lambda: MixtureOfFlows(2, 3, 2, **SMALL))


def posed(point):
    pose = similarity(torch.tensor([0.9, 0.1, -0.3, 0.2]).double(), torch.tensor([0.1, 0.2, -0.3]).double(), 1.3)
    return dist.TransformedDistribution(point, [pose])


POINTS = {
    "flow": FLOW.condition,
    "flow, conditional base": BASED.condition,
    "flow, mixture base": GAUSSIANS.condition,
    "mixture of flows": MIXTURE.condition,
    "posed": lambda c: posed(FLOW.condition(c)),
    "posed by the context": lambda c: dist.TransformedDistribution(
        FLOW.condition(c), [similarity(torch.cat([c, torch.ones_like(c)], -1), scale=c[..., 0].exp())]
    ),
    "background": lambda c: with_background(FLOW.condition(c), 0.2, LOW, HIGH),
    "background by the context": lambda c: with_background(FLOW.condition(c), c[..., 0].sigmoid(), LOW, HIGH),
    "noisy": lambda c: NoisyPoint(FLOW.condition(c), 0.1, nodes=4),
    "noisy by the context": lambda c: NoisyPoint(FLOW.condition(c), 0.1 * c[..., 0].exp(), nodes=4),
    "noisy Gaussians": lambda c: with_noise(GAUSSIANS.condition(c), 0.4),
    "noisy Gaussians by the context": lambda c: with_noise(posed(GAUSSIANS.condition(c)), 0.4 * c[..., 0].exp()),
    "one side": lambda c: one_sided(FLOW.condition(c), UP),
    "other side": lambda c: one_sided(FLOW.condition(c), UP).complement(),
    "one side of a mixture": lambda c: one_sided(MIXTURE.condition(c), UP),
    "all of it": lambda c: NoisyPoint(with_background(one_sided(posed(FLOW.condition(c)), UP), 0.1, LOW, HIGH), 0.05),
}


@pytest.fixture(params=POINTS)
def point(request):
    return POINTS[request.param]


def test_batch_shape_is_that_of_the_context(point):
    context, value = torch.randn(4, 1, 2).double(), torch.randn(5, 3).double()
    density = point(context)
    assert density.batch_shape == (4, 1)
    assert density.event_shape == (3,)
    assert density.sample((2,)).shape == (2, 4, 1, 3)
    together = density.log_prob(value)
    assert together.shape == (4, 5)
    torch.testing.assert_close(together, torch.stack([point(c).log_prob(value) for c in context.squeeze(1)]))
    assert together.std(0).max() > 1e-2
    wide = density.expand((4, 5))
    assert wide.sample().shape == (4, 5, 3)
    torch.testing.assert_close(wide.log_prob(value), together)


TRIES, DRAWS = 30_000, 10_000


@pytest.mark.slow
def test_draws_come_from_the_density(point):
    """Means of test functions under the draws are those by importance sampling, which knows the density alone."""
    density = point(torch.tensor([0.3, -0.5]).double())
    proposal = dist.MultivariateStudentT(
        torch.tensor(5.0).double(), torch.zeros(3).double(), 1.2 * torch.eye(3).double()
    )
    tries = proposal.sample((TRIES,))
    with torch.no_grad():
        weights = (density.log_prob(tries) - proposal.log_prob(tries)).exp()
        draws = density.sample((DRAWS,))
    assert (weights.mean() - 1).abs() < 4 * weights.std() / TRIES**0.5 + 0.005
    for f in (torch.sin, torch.cos, torch.tanh):
        by_weights = weights.unsqueeze(-1) * f(tries)
        error = (by_weights.var(0) / TRIES + f(draws).var(0) / DRAWS).sqrt()
        assert ((by_weights.mean(0) - f(draws).mean(0)).abs() < 4 * error + 0.005).all()


def test_clouds_of_different_sizes(point):
    context, clouds = torch.randn(4, 2).double(), torch.randn(4, 6, 3).double()
    sizes = [0, 1, 3, 6]
    mask = torch.arange(6) < torch.tensor(sizes).unsqueeze(-1)
    got = pcf.PointCloud(point(context), mask=mask).log_prob(clouds)
    by_hand = [
        sum((point(c).log_prob(x) for x in cloud[:size]), torch.zeros(()).double())
        for c, cloud, size in zip(context, clouds, sizes, strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(by_hand))
    draws = pcf.PointCloud(point(context), mask=mask).sample()
    assert (draws[~mask] == 0).all()
    assert (draws[mask] != 0).all()


def test_gradients_reach_the_context(point):
    context = torch.randn(2).double().requires_grad_()
    value = torch.randn(4, 3).double()
    assert torch.autograd.gradcheck(lambda c: point(c).log_prob(value), (context,))


def test_in_a_model_with_particles(point):
    """At a fixed latent every particle has one loss, vectorized or not, and that of the clouds one by one."""
    clouds = torch.randn(3, 5, 3).double()

    def model():
        with pyro.plate("clouds", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            with pyro.plate("points", 5, dim=-1):
                pyro.sample("x", point(z), obs=clouds)

    pyro.clear_param_store()
    guide = AutoDelta(model, init_loc_fn=init_to_sample)
    latent = guide()["z"].detach()
    by_hand = dist.Normal(0.0, 1.0).log_prob(latent).sum() + sum(
        point(z).log_prob(x) for z, cloud in zip(latent.squeeze(1), clouds, strict=True) for x in cloud
    )
    for options in ({}, {"num_particles": 4}, {"num_particles": 4, "vectorize_particles": True}):
        loss = Trace_ELBO(max_plate_nesting=2, **options).loss(model, guide)
        assert loss == pytest.approx(-by_hand.item(), rel=1e-6)


def test_pickles_after_use(point):
    density = point(torch.tensor([0.3, -0.5]).double())
    value = density.sample((5,))
    expected = density.log_prob(value)
    torch.testing.assert_close(pickle.loads(pickle.dumps(density)).log_prob(value), expected)


def test_bad_values(point):
    density = point(torch.zeros(2).double())
    with pytest.raises(ValueError, match=r"NaN|support|coordinates"):
        density.log_prob(torch.tensor([0.0, float("nan"), 0.0]).double())
    with pytest.raises(ValueError, match=r"shape|coordinates"):
        density.log_prob(torch.zeros(5, 2).double())


def test_expansion_keeps_what_was_said_about_validation(point):
    density, nowhere = point(torch.zeros(2).double()), torch.full((3,), float("nan")).double()
    density._validate_args = False
    density = density.expand((4,))
    if isinstance(density, CompositeDistribution):
        assert density._validate_args is False
        assert density.expand((2, 4))._validate_args is False
    assert "_validate_args" not in vars(pcf.PointCloud(point(torch.zeros(2).double()), 3).expand((4,)))
    with pytest.raises(ValueError, match=r"NaN|support"):
        point(torch.zeros(2).double()).expand((4,)).log_prob(nowhere)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_scores_under_vmap(point):
    """Where no value can be read, none is validated, and nothing is drawn, even the first time."""
    _sobol_normal.cache_clear()
    density, value = point(torch.tensor([0.3, -0.5]).double()), torch.randn(4, 3).double()
    torch.testing.assert_close(torch.func.vmap(density.log_prob)(value), density.log_prob(value))


def test_repr_shows_shapes_and_parts(point):
    density = point(torch.zeros(4, 2).double())
    if not isinstance(density, CompositeDistribution):
        density = NoisyPoint(density, 0.1)
    shapes = "(batch_shape=(4,), event_shape=(3,), "
    assert repr(density).startswith(type(density).__name__ + shapes)
    assert "Flow" in repr(density) or "CouplingStack" in repr(density) or "TransformedDistribution" in repr(density)
    assert repr(pcf.PointCloud(density, 5)) == (
        f"PointCloud(batch_shape=(4,), event_shape=(5, 3), point_distribution={density})"
    )


def test_reprs_in_full():
    normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    noise = "Normal(batch_shape=({}), event_shape=(3,))"
    plain, conditional = pcf.PointCloudFlow(3, **SMALL), pcf.PointCloudFlow(3, 2, base="conditional", **SMALL)
    assert repr(plain.condition()) == (
        f"Pushforward(batch_shape=(), event_shape=(3,), noise={noise.format('')}, transform=CouplingStack)"
    )
    context = "context=<shape (4, 2)>"
    assert repr(conditional.condition(torch.zeros(4, 2))) == (
        "Pushforward(batch_shape=(4,), event_shape=(3,), noise=Pushforward(batch_shape=(4,), event_shape=(3,), "
        f"noise={noise.format('4,')}, transform=ConditionalNormal, {context}), transform=ConditionalCouplingStack, "
        f"{context})"
    )
    assert repr(NoisyPoint(normal, 0.25)) == (
        f"NoisyPoint(batch_shape=(), event_shape=(3,), point_distribution={noise.format('')}, scale=0.25, nodes=3)"
    )
    assert repr(PointMixture(torch.zeros(5, 2), [normal, normal])) == (
        f"PointMixture(batch_shape=(5,), event_shape=(3,), components=[{noise.format('')}, {noise.format('')}])"
    )
    seen = one_sided(normal, torch.tensor([0.0, 0.0, 1.0]), softness=0.1)
    assert repr(seen) == (
        f"ThinnedPoint(batch_shape=(), event_shape=(3,), point_distribution={noise.format('')}, "
        "log_retention=SoftHalfSpace(direction=<shape (3,)>, offset=0.0, softness=0.1))"
    )
    mask = torch.ones(4, 7, dtype=torch.bool)
    assert repr(pcf.PointCloud(normal, mask=mask)) == (
        f"PointCloud(batch_shape=(4,), event_shape=(7, 3), point_distribution={noise.format('')}, mask=<shape (4, 7)>)"
    )


def test_masks_select_points():
    points, mask = torch.randn(4, 5, 3), torch.rand(4, 5) < 0.5
    assert torch.equal(select_points(points, mask), points.flatten(0, 1)[mask.flatten()])
    assert torch.equal(select_points(points, mask[0]), points[:, mask[0]].reshape(-1, 3))
    assert torch.equal(select_points(points, None), points.reshape(-1, 3))
    with pytest.raises(TypeError, match=r"booleans.* got torch.int64"):
        select_points(points, mask.long())
    with pytest.raises(ValueError, match=r"shape \(4, 5\), one entry per point, got \(4, 4\)"):
        select_points(points, mask[:, :4])

"""Completion of partial clouds."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from pyro_pcflow.distributions import one_sided
from pyro_pcflow.infer import complete, sample_pose


@pytest.fixture(scope="module")
def known():
    return make_conjugate(strength=0.7)


@pytest.mark.parametrize(("method", "num_steps"), [("svi", 600), ("nuts", 250)])
def test_latents_have_the_closed_form_posterior(known, method, num_steps):
    pyro.set_rng_seed(1)
    partial = known.flow.cloud(torch.tensor([0.8, -0.5]).double(), num_points=15).sample()
    result = complete(known.flow, partial, 30, method=method, num_steps=num_steps, num_samples=250)
    posterior = known.posterior(partial)
    draws = result.latents["context"]
    # Draws of a chain are not independent, those of a fitted guide not exact: a third of the deviation for both.
    assert ((draws.mean(0) - posterior.mean).abs() < posterior.stddev / 3).all()
    assert ((draws.std(0) / posterior.stddev - 1).abs() < 0.2).all()


def test_observed_points_are_not_altered(known):
    partial = known.flow.cloud(torch.zeros(2).double(), num_points=15).sample()
    before = partial.clone()
    result = complete(known.flow, partial, 40, num_steps=5, num_samples=3)
    assert torch.equal(partial, before)
    assert result.clouds.shape == (3, 40, 3)
    assert torch.equal(result.clouds[:, :15], partial.expand(3, 15, 3))
    assert torch.equal(result.observed, torch.arange(40) < 15)
    assert (result.clouds[0, 15:] != result.clouds[1, 15:]).all()


def test_predictive_clouds_have_the_posterior_predictive_mean(known):
    """Completed points, carried to the noise, have the mean `W E[c | cloud] + b`."""
    pyro.set_rng_seed(0)
    partial = known.flow.cloud(torch.tensor([1.5, 1.0]).double(), num_points=15).sample()
    result = complete(known.flow, partial, 115, num_samples=200)
    noise = known._noise(result.clouds[:, 15:])[0].mean(1)
    expected = known.loc @ known.posterior(partial).mean + known.bias
    assert ((noise.mean(0) - expected).abs() < 4 * noise.std(0) / 200**0.5 + 0.1 * noise.std(0)).all()


@pytest.mark.parametrize("method", ["svi", pytest.param("nuts", marks=pytest.mark.exhaustive)])
def test_clouds_of_different_sizes(known, method):
    """An empty cloud keeps the prior; padding may hold anything; the posterior of each is its own."""
    pyro.set_rng_seed(0)
    contexts = torch.randn(4, 2).double()
    partial = known.flow.cloud(contexts, num_points=12).sample()
    mask = torch.arange(12) < torch.tensor([0, 1, 5, 12]).unsqueeze(-1)
    partial[~mask] = float("nan")
    options = {"num_steps": 800} if method == "svi" else {"num_steps": 300}
    result = complete(known.flow, partial, 20, mask=mask, method=method, num_samples=300, guide=AutoNormal, **options)
    assert result.clouds.shape == (300, 4, 20, 3)
    assert result.clouds.isfinite().all()
    assert torch.equal(result.clouds[:, :, :12][:, mask], partial[mask].expand(300, -1, 3))
    posterior = known.posterior(partial.nan_to_num(), mask)
    # A mean-field guide has the right mean; its spread is that of each coordinate given the others.
    precision = posterior.precision_matrix.diagonal(dim1=-2, dim2=-1)
    deviation = precision.rsqrt() if method == "svi" else posterior.stddev
    draws = result.latents["context"]
    assert ((draws.mean(0) - posterior.mean).abs() < posterior.stddev / 3).all()
    assert ((draws.std(0) / deviation - 1).abs() < 0.25).all()


@pytest.mark.slow
def test_a_missing_half_counts_as_evidence_unless_the_sensor_says_so():
    """A thing of unknown size along x, of which only one half was recorded, against a numerical integral."""
    pyro.set_rng_seed(0)
    direction = torch.tensor([1.0, 0.0, 0.0]).double()

    def shape():
        shift = pyro.sample("shift", dist.Normal(torch.zeros(()).double(), 1.0))
        loc = torch.stack([shift, torch.zeros_like(shift), torch.zeros_like(shift)], -1)
        return dist.Normal(loc, 1.0).to_event(1)

    def seen(point):
        return one_sided(point, direction, softness=0.1)

    truth = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    partial = seen(truth).sample((100,))
    naive = complete(shape, partial, 200, num_samples=400).latents["shift"]
    result = complete(shape, partial, 200, num_samples=400, observe=seen, fill=lambda p: seen(p).complement())
    grid = torch.linspace(-3, 3, 2001).double()
    keep = torch.special.ndtr(grid / (1 + 0.1**2) ** 0.5).log()
    x = partial[:, 0]
    log_joint = (
        dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.unsqueeze(-1), 1.0).log_prob(x).sum(-1) - 100 * keep
    )
    weights = log_joint.softmax(0)
    mean = (weights * grid).sum()
    deviation = (weights * (grid - mean).square()).sum().sqrt()
    draws = result.latents["shift"]
    assert (draws.mean() - mean).abs() < deviation / 3
    assert (draws.std() / deviation - 1).abs() < 0.25
    assert mean.abs() < 3 * deviation
    assert naive.mean() > mean + 2 * deviation
    assert (result.clouds[:, 100:, 0] < 0.5).all()
    assert result.clouds[:, 100:, 0].mean() < -0.3


@pytest.mark.slow
def test_pose_and_context_together():
    """A flow in an unknown place: the pose moves the cloud, and what is completed moves with it."""
    pyro.set_rng_seed(0)
    known = make_conjugate(strength=0.3)
    centre = torch.tensor([2.0, 0.0, -1.0]).double()

    def shape():
        context = pyro.sample("context", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pose = sample_pose(
            around=torch.tensor([1.0, 0.0, 0.0, 0.0]).double(),
            spread=0.05,
            translation=dist.Normal(torch.zeros(3).double(), 2.0).to_event(1),
        )
        return dist.TransformedDistribution(known.flow.condition(context), [pose])

    scan = known.flow.cloud(torch.zeros(2).double(), num_points=100).sample() + centre
    result = complete(shape, scan, 500, num_samples=20, num_steps=400, lr=0.05)
    assert set(result.latents) == {"context", "pose_quaternion_offset", "pose_translation"}
    drawn = result.clouds[:, 100:].mean((0, 1))
    assert (drawn - scan.mean(0)).abs().max() < 4 * scan.std(0).max() / 10


def test_nothing_of_the_callers_is_touched(known):
    flow = pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[8])
    before = {name: value.clone() for name, value in flow.named_parameters()}
    pyro.clear_param_store()
    pyro.param("mine", torch.ones(2))

    def shape():
        pyro.module("flow", flow)
        return flow.condition(pyro.sample("context", dist.Normal(torch.zeros(2), 1.0).to_event(1)))

    for method in ("svi", "nuts"):
        complete(shape, torch.randn(10, 3), 20, num_steps=5, num_samples=2, warmup_steps=2, method=method)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    for name, parameter in flow.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_a_seed_makes_it_repeat(known):
    partial = known.flow.cloud(torch.zeros(2).double(), num_points=15).sample()
    runs = []
    for _ in range(2):
        pyro.set_rng_seed(5)
        runs.append(complete(known.flow, partial, 30, num_steps=20, num_samples=3).clouds)
    assert torch.equal(*runs)


class Points:
    """Any class with a `point_model` is a model: here, of clouds that are normal around a latent."""

    def __init__(self, flow):
        self.flow = flow
        self.asked = set()

    def point_model(self, num_clouds=None):
        self.asked.add(num_clouds)
        shape = (2,) if num_clouds is None else (num_clouds, 2)
        return self.flow.condition(pyro.sample("c", dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))).double())


@pytest.mark.parametrize("batch_shape", [(), (1,), (3,)])
def test_a_model_is_asked_for_as_many_clouds_as_there_are(known, batch_shape):
    model = Points(known.flow)
    partial = known.flow.cloud(torch.zeros(*batch_shape, 2).double(), num_points=5).sample()
    result = complete(model, partial, 8, num_steps=3, num_samples=2)
    assert result.latents["c"].shape == (2, *batch_shape, 2)
    assert result.clouds.shape == (2, *batch_shape, 8, 3)
    assert model.asked == {batch_shape[0] if batch_shape else None}


def test_mixtures_of_flows_are_flows():
    flow = pcf.MixtureOfFlows(2, 3, 2, num_couplings=2, hidden_dims=[8])
    assert complete(flow, torch.randn(5, 3), 8, num_steps=3, num_samples=2).latents["context"].shape == (2, 2)


def test_what_is_no_model(known):
    with pytest.raises(TypeError, match=r"expected a model with point_model, a conditional flow, or a function .* int"):
        complete(3, torch.randn(5, 3), 8)
    with pytest.raises(ValueError, match=r"\(N, D\) or \(B, N, D\), got \(2, 2, 5, 3\)"):
        complete(Points(known.flow), torch.randn(2, 2, 5, 3), 8)


def test_wrong_use(known):
    cloud = torch.zeros(10, 3).double()
    with pytest.raises(ValueError, match="no room for 10 observed points"):
        complete(known.flow, cloud, 5)
    with pytest.raises(ValueError, match="svi, nuts"):
        complete(known.flow, cloud, 20, method="laplace")
    with pytest.raises(TypeError, match="no context"):
        complete(pcf.PointCloudFlow(3, num_couplings=1, hidden_dims=[4]), cloud, 20)
    with pytest.raises(ValueError, match="NaN or infinite"):
        complete(known.flow, cloud / 0, 20)
    with pytest.raises(ValueError, match="mask of booleans"):
        complete(known.flow, cloud, 20, mask=torch.ones(9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(\*batch, N, D\), got shape \(3,\)"):
        complete(known.flow, torch.zeros(3), 20)
    with pytest.raises(ValueError, match=r"\(\*batch, N, D\), got list"):
        complete(known.flow, [[0.0, 0.0, 0.0]], 20)
    with pytest.raises(ValueError, match="chain of at least num_samples"):
        complete(known.flow, cloud, 20, method="nuts", num_steps=5, num_samples=10)
    with pytest.raises(ValueError, match="expected clouds of shape"):
        complete(known.flow, torch.zeros(10, 2).double(), 20)

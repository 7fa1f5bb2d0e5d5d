"""Completion of partial clouds."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from pyro_pcflow.distributions import one_sided, with_background
from pyro_pcflow.infer import Completer, complete, sample_pose

# Small models, few steps and clouds that are no shapes: what complete says of them has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:what was found may be wrong")


@pytest.fixture(scope="module")
def known():
    return make_conjugate(strength=0.7)


@pytest.mark.parametrize(
    ("method", "num_steps"), [("svi", 600), pytest.param("nuts", 250, marks=pytest.mark.exhaustive), ("hmc", 16)]
)
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


@pytest.mark.parametrize(
    "method", ["hmc", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("svi", "nuts"))]
)
def test_clouds_of_different_sizes(known, method):
    """An empty cloud keeps the prior; padding may hold anything; the posterior of each is its own."""
    pyro.set_rng_seed(0)
    contexts = torch.randn(4, 2).double()
    partial = known.flow.cloud(contexts, num_points=12).sample()
    mask = torch.arange(12) < torch.tensor([0, 1, 5, 12]).unsqueeze(-1)
    partial[~mask] = float("nan")
    options = {"num_steps": {"svi": 800, "nuts": 300, "hmc": 20}[method]}
    if method == "svi":
        options["guide"] = AutoNormal
    result = complete(known.flow, partial, 20, mask=mask, method=method, num_samples=300, **options)
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
    result = complete(shape, scan, 500, num_samples=20, method="svi", num_steps=400, lr=0.05)
    assert set(result.latents) == {"context", "pose_quaternion_offset", "pose_translation", "pose_rotation"}
    drawn = result.clouds[:, 100:].mean((0, 1))
    assert (drawn - scan.mean(0)).abs().max() < 4 * scan.std(0).max() / 10


def small_completer(**options):
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]}, **options)
    pcf.testing.randomize_parameters(vae, 0.1)
    return Completer(vae, context_dim=8, encoder={"point_dims": [8], "hidden_dims": [8]})


@pytest.mark.parametrize("prior", ["flow", "normal"])
def test_starts_from_a_proposal(prior):
    """Of a batch of clouds of different sizes; latents and their noise are returned."""
    completer = small_completer(prior=prior)
    partial, mask = torch.randn(3, 20, 3), torch.arange(20) < torch.tensor([5, 10, 20]).unsqueeze(-1)
    for method in ("hmc", "completer"):
        result = complete(completer.model, partial, 30, mask=mask, method=method, proposal=completer, num_samples=8)
        assert result.method == method
        assert result.latents["z"].shape == (8, 3, 4)
        assert set(result.latents) == ({"z", "z_base"} if prior == "flow" else {"z"})
        if prior == "flow":
            z = completer.model.latent_prior().transforms[0](result.latents["z_base"])
            torch.testing.assert_close(z, result.latents["z"])
        assert result.clouds.shape == (8, 3, 30, 3)


def test_classes_go_along():
    """The proposal and the prior are those of each cloud's class."""
    completer = small_completer(num_classes=2)
    labels = torch.tensor([0, 1, 1])
    partial = torch.randn(3, 20, 3)
    for options in ({}, {"method": "hmc", "proposal": completer}, {"proposal": completer}):
        result = complete(completer.model, partial, 30, labels=labels, num_samples=4, **options)
        (transform,) = completer.model.latent_prior(labels).transforms
        torch.testing.assert_close(transform(result.latents["z_base"]), result.latents["z"])
    with pytest.raises(TypeError, match="give labels"):
        complete(completer.model, partial, 30)
    with pytest.raises(ValueError, match="labels are for a model with a point_model"):
        complete(lambda: None, partial, 30, labels=labels)


def test_the_method_that_is_taken():
    """A completer has seen every sensor; a likelihood knows the one that it was given."""
    completer = small_completer()
    partial = torch.randn(20, 3)
    seen = {"observe": lambda point: one_sided(point, torch.tensor([0.0, 0.0, 1.0]))}
    for options, method in (
        ({}, "hmc"),
        (seen, "hmc"),
        ({"proposal": completer}, "completer"),
        ({"proposal": completer, **seen}, "hmc"),
    ):
        assert complete(completer.model, partial, 20, **options).method == method


def test_diagnostics_of_many_chains(known):
    pyro.set_rng_seed(0)
    partial = known.flow.cloud(torch.zeros(3, 2).double(), num_points=15).sample()
    found = complete(known.flow, partial, 20, method="hmc", num_steps=20, num_samples=4).diagnostics
    assert found["r_hat"].shape == (3, 2)
    for name in ("r_hat_log_prior", "r_hat_log_likelihood", "n_eff_log_prior", "acceptance", "step_size", "temper"):
        assert found[name].shape == (3,)
    assert (found["r_hat"] < 1.2).all()
    assert (found["temper"] == 1).all()


def test_all_draws_of_chains_are_kept(known):
    """With their own log-likelihoods; methods without chains have none."""
    pyro.set_rng_seed(0)
    partial = known.flow.cloud(torch.zeros(3, 2).double(), num_points=15).sample()
    for method, num_chains in (("hmc", 5), ("nuts", 2)):
        options = {"num_chains": num_chains, "num_steps": 6, "num_samples": 4}
        result = complete(known.flow, partial, 20, method=method, warmup_steps=4, **options)
        context, statistics = result.chains.samples["context"], result.chains.statistics
        assert context.shape == (num_chains, 6, 3, 2)
        expected = known.flow.cloud(context, num_points=15).log_prob(partial)
        torch.testing.assert_close(statistics["log_likelihood"], expected)
        assert statistics["diverging"].shape == ((num_chains, 6, 3) if method == "hmc" else (num_chains, 6))
        if method == "hmc":
            torch.testing.assert_close(statistics["log_likelihood"], result.diagnostics["log_likelihood"].movedim(1, 0))
    assert complete(known.flow, partial, 20, method="svi", num_steps=2, num_samples=1).chains is None


def test_latents_of_a_sensor_are_of_each_cloud(known):
    """Whatever `observe` samples, without a plate of its own."""
    partial = known.flow.cloud(torch.zeros(3, 2).double(), num_points=15).sample()
    low, high = partial.amin((0, 1)), partial.amax((0, 1))

    def with_outliers(point):
        return with_background(point, pyro.sample("share", dist.Beta(torch.ones(()).double(), 20.0)), low, high)

    result = complete(known.flow, partial, 20, observe=with_outliers, num_steps=4, warmup_steps=2, num_samples=4)
    assert result.latents["share"].shape == (4, 3)
    assert result.diagnostics["r_hat"].shape == (3, 3)


def test_chains_start_where_the_likelihood_is_high(known):
    """Before they have gone anywhere, they fit the points better than most draws of the prior."""
    pyro.set_rng_seed(0)
    partial = known.flow.cloud(torch.tensor([1.5, -1.0]).double(), num_points=20).sample()
    result = complete(known.flow, partial, 20, method="hmc", num_steps=4, warmup_steps=0)
    contexts = torch.randn(1000, 2).double()
    usual = known.flow.cloud(contexts, num_points=20).log_prob(partial)
    assert result.diagnostics["log_likelihood"][0].min() > usual.quantile(0.6)


def test_tempering_widens_a_posterior(known):
    """With the exponent t the data count t times: the closed form of a cloud of which each point counts as much."""
    pyro.set_rng_seed(0)
    partial = known.flow.cloud(torch.tensor([0.8, -0.5]).double(), num_points=40).sample()
    full = known.posterior(partial)
    identity = torch.eye(2).double()
    precision = identity + 0.1 * (full.precision_matrix - identity)
    mean = torch.linalg.solve(precision, 0.1 * full.precision_matrix @ full.mean)
    result = complete(known.flow, partial, 40, method="hmc", temper=0.1, num_samples=480, num_steps=60)
    draws = result.latents["context"]
    deviation = torch.linalg.inv(precision).diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < deviation / 3).all()
    assert ((draws.std(0) / deviation - 1).abs() < 0.2).all()


def test_the_exponents_of_a_proposal_are_taken():
    completer = small_completer()
    completer.temper = torch.tensor([0.5, 0.5, 0.25, 0.125])
    options = {"method": "hmc", "proposal": completer, "num_steps": 4, "warmup_steps": 1, "num_chains": 2}
    partial = torch.randn(2, 100, 3)
    mask = torch.arange(100) < torch.tensor([30, 100]).unsqueeze(-1)
    found = complete(completer.model, partial, 100, mask=mask, num_samples=2, **options).diagnostics
    torch.testing.assert_close(found["temper"], torch.tensor([0.5, 0.5]))
    found = complete(completer.model, partial, 100, num_samples=2, temper=0.7, **options).diagnostics
    torch.testing.assert_close(found["temper"], torch.tensor([0.7, 0.7]))


def test_a_latent_of_the_sensor_is_inferred_beside_those_of_the_shape():
    completer = small_completer()

    def unknown_side(point):
        angle = pyro.sample("angle", dist.Normal(0.0, 1.0))
        zero = torch.zeros_like(angle)
        return one_sided(point, torch.stack([angle.cos(), angle.sin(), zero], -1))

    for proposal in (None, completer):
        result = complete(
            completer.model,
            torch.randn(30, 3),
            40,
            observe=unknown_side,
            proposal=proposal,
            num_samples=4,
            num_steps=4,
            num_chains=8,
        )
        assert result.latents["angle"].shape == (4,)
        assert result.latents["z"].shape == (4, 4)


def test_nothing_of_the_callers_is_touched(known):
    flow = pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[8])
    before = {name: value.clone() for name, value in flow.named_parameters()}
    pyro.clear_param_store()
    pyro.param("mine", torch.ones(2))

    def shape():
        pyro.module("flow", flow)
        return flow.condition(pyro.sample("context", dist.Normal(torch.zeros(2), 1.0).to_event(1)))

    for method, options in (("svi", {}), ("nuts", {"warmup_steps": 2}), ("hmc", {"warmup_steps": 2})):
        complete(shape, torch.randn(10, 3), 20, num_steps=5, num_samples=2, method=method, **options)
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
    result = complete(model, partial, 8, num_steps=4, num_samples=2, method="svi")
    assert result.latents["c"].shape == (2, *batch_shape, 2)
    assert result.clouds.shape == (2, *batch_shape, 8, 3)
    assert model.asked == {batch_shape[0] if batch_shape else None}
    if batch_shape:
        # The latents of all clouds are one event, which no plate of chains goes through.
        with pytest.raises(ValueError, match="another log-density when many chains"):
            complete(model, partial, 8, num_steps=4, num_samples=2)


def test_mixtures_of_flows_are_flows():
    flow = pcf.MixtureOfFlows(2, 3, 2, num_couplings=2, hidden_dims=[8])
    assert complete(flow, torch.randn(5, 3), 8, num_steps=4, num_samples=2).latents["context"].shape == (2, 2)


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
    with pytest.raises(ValueError, match="fewer than num_samples=10"):
        complete(known.flow, cloud, 20, method="nuts", num_steps=5, num_samples=10)
    with pytest.raises(ValueError, match="expected clouds of shape"):
        complete(known.flow, torch.zeros(10, 2).double(), 20)
    with pytest.raises(ValueError, match="at least 4"):
        complete(known.flow, cloud, 20, method="nuts", num_steps=3, num_samples=1)
    with pytest.raises(ValueError, match="give proposal"):
        complete(known.flow, cloud, 20, method="completer")
    with pytest.raises(TypeError, match="expected a Completer as proposal, got int"):
        complete(known.flow, cloud, 20, proposal=3)
    with pytest.raises(ValueError, match="this model has context: give the model"):
        complete(known.flow, cloud, 20, method="hmc", proposal=small_completer())
    with pytest.raises(ValueError, match="guide is for method='svi', and this is 'hmc'"):
        complete(known.flow, cloud, 20, guide=AutoNormal)
    with pytest.raises(ValueError, match="temper is for method='hmc', and this is 'svi'"):
        complete(known.flow, cloud, 20, method="svi", temper=0.5)
    with pytest.raises(ValueError, match="num_steps is for"):
        complete(known.flow, cloud, 20, method="completer", proposal=small_completer(), num_steps=5)
    for temper in (0.0, "some"):
        with pytest.raises(ValueError, match="temper must be a positive number or 'auto'"):
            complete(known.flow, cloud, 20, temper=temper)

"""Pyro's effect handlers, predictions, pictures of a model and reparameterisations, with a flow as a site."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.infer.inspect import get_model_relations
from pyro.infer.reparam import NeuTraReparam, TransformReparam
from pyro.ops.stats import effective_sample_size

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate

POINTS = 7
SIZES = torch.tensor([0, 1, 3, 6, 7])
MASK = torch.arange(POINTS) < SIZES.unsqueeze(-1)


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture(scope="module")
def known():
    return make_conjugate()


@pytest.fixture
def data():
    """Contexts and clouds with no special relation to each other."""
    torch.manual_seed(1)
    return torch.randn(5, 2, dtype=torch.float64), torch.randn(5, POINTS, 3, dtype=torch.float64)


def prior():
    return dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)


class AsEvent:
    """A cloud as one event; a mask says which of its points there are."""

    def __init__(self, known):
        self.known = known

    def __call__(self, clouds=None, mask=None):
        with pyro.plate("clouds", 5):
            z = pyro.sample("z", prior())
            return pyro.sample("x", self.known.flow.cloud(z, num_points=POINTS, mask=mask), obs=clouds)

    @staticmethod
    def context(z):
        return z


class AsPlate(AsEvent):
    """A plate of points; poutine.mask says which of them there are."""

    def __call__(self, clouds=None, mask=None):
        with pyro.plate("clouds", 5, dim=-2):
            z = pyro.sample("z", prior())
            with pyro.plate("points", POINTS, dim=-1), poutine.mask(mask=True if mask is None else mask):
                return pyro.sample("x", self.known.flow.condition(z), obs=clouds)

    @staticmethod
    def context(z):
        return z.unsqueeze(-2)


spellings = pytest.mark.parametrize("spelling", [AsEvent, AsPlate])
masks = pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])


def log_prior(z):
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def log_likelihood(known, clouds, z, mask=None):
    """Of each cloud: a point's noise is normal around `W z + b`."""
    noise, log_det = known._noise(clouds)
    mean = (z @ known.loc.T + known.bias).unsqueeze(-2)
    scores = torch.distributions.Normal(mean, known.scale).log_prob(noise).sum(-1) + log_det
    return scores.sum(-1) if mask is None else (scores * mask).sum(-1)


def total(model, *arguments):
    return poutine.trace(model).get_trace(*arguments).log_prob_sum()


@spellings
@masks
def test_condition(known, data, spelling, mask):
    (z, clouds), model = data, spelling(known)
    expected = log_prior(z).sum() + log_likelihood(known, clouds, z, mask).sum()
    conditioned = pyro.condition(model, data={"z": model.context(z), "x": clouds})
    torch.testing.assert_close(total(conditioned, None, mask), expected)
    torch.testing.assert_close(total(pyro.condition(model, {"z": model.context(z)}), clouds, mask), expected)


@spellings
@masks
def test_do(known, data, spelling, mask):
    """The clouds follow the intervention; what the prior drew keeps its own density."""
    (z, clouds), model = data, spelling(known)
    trace = poutine.trace(pyro.do(model, data={"z": model.context(z)})).get_trace(clouds, mask)
    drawn = trace.nodes["z"]["value"]
    assert (drawn != model.context(z)).all()
    expected = log_prior(drawn).sum() + log_likelihood(known, clouds, z, mask).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@spellings
@masks
def test_block(known, data, spelling, mask):
    (z, clouds), model = data, spelling(known)
    conditioned = pyro.condition(model, {"z": model.context(z)})
    hidden = poutine.trace(poutine.block(conditioned, hide=["z"])).get_trace(clouds, mask)
    assert "z" not in hidden.nodes
    torch.testing.assert_close(hidden.log_prob_sum(), log_likelihood(known, clouds, z, mask).sum())
    exposed = poutine.trace(poutine.block(conditioned, expose=["z"])).get_trace(clouds, mask)
    assert "x" not in exposed.nodes
    torch.testing.assert_close(exposed.log_prob_sum(), log_prior(z).sum())


@spellings
@masks
def test_mask_and_scale(known, data, spelling, mask):
    """One weight for each cloud, on its prior and its likelihood."""
    (z, clouds), model = data, spelling(known)
    conditioned = pyro.condition(model, {"z": model.context(z)})
    each = log_prior(z) + log_likelihood(known, clouds, z, mask)
    kept = torch.tensor([True, False, True, True, False])
    weights = torch.tensor([0.5, 2.0, 0.0, 3.0, 1.0], dtype=torch.float64)
    fit = (lambda per_cloud: per_cloud) if spelling is AsEvent else (lambda per_cloud: per_cloud.unsqueeze(-1))
    torch.testing.assert_close(total(poutine.mask(conditioned, mask=fit(kept)), clouds, mask), each[kept].sum())
    # A scale of zero is no scale to Pyro, whose test is that it be positive.
    weights[2] = 1e-3
    torch.testing.assert_close(total(poutine.scale(conditioned, scale=fit(weights)), clouds, mask), weights @ each)


@masks
def test_lift(known, data, mask):
    """A context that was a parameter becomes a site."""
    _, clouds = data

    def model():
        z = pyro.param("z", torch.zeros(2, dtype=torch.float64))
        with pyro.plate("clouds", 5):
            pyro.sample("x", known.flow.cloud(z, num_points=POINTS, mask=mask), obs=clouds)

    torch.testing.assert_close(total(model), log_likelihood(known, clouds, torch.zeros(5, 2).double(), mask).sum())
    trace = poutine.trace(poutine.lift(model, prior={"z": prior()})).get_trace()
    z = trace.nodes["z"]["value"]
    assert trace.nodes["z"]["type"] == "sample"
    expected = log_prior(z) + log_likelihood(known, clouds, z.expand(5, 2), mask).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@spellings
@masks
def test_replay(known, spelling, mask):
    model = spelling(known)
    first = poutine.trace(model).get_trace(mask=mask)
    again = poutine.trace(poutine.replay(model, trace=first)).get_trace(mask=mask)
    for name in ("z", "x"):
        assert torch.equal(again.nodes[name]["value"], first.nodes[name]["value"])
    z = first.nodes["z"]["value"].reshape(5, 2)
    expected = log_prior(z).sum() + log_likelihood(known, first.nodes["x"]["value"], z, mask).sum()
    torch.testing.assert_close(again.log_prob_sum(), expected)


@spellings
def test_seed(known, spelling):
    model = spelling(known)
    state = torch.get_rng_state()
    trace = poutine.trace(poutine.seed(model, rng_seed=7)).get_trace()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    z = torch.empty(model.context(torch.zeros(5, 2)).shape, dtype=torch.float64).normal_()
    # Points lead in a cloud, so that contexts broadcast over them.
    order = (POINTS, 5, 3) if spelling is AsEvent else (5, POINTS, 3)
    noise = torch.empty(order, dtype=torch.float64).normal_()
    noise = noise.transpose(0, 1) if spelling is AsEvent else noise
    torch.testing.assert_close(trace.nodes["z"]["value"], z)
    mean = (z.reshape(5, 2) @ known.loc.T + known.bias).unsqueeze(-2)
    expected = known.flow.transform.condition(torch.zeros(2, dtype=torch.float64))(mean + known.scale * noise)
    torch.testing.assert_close(trace.nodes["x"]["value"], expected)


def test_format_shapes(known):
    """Written out from the documentation: the batch is that of the contexts, the event a cloud or a point."""
    expected = {
        AsEvent: """\
Trace Shapes:
 Param Sites:
Sample Sites:
  clouds dist   |
        value 5 |
     log_prob   |
       z dist 5 | 2
        value 5 | 2
     log_prob 5 |
       x dist 5 | 7 3
        value 5 | 7 3
     log_prob 5 |""",
        AsPlate: """\
Trace Shapes:
 Param Sites:
Sample Sites:
  clouds dist     |
        value   5 |
     log_prob     |
       z dist 5 1 | 2
        value 5 1 | 2
     log_prob 5 1 |
  points dist     |
        value   7 |
     log_prob     |
       x dist 5 7 | 3
        value 5 7 | 3
     log_prob 5 7 |""",
    }
    for spelling, table in expected.items():
        for mask in (None, MASK):
            trace = poutine.trace(spelling(known)).get_trace(mask=mask)
            trace.compute_log_prob()
            assert [line.rstrip() for line in trace.format_shapes().splitlines()] == table.splitlines()


def check_noise(known, clouds, mean, covariance):
    """The noise of the points of independent clouds, `(draws, 3)`, has these moments to 4 standard errors."""
    noise, _ = known._noise(clouds)
    count = len(noise)
    error = (covariance.diagonal() / count).sqrt()
    assert ((noise.mean(0) - mean).abs() < 4 * error).all()
    # Var(x y) = var x var y + cov^2 for a bivariate normal.
    variances = covariance.diagonal()
    error = ((variances.unsqueeze(-1) * variances + covariance.square()) / count).sqrt()
    assert ((noise.T.cov() - covariance).abs() < 4 * error).all()


@spellings
@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_predictive_of_the_prior(known, spelling, parallel):
    """A point's noise is `N(b, W W' + S^2)` once the context is integrated out."""
    draws = 4000 if parallel else 400
    model = spelling(known)
    out = Predictive(model, num_samples=draws, parallel=parallel, return_sites=["z", "x"])(mask=MASK)
    assert out["z"].shape == (draws, *model.context(torch.zeros(5, 2)).shape)
    assert out["x"].shape == (draws, 5, POINTS, 3)
    covariance = known.loc @ known.loc.T + known.scale.square().diag()
    for cloud, point in ((1, 0), (4, 6)):  # both are points of the mask
        check_noise(known, out["x"][:, cloud, point], known.bias, covariance)
    if spelling is AsEvent:
        assert (out["x"][:, ~MASK] == 0).all()


@pytest.mark.slow
@spellings
@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_predictive_of_a_posterior(known, data, spelling, parallel):
    """Given draws of the contexts; and then by a guide, which draws them itself."""
    _, clouds = data
    draws = 4000 if parallel else 400
    model, posterior = spelling(known), known.posterior(clouds, MASK)
    contexts = model.context(posterior.sample((draws,)))
    out = Predictive(model, {"z": contexts}, parallel=parallel)(mask=MASK)
    assert out["x"].shape == (draws, 5, POINTS, 3)

    def guide(mask=None):
        with pyro.plate("clouds", 5, dim=-1 if spelling is AsEvent else -2):
            loc, scale_tril = model.context(posterior.loc), posterior.scale_tril
            scale_tril = scale_tril if spelling is AsEvent else scale_tril.unsqueeze(-3)
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))

    by_guide = Predictive(model, guide=guide, num_samples=draws, parallel=parallel)(mask=MASK)
    assert by_guide["x"].shape == (draws, 5, POINTS, 3)
    for cloud in (1, 4):
        mean = known.loc @ posterior.mean[cloud] + known.bias
        covariance = known.loc @ posterior.covariance_matrix[cloud] @ known.loc.T + known.scale.square().diag()
        check_noise(known, out["x"][:, cloud, 0], mean, covariance)
        check_noise(known, by_guide["x"][:, cloud, 0], mean, covariance)


@spellings
@masks
def test_relations_of_a_model(known, data, spelling, mask):
    """Pyro finds them by a subclass of tensors that has to get through all couplings."""
    relations = get_model_relations(spelling(known), model_args=(data[1], mask))
    assert relations["sample_sample"] == {"z": [], "x": ["z"]}
    assert relations["observed"] == ["x"]
    assert relations["plate_sample"]["clouds"] == ["z", "x"]


@spellings
@masks
def test_render_model(known, data, spelling, mask):
    pytest.importorskip("graphviz")
    source = pyro.render_model(spelling(known), model_args=(data[1], mask), render_distributions=True).source
    kind = "PointCloud" if spelling is AsEvent else "Pushforward"
    assert "\tz -> x\n" in source
    assert source.count("->") == 1
    assert "z [label=z fillcolor=white" in source
    assert "x [label=x fillcolor=gray" in source
    assert "label=clouds" in source
    assert ("label=points" in source) == (spelling is AsPlate)
    assert f"x ~ {kind}\\l" in source


@pytest.mark.parametrize("mask", [None, MASK[1], MASK[3]])
def test_factor(known, data, mask):
    """A likelihood by pyro.factor is one by obs; with the context integrated out on a grid it is the evidence."""
    _, clouds = data
    cloud = clouds[0]

    def model(z):
        z = pyro.sample("z", prior(), obs=z)
        pyro.factor("x", known.flow.cloud(z, num_points=POINTS, mask=mask).log_prob(cloud))

    axis = torch.linspace(-7, 7, 141, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with pyro.plate("grid", len(grid)):
        trace = poutine.trace(model).get_trace(grid)
    trace.compute_log_prob()
    joint = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(joint[7], log_prior(grid[7]) + log_likelihood(known, cloud, grid[7], mask))
    evidence = joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    torch.testing.assert_close(evidence, known.log_evidence(cloud, mask), rtol=1e-6, atol=1e-6)


class LatentPoints:
    """A context for each cloud, latent points of it, and what is seen of them."""

    def __init__(self, known, as_event):
        self.known = known
        self.as_event = as_event

    def __call__(self):
        flow = self.known.flow
        if self.as_event:
            with pyro.plate("clouds", 5):
                z = pyro.sample("z", prior())
                points = flow.condition(z.unsqueeze(-2)).expand((5, POINTS)).to_event(1)
                x = pyro.sample("x", points)
                pyro.sample("y", dist.Normal(x, 0.5).to_event(2), obs=torch.zeros(5, POINTS, 3, dtype=torch.float64))
            return
        with pyro.plate("clouds", 5, dim=-2):
            z = pyro.sample("z", prior())
            with pyro.plate("points", POINTS, dim=-1):
                x = pyro.sample("x", flow.condition(z))
                pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=torch.zeros(5, POINTS, 3, dtype=torch.float64))


@pytest.mark.parametrize("as_event", [True, False])
def test_transform_reparam(known, data, as_event):
    """The noise becomes the site: densities differ by the log-determinant alone, samples by nothing."""
    model = LatentPoints(known, as_event)
    reparam = poutine.reparam(model, config={"x": TransformReparam()})
    plain, moved = (poutine.trace(poutine.seed(m, rng_seed=3)).get_trace() for m in (model, reparam))
    torch.testing.assert_close(moved.nodes["x"]["value"], plain.nodes["x"]["value"])

    contexts, _ = data
    z = contexts if as_event else contexts.unsqueeze(-2)
    noise = torch.randn(5, POINTS, 3, dtype=torch.float64)
    x, log_det = known.flow.transform.condition(torch.zeros(2, dtype=torch.float64)).transform_and_log_det(noise)
    moved = poutine.trace(pyro.condition(reparam, {"z": z, "x_base": noise})).get_trace()
    torch.testing.assert_close(moved.nodes["x"]["value"], x)
    # Of the noise itself, in closed form.
    moved.compute_log_prob()
    mean = (contexts @ known.loc.T + known.bias).unsqueeze(-2)
    expected = torch.distributions.Normal(mean, known.scale).log_prob(noise).sum()
    torch.testing.assert_close(moved.nodes["x_base"]["log_prob_sum"], expected)
    assert moved.nodes["x"]["log_prob_sum"] == 0
    plain = total(pyro.condition(model, {"z": z, "x": x}))
    torch.testing.assert_close(moved.log_prob_sum(), plain + log_det.sum())


def banana():
    """`a ~ N(0, 1)`, `b ~ N(a^2, 1/2)`: E b = 1, var b = 2 + 1/4, cov(a, b) = 0, and b - a^2 is independent of a."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    pyro.sample("b", dist.Normal(a.square(), 0.5))


def train(guide, steps, model):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(num_particles=32, vectorize_particles=True))
    for _ in range(steps):
        svi.step()


def make_guide(model):
    def make(dim):
        options = {"num_couplings": 2, "hidden_dims": [16], "activation": "tanh", "num_frequencies": 0}
        return pcf.transforms.coupling_stack(dim, **options).double()

    return AutoNormalizingFlow(model, make)


def test_neutra_reparam_changes_variables():
    """In the warped space the density is that of the model times the Jacobian determinant, as autograd finds it."""
    guide = make_guide(banana)
    train(guide, 20, banana)
    guide.requires_grad_(False)
    neutra = NeuTraReparam(guide)
    warped = neutra.reparam(banana)
    noise = torch.randn(2, dtype=torch.float64)
    trace = poutine.trace(pyro.condition(warped, {"a_shared_latent": noise})).get_trace()
    a, b = guide.transform(noise)
    _, log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(guide.transform, noise))
    assert log_det.abs() > 0.01
    expected = total(pyro.condition(banana, {"a": a, "b": b})) + log_det
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    samples = neutra.transform_sample(noise)
    torch.testing.assert_close((samples["a"], samples["b"]), (a, b))


@pytest.mark.exhaustive
def test_neutra_reparam_with_nuts(known, data):
    """The posterior over the context of one cloud, sampled where a trained stack has made it round."""
    cloud = data[1][3]
    posterior = known.posterior(cloud, MASK[3])

    def model():
        z = pyro.sample("z", prior())
        pyro.sample("x", known.flow.cloud(z, mask=MASK[3]), obs=cloud)

    guide = make_guide(model)
    train(guide, 300, model)
    guide.requires_grad_(False)
    neutra = NeuTraReparam(guide)
    mcmc = MCMC(NUTS(neutra.reparam(model)), num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run()
    z = neutra.transform_sample(mcmc.get_samples()["z_shared_latent"])["z"]
    # In units of the posterior: two independent standard normals.
    a, b = torch.linalg.solve_triangular(posterior.scale_tril, (z - posterior.mean).T, upper=False)
    for moment, mean, variance in ((a, 0, 1), (b, 0, 1), (a.square(), 1, 2), (b.square(), 1, 2), (a * b, 0, 1)):
        size = effective_sample_size(moment.unsqueeze(0)).clamp(max=len(moment))
        assert size > 75
        assert abs(moment.mean() - mean) < 4 * (variance / size).sqrt()

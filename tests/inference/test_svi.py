"""Every ELBO of Pyro on a flow whose evidence and posterior are known in closed form."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.nn import PyroModule, PyroParam
from torch.distributions import MultivariateNormal, constraints, kl_divergence

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate

ELBOS = {
    "trace": Trace_ELBO,
    "mean_field": TraceMeanField_ELBO,
    "graph": TraceGraph_ELBO,
    # The model has nothing to enumerate, which Pyro would warn about.
    "enum": partial(TraceEnum_ELBO, strict_enumeration_warning=False),
    # torch.jit warns about every Python number that it reads off a shape; the option is Pyro's own.
    "jit": partial(JitTrace_ELBO, ignore_jit_warnings=True),
    "renyi": partial(RenyiELBO, alpha=0.5),
}
SIZES = (0, 1, 4)

KNOWN = make_conjugate()
ZERO = torch.zeros(2, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()


@pytest.fixture(scope="module")
def data():
    """Clouds of 0, 1 and 4 points in one batch, shape `(3, 4, 3)`, and their mask."""
    torch.manual_seed(0)
    contexts = torch.randn(len(SIZES), 2, dtype=torch.float64)
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(-1)
    return KNOWN.flow.cloud(contexts, mask=mask).sample(), mask


def prior():
    return dist.Normal(ZERO, 1.0).to_event(1)


def event_model(clouds, mask):
    with pyro.plate("clouds", len(SIZES)):
        z = pyro.sample("z", prior())
        pyro.sample("x", KNOWN.flow.cloud(z, mask=mask), obs=clouds)


def plates_model(clouds, mask):
    with pyro.plate("clouds", len(SIZES), dim=-2):
        z = pyro.sample("z", prior())
        with pyro.plate("points", max(SIZES), dim=-1), poutine.mask(mask=mask):
            pyro.sample("x", KNOWN.flow.condition(z), obs=clouds)


def normal_guide(start, clouds, mask):
    """A normal for each cloud, whose mean and scale are in the parameter store; independent if `start` is."""
    loc = pyro.param("loc", start.mean.clone())
    if isinstance(start, MultivariateNormal):
        scale = pyro.param("scale", start.scale_tril.clone(), constraint=constraints.lower_cholesky)
        q = dist.MultivariateNormal(loc, scale_tril=scale)
    else:
        scale = pyro.param("scale", start.stddev.clone(), constraint=constraints.positive)
        q = dist.Normal(loc, scale).to_event(1)
    with pyro.plate("clouds", len(SIZES), dim=-len(start.batch_shape)):
        pyro.sample("z", q)


def posterior(data, model):
    clouds, mask = data
    # A plate of points needs a dimension of size 1 in its place.
    return KNOWN.posterior(clouds, mask) if model is event_model else KNOWN.posterior(clouds[:, None], mask[:, None])


def log_evidences(data):
    return torch.stack([KNOWN.log_evidence(cloud, mask) for cloud, mask in zip(*data, strict=True)])


def make_elbo(name, **options):
    return ELBOS[name](max_plate_nesting=2, **options)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("model", [event_model, plates_model])
@pytest.mark.parametrize("name", ELBOS)
def test_exact_posterior_gives_the_evidence(data, name, model, vectorize):
    """Without variance: log p(x, z) - log q(z) is the log-evidence wherever z falls."""
    guide = partial(normal_guide, posterior(data, model))
    elbo = make_elbo(name, num_particles=3, vectorize_particles=vectorize)
    evidence = float(log_evidences(data).sum())
    for loss in (elbo.loss, elbo.loss_and_grads, elbo.loss_and_grads):
        assert -loss(model, guide, *data) == pytest.approx(evidence, abs=1e-6)


def wrong_guide(data, model, diagonal):
    exact = posterior(data, model)
    if diagonal:
        return torch.distributions.Independent(torch.distributions.Normal(exact.mean + 0.3, 1.2 * exact.stddev), 1)
    return MultivariateNormal(exact.mean + 0.3, scale_tril=1.2 * exact.scale_tril)


def divergence(q, p):
    """KL(q | p) of two normals, by the textbook."""
    if not isinstance(q, MultivariateNormal):
        q = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return kl_divergence(q, p).sum()


@pytest.mark.parametrize(
    ("vectorize", "diagonal"),
    [
        pytest.param(False, True, id="loop-diagonal", marks=pytest.mark.exhaustive),
        pytest.param(True, False, id="full"),
        pytest.param(True, True, id="diagonal"),
    ],
)
@pytest.mark.parametrize("model", [event_model, plates_model])
@pytest.mark.parametrize("name", [name for name in ELBOS if name != "renyi"])
def test_wrong_guide_gives_the_evidence_minus_kl(data, name, model, vectorize, diagonal):
    """Within four standard errors. Of a diagonal guide `TraceMeanField_ELBO` takes the KL in closed form."""
    q = wrong_guide(data, model, diagonal)
    elbo = make_elbo(name, num_particles=100 if vectorize else 2, vectorize_particles=vectorize)
    estimates = [-elbo.loss_and_grads(model, partial(normal_guide, q), *data) for _ in range(25)]
    estimates = torch.tensor(estimates, dtype=torch.float64)
    expected = log_evidences(data).sum() - divergence(q, posterior(data, model))
    assert abs(estimates.mean() - expected) < 4 * estimates.std() / 5
    assert estimates.std() > 1e-3


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("model", [event_model, plates_model])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_renyi_bound_of_a_wrong_guide(data, alpha, model, vectorize):
    """`exp((1 - alpha) L)` of any number of particles is an unbiased estimate of an integral over normals.

    That of `q^alpha p(x, z)^(1 - alpha)`, which is the evidence for alpha = 0 and, for alpha = 1/2, the root of the
    evidence times the Bhattacharyya coefficient. Pyro bounds each cloud on its own; independent factors multiply.
    """
    q, p = wrong_guide(data, model, False), posterior(data, model)
    log_integral = (1 - alpha) * log_evidences(data).sum()
    if alpha:
        mean = (q.covariance_matrix + p.covariance_matrix) / 2
        distance = MultivariateNormal(q.mean, mean).log_prob(p.mean) - MultivariateNormal(q.mean, mean).log_prob(q.mean)
        log_dets = torch.logdet(mean) - (q.covariance_matrix.logdet() + p.covariance_matrix.logdet()) / 2
        log_integral = log_integral + (distance / 4 - log_dets / 2).sum()
    elbo = RenyiELBO(alpha, num_particles=50 if vectorize else 4, max_plate_nesting=2, vectorize_particles=vectorize)
    losses = [elbo.loss(model, partial(normal_guide, q), *data) for _ in range(49)]
    ratios = (-(1 - alpha) * torch.tensor(losses, dtype=torch.float64) - log_integral).exp()
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / 7
    # A wrong exponent or a lost cloud is off by far more than this.
    assert ratios.std() < 1


@pytest.mark.parametrize("spelling", ["event", "plates"])
def test_enumerated_contexts(data, spelling):
    """Each cloud has one of three contexts, summed out by `TraceEnum_ELBO`."""
    clouds, mask = data
    contexts = torch.randn(3, 2, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    @config_enumerate
    def event():
        with pyro.plate("clouds", len(SIZES), dim=-1):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", KNOWN.flow.cloud(contexts[k], mask=mask), obs=clouds)

    @config_enumerate
    def plates():
        with pyro.plate("clouds", len(SIZES), dim=-2):
            k = pyro.sample("k", dist.Categorical(weights))
            with pyro.plate("points", max(SIZES), dim=-1), poutine.mask(mask=mask):
                pyro.sample("x", KNOWN.flow.condition(contexts[k]), obs=clouds)

    expected = 0.0
    for cloud, kept in zip(clouds, mask, strict=True):
        scores = [sum(KNOWN.flow.log_prob(point, c) for point in cloud[kept]) for c in contexts]
        expected += (weights.log() + torch.tensor(scores)).logsumexp(0)
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    got = -elbo.loss({"event": event, "plates": plates}[spelling], lambda: None)
    assert got == pytest.approx(float(expected), abs=1e-9)


def check_posterior(loc, scale_tril, exact):
    """Within a tenth of a standard deviation; a few hundred noisy steps reach about half of that."""
    assert ((loc - exact.mean).abs() < 0.1 * exact.stddev).all()
    covariance = scale_tril @ scale_tril.mT
    size = exact.stddev.unsqueeze(-1) * exact.stddev.unsqueeze(-2)
    assert ((covariance - exact.covariance_matrix).abs() < 0.1 * size).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("trace", event_model),
        ("trace", plates_model),
        ("jit", event_model),
        *(
            pytest.param(name, event_model, marks=pytest.mark.exhaustive)
            for name in ("renyi", "mean_field", "graph", "enum")
        ),
    ],
)
def test_training_finds_the_posterior(data, name, model):
    exact = posterior(data, model)
    identity = torch.eye(2, dtype=torch.float64).expand_as(exact.scale_tril)
    guide = partial(normal_guide, MultivariateNormal(exact.mean + 1.5, scale_tril=identity))
    # ClippedAdam writes through .data, unseen by the versions of tensors.
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985})
    svi = SVI(model, guide, optimizer, make_elbo(name, num_particles=32, vectorize_particles=True))
    for _ in range(400):
        svi.step(*data)
    check_posterior(pyro.param("loc"), pyro.param("scale"), exact)


def test_training_with_kl_in_closed_form(data):
    """The best independent normal has the posterior's mean and the scale of its conditionals."""
    exact = posterior(data, event_model)
    start = torch.distributions.Independent(torch.distributions.Normal(exact.mean + 1.5, 1.0), 1)
    svi = SVI(
        event_model,
        partial(normal_guide, start),
        pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.98}),
        make_elbo("mean_field", num_particles=32, vectorize_particles=True),
    )
    for _ in range(300):
        svi.step(*data)
    scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    assert ((pyro.param("loc") - exact.mean).abs() < 0.1 * scale).all()
    assert ((pyro.param("scale") / scale).log().abs() < 0.05).all()


def make_flow(context_dim=0):
    flow = pcf.PointCloudFlow(3, context_dim, num_couplings=3, hidden_dims=[8], activation="tanh")
    return pcf.testing.randomize_parameters(flow).double()


def fresh_copy(flow):
    """A flow with the same weights that has never seen a tensor."""
    copy = pcf.PointCloudFlow(**flow.config).double()
    copy.load_state_dict(flow.state_dict())
    return copy


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize(
    "optimizer",
    [
        # It writes through .data, unseen by the versions of tensors.
        pytest.param(pyro.optim.ClippedAdam({"lr": 0.01}), id="clipped_adam"),
        pytest.param(pyro.optim.Adam({"lr": 0.01}), id="adam", marks=pytest.mark.exhaustive),
        pytest.param(pyro.optim.SGD({"lr": 0.001, "momentum": 0.9}), id="sgd", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("name", ["trace", "mean_field", "graph", "enum", "jit"])
def test_steps_on_one_tensor_see_the_new_weights(name, optimizer, context_dim):
    """The loss of every step is that of a fresh copy of the flow, even for its own sample from before the first."""
    flow = make_flow(context_dim)
    context = torch.randn(2, 1, context_dim, dtype=torch.float64) if context_dim else None
    point = flow.condition(context)
    clouds = point.expand([2, 5]).sample()

    def model(clouds):
        pyro.module("flow", flow)
        with pyro.plate("clouds", 2, dim=-2), pyro.plate("points", 5, dim=-1):
            pyro.sample("x", point, obs=clouds)

    svi = SVI(model, lambda clouds: None, optimizer, make_elbo(name))
    losses = []
    for _ in range(4):
        expected = -fresh_copy(flow).condition(context).log_prob(clouds.clone()).sum()
        losses.append(svi.step(clouds))
        assert losses[-1] == pytest.approx(expected.item(), rel=1e-7)
    assert losses[0] > losses[1] > losses[2] > losses[3]


def test_steps_are_those_of_maximum_likelihood():
    """SVI without latent variables leaves the weights that plain torch leaves."""
    flow = make_flow()
    twin = fresh_copy(flow)
    points = torch.randn(20, 3, dtype=torch.float64)

    def model():
        pyro.module("flow", flow)
        with pyro.plate("points", 20):
            pyro.sample("x", flow.condition(), obs=points)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    for _ in range(5):
        svi.step()
        optimizer.zero_grad()
        noise, log_det = twin.transform.inverse_and_log_det(points)
        (-torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum() - log_det.sum()).backward()
        optimizer.step()
    for got, expected in zip(flow.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


class Clouds(PyroModule):
    """A model that owns its flow."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, clouds):
        with pyro.plate("clouds", len(clouds)):
            z = pyro.sample("z", prior())
            pyro.sample("x", self.flow.cloud(z, num_points=clouds.shape[1]), obs=clouds)


class Guide(PyroModule):
    def __init__(self, num_clouds):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.full((num_clouds, 2), 1.5, dtype=torch.float64))
        identity = torch.eye(2, dtype=torch.float64).repeat(num_clouds, 1, 1)
        self.scale_tril = PyroParam(identity, constraints.lower_cholesky)

    def forward(self, clouds):
        with pyro.plate("clouds", len(clouds)):
            pyro.sample("z", dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril))


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True])
def test_elbo_as_a_torch_module_trains_guide_and_flow(local):
    """A torch optimiser finds the evidence's maximum over the mean of the base, and the posterior there.

    Clouds of equal size are exchangeable, so that the bias of the base is the mean of all points in noise space, as
    in a balanced analysis of variance.
    """
    known = make_conjugate(strength=0.3)
    truth = torch.randn(6, 2, dtype=torch.float64)
    clouds = known.flow.cloud(truth, num_points=5).sample()
    noise, _ = known.flow.transform.condition(ZERO).inverse_and_log_det(clouds)
    best = noise.mean((0, 1))
    exact = replace(known, bias=best).posterior(clouds)

    with pyro.settings.context(module_local_params=local):
        bias = known.flow.base.network.bias.requires_grad_()
        with torch.no_grad():
            bias[:3] -= 1.0
        # The scales of the base keep their values, for which alone the answer is known.
        bias.register_hook(lambda gradient: torch.cat([gradient[:3], 0 * gradient[3:]]))
        model, guide = Clouds(known.flow), Guide(6)
        elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)(model, guide)
        assert any(parameter is bias for parameter in elbo.parameters())
        trained = [parameter for parameter in elbo.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
        for _ in range(300):
            optimizer.zero_grad()
            elbo(clouds).backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(bias[:3].detach(), best, rtol=0, atol=0.03)
        check_posterior(guide.loc, guide.scale_tril, exact)
        with torch.no_grad():
            evidence = sum(replace(known, bias=best).log_evidence(cloud) for cloud in clouds)
            assert -elbo(clouds).item() == pytest.approx(float(evidence), abs=0.05)

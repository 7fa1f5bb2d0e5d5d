"""Weights as latents."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.nn import PyroSample

import pyro_pcflow as pcf
from pyro_pcflow.infer import BayesianWeights, fan_in_normal, functional_copy

NOISE = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)


class Shift(torch.nn.Module):
    """A conditioner whose shift is linear in one weight, so that its posterior is known in closed form."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, kept, context=None):
        return (-self.weight * kept.sum(-1, keepdim=True),)


def linear_coupling():
    return pcf.transforms.PointCoupling([True, True, False], pcf.transforms.Additive(), Shift())


def standard(name, parameter):
    return dist.Normal(torch.zeros_like(parameter.detach()), 1.0).to_event(parameter.dim())


def closed_form(cloud):
    """`z = w (x + y) + noise` with `w ~ N(0, 1)`: mean, variance and log evidence of a linear regression."""
    regressor = cloud[:, :2].sum(-1)
    precision = 1 + regressor.square().sum()
    mean = regressor @ cloud[:, 2] / precision
    covariance = torch.eye(len(cloud)).double() + torch.outer(regressor, regressor)
    evidence = dist.MultivariateNormal(torch.zeros(len(cloud)).double(), covariance).log_prob(cloud[:, 2])
    return mean, 1 / precision, evidence + dist.Normal(0.0, 1.0).log_prob(cloud[:, :2]).sum()


WEIGHTS = BayesianWeights(linear_coupling(), standard)


def model(cloud):
    point = dist.TransformedDistribution(NOISE, [WEIGHTS()])
    pyro.sample("cloud", pcf.PointCloud(point, num_points=len(cloud)), obs=cloud)


def planted_cloud():
    cloud = torch.randn(12, 3).double()
    cloud[:, 2] += 0.6 * cloud[:, :2].sum(-1)
    return cloud


def test_joint_density_by_hand():
    cloud = planted_cloud()
    trace = poutine.trace(model).get_trace(cloud)
    weight = trace.nodes["conditioner.weight"]["value"]
    residual = cloud[:, 2] - weight * cloud[:, :2].sum(-1)
    by_hand = (
        dist.Normal(0.0, 1.0).log_prob(weight)
        + dist.Normal(0.0, 1.0).log_prob(cloud[:, :2]).sum()
        + dist.Normal(0.0, 1.0).log_prob(residual).sum()
    )
    torch.testing.assert_close(trace.log_prob_sum(), by_hand)


def test_nuts_over_a_weight_has_the_closed_form():
    cloud = planted_cloud()
    mean, variance, _ = closed_form(cloud)
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(model), num_samples=500, warmup_steps=100, disable_progbar=True)
    chain.run(cloud)
    draws = chain.get_samples()["conditioner.weight"]
    size = chain.diagnostics()["conditioner.weight"]["n_eff"].item()
    assert size > 100
    assert (draws.mean() - mean).abs() < 4 * (variance / size).sqrt()
    assert (draws.var() / variance - 1).abs() < 4 * (2 / size) ** 0.5


def test_svi_over_a_weight_reaches_the_evidence():
    cloud = planted_cloud()
    _, _, evidence = closed_form(cloud)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=4))
    for _ in range(300):
        svi.step(cloud)
    loss = Trace_ELBO(num_particles=200).loss(model, guide, cloud)
    assert -loss == pytest.approx(evidence.item(), abs=0.02)


def test_predictive_draws_clouds_for_each_weight():
    """Var z = 1 + E[w^2] Var(x + y) = 3 under the prior."""

    def generate():
        pyro.sample("cloud", pcf.PointCloud(dist.TransformedDistribution(NOISE, [WEIGHTS()]), num_points=4))

    clouds = Predictive(generate, num_samples=2000)()["cloud"]
    assert clouds.shape == (2000, 4, 3)
    squares = clouds[..., 2].square().mean(-1)
    assert (squares.mean() - 3).abs() < 4 * squares.std() / 2000**0.5


def test_a_whole_flow_and_its_own_priors():
    flow = pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[4], activation="tanh").double()
    before = copy.deepcopy(flow.state_dict())
    weights = BayesianWeights(flow, name="flow")
    last = "transform.parts.1.conditioner.output.bias"
    setattr(weights, last, PyroSample(dist.Normal(torch.full((2,), 5.0).double(), 0.01).to_event(1)))
    context, points = torch.randn(2).double(), torch.randn(7, 3).double()

    def conditional():
        pyro.sample("x", weights().cloud(context, num_points=7), obs=points)

    trace = poutine.trace(conditional).get_trace()
    names = {f"flow.{name}" for name, _ in flow.named_parameters()}
    assert set(trace.stochastic_nodes) == names
    assert (trace.nodes[f"flow.{last}"]["value"] - 5).abs().max() < 0.1
    twin = copy.deepcopy(flow)
    twin.load_state_dict(
        {name: trace.nodes[f"flow.{name}"]["value"] for name, _ in flow.named_parameters()}, strict=False
    )
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob_sum"], twin.cloud(context, num_points=7).log_prob(points))
    assert not list(weights.parameters())
    for name, value in flow.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, before[name]), name


def test_gradients_flow_through_sampled_weights():
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[4], activation="tanh").double()
    pcf.testing.randomize_parameters(flow)
    name = "transform.parts.0.conditioner.hidden.0.weight"
    value = dict(flow.named_parameters())[name].detach().clone().requires_grad_()
    points = torch.randn(5, 3).double()
    assert torch.autograd.gradcheck(lambda w: functional_copy(flow, {name: w}).log_prob(points), (value,))
    torch.testing.assert_close(functional_copy(flow, {name: value}).log_prob(points), flow.log_prob(points))


def test_variance_of_the_usual_prior():
    assert fan_in_normal("w", torch.zeros(16, 4)).base_dist.scale.eq(0.5).all()
    assert fan_in_normal("b", torch.zeros(16)).base_dist.scale.eq(1.0).all()


def test_wrong_weights():
    with pytest.raises(TypeError, match="Module whose weights get priors, got dict"):
        BayesianWeights({"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="event shape"):
        BayesianWeights(torch.nn.Linear(2, 3), lambda name, p: dist.Normal(torch.zeros_like(p), 1.0))
    with pytest.raises(ValueError, match="no parameters nonsense"):
        functional_copy(torch.nn.Linear(2, 3), {"nonsense": torch.zeros(())})

    def batched():
        with pyro.plate("particles", 3):
            WEIGHTS()

    with pytest.raises(ValueError, match="cannot be batched"):
        batched()

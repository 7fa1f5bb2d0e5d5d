"""Mixtures of flows."""

from __future__ import annotations

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate

import pyro_pcflow as pcf
from pyro_pcflow.distributions import MixtureOfFlows, PointMixture

SMALL = {"num_couplings": 2, "hidden_dims": [8], "activation": "tanh"}


def make_mixture(num_flows=3, **options):
    mixture = MixtureOfFlows(num_flows, **{**SMALL, **options})
    return pcf.testing.randomize_parameters(mixture, 0.3).double()


def test_mixture_of_flows_is_the_sum_of_its_flows():
    mixture = make_mixture(context_dim=4)
    mixture.normalize(5 + 2 * torch.randn(50, 3).double())
    contexts, clouds = torch.randn(5, 4).double(), 5 + torch.randn(5, 20, 3).double()
    weights = (mixture.weight_logits + contexts @ mixture.weight_network.weight.T).softmax(-1)
    joint = torch.stack(
        [
            weights[:, k, None] * flow.condition(contexts.unsqueeze(-2)).log_prob(clouds).exp()
            for k, flow in enumerate(mixture.flows)
        ],
        -1,
    )
    torch.testing.assert_close(mixture.log_prob(clouds, contexts.unsqueeze(-2)), joint.sum(-1).log())
    torch.testing.assert_close(
        mixture.condition(contexts.unsqueeze(-2)).responsibilities(clouds), joint / joint.sum(-1, keepdim=True)
    )
    torch.testing.assert_close(mixture.cloud(contexts, num_points=20).log_prob(clouds), joint.sum(-1).log().sum(-1))
    assert weights.std(0).min() > 1e-3


def test_flows_assigned_by_an_enumerated_label():
    """A label that picks one of the K flows, per point and per cloud: the sums over it are those of the mixture."""
    mixture = make_mixture().requires_grad_(False)
    members = mixture.condition()
    clouds = members.sample((4, 6))
    component = torch.stack([flow.condition().log_prob(clouds) for flow in mixture.flows], -1)

    def picked(label):
        return PointMixture(torch.nn.functional.one_hot(label, 3).double().log(), members.components)

    @config_enumerate
    def per_point():
        with pyro.plate("clouds", 4, dim=-2), pyro.plate("points", 6, dim=-1):
            label = pyro.sample("label", dist.Categorical(logits=members.logits))
            pyro.sample("x", picked(label), obs=clouds)

    @config_enumerate
    def per_cloud():
        with pyro.plate("clouds", 4):
            label = pyro.sample("label", dist.Categorical(logits=members.logits))
            pyro.sample("x", pcf.PointCloud(picked(label), num_points=6), obs=clouds)

    joint = {per_point: component + members.logits, per_cloud: component.sum(1) + members.logits}
    for model, plates in ((per_point, 2), (per_cloud, 1)):
        elbo = TraceEnum_ELBO(max_plate_nesting=plates)
        assert -elbo.loss(model, lambda: None) == pytest.approx(joint[model].logsumexp(-1).sum().item())
        marginal = elbo.compute_marginals(model, lambda: None)["label"]
        torch.testing.assert_close(marginal.probs, joint[model].softmax(-1))
    torch.testing.assert_close(members.responsibilities(clouds), joint[per_point].softmax(-1))


@pytest.mark.parametrize("context_dim", [0, 4])
def test_every_parameter_has_a_gradient(context_dim):
    mixture = make_mixture(context_dim=context_dim)
    context = torch.randn(5, 4).double() if context_dim else None
    mixture.log_prob(torch.randn(5, 3).double(), context).sum().backward()
    for name, parameter in mixture.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_expand_plates_and_masks():
    mixture = make_mixture(context_dim=4)
    contexts = torch.randn(5, 4).double()
    wide = mixture.condition(contexts).expand((2, 5))
    assert wide.sample((7,)).shape == (7, 2, 5, 3)
    points = torch.randn(5, 3).double()
    torch.testing.assert_close(wide.log_prob(points), mixture.log_prob(points, contexts).expand(2, 5))
    mask = torch.arange(6) < torch.tensor([0, 1, 3, 5, 6]).unsqueeze(-1)
    clouds = torch.randn(5, 6, 3).double()
    with pyro.plate("clouds", 5):
        got = mixture.cloud(contexts, mask=mask).log_prob(clouds)
    expected = (mixture.log_prob(clouds, contexts.unsqueeze(-2)) * mask).sum(-1)
    torch.testing.assert_close(got, expected)


def test_parts_are_found_without_labels():
    """Two flows trained on two far blobs split them between each other, whichever gets which."""
    torch.manual_seed(1)
    truth = torch.arange(2000) % 2
    points = torch.randn(2000, 3) * 0.3 + torch.where(truth == 0, -2.0, 2.0).unsqueeze(-1)
    mixture = MixtureOfFlows(2, **SMALL)
    pcf.fit(mixture, points, max_steps=300, lr=1e-2, seed=0)
    parts = mixture.condition().responsibilities(points).argmax(-1)
    agreement = (parts == truth).float().mean()
    assert max(agreement, 1 - agreement) > 0.95


def test_a_stray_point_is_no_region():
    points = torch.cat([torch.randn(500, 3), torch.full((1, 3), 1e4)])
    mixture = MixtureOfFlows(2, **SMALL)
    mixture.normalize(points)
    scales = sorted(flow.units.scale.item() for flow in mixture.flows)
    assert scales[0] == pytest.approx(1.0, abs=0.1)
    assert scales[1] == pytest.approx((points - points.mean(0)).square().mean().sqrt().item())


def test_mixture_of_flows_is_saved(tmp_path):
    mixture = make_mixture(context_dim=4, base="conditional")
    pcf.save(mixture, tmp_path / "mixture.pt")
    points, context = torch.randn(5, 3).double(), torch.randn(4).double()
    again = pcf.load(tmp_path / "mixture.pt")
    assert torch.equal(again.log_prob(points, context), mixture.log_prob(points, context))
    assert torch.equal(pickle.loads(pickle.dumps(mixture)).log_prob(points, context), mixture.log_prob(points, context))


def test_a_mask_keeps_padding_out_of_the_regions():
    clouds = torch.randn(4, 50, 3) + torch.tensor([0.0, 9.0, 0.0, 9.0])[:, None, None]
    mask = torch.rand(4, 50) < 0.7
    padded = torch.where(mask.unsqueeze(-1), clouds, torch.tensor(float("nan")))
    mixture, expected = MixtureOfFlows(2, **SMALL), MixtureOfFlows(2, **SMALL)
    mixture.normalize(padded, mask)
    expected.normalize(clouds[mask])
    for flow, other in zip(mixture.flows, expected.flows, strict=True):
        assert torch.equal(flow.units.loc, other.units.loc)
        assert torch.equal(flow.units.scale, other.units.scale)

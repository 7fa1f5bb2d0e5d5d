"""Noise under a flow, as a distribution: what it remembers, and for how long."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.optim import ClippedAdam

import pyro_pcflow as pcf

SMALL = {"num_couplings": 4, "hidden_dims": [8], "activation": "tanh"}


def make_flow(device="cpu", dtype=torch.float64, scale=0.3, seed=0, **options):
    torch.manual_seed(seed)
    flow = pcf.PointCloudFlow(**{**SMALL, **options})
    return pcf.testing.randomize_parameters(flow, scale).to(device=device, dtype=dtype)


def test_samples_come_from_the_density(device):
    """E_p[q / p] = 1, which catches a log-determinant that is wrong by a few hundredths."""
    torch.manual_seed(1)
    flow = make_flow(device, scale=0.2)
    other = dist.Normal(torch.zeros(3, dtype=torch.float64, device=device), 0.7).to_event(1)
    density = flow.condition()
    points = density.sample((200_000,))
    ratio = (other.log_prob(points) - density.log_prob(points.clone())).exp()
    error = ratio.std().item() / len(points) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean().item() - 1) < 4 * error


@pytest.mark.parametrize("base", ["normal", "conditional", "mixture"])
def test_a_distribution_made_before_a_step_has_the_density_after_it(base, device):
    flow = make_flow(device, context_dim=5, base=base)
    context, points = torch.randn(5).double().to(device), torch.randn(9, 3).double().to(device)
    density = flow.condition(context)
    before = density.log_prob(points)
    before.sum().backward()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.sub_(0.05 * parameter.grad)
    after = density.log_prob(points)
    torch.testing.assert_close(after, flow.condition(context).log_prob(points))
    assert (after - before).abs().max() > 0.01
    after.sum().backward()  # through a graph of its own


def test_rsample_gradient_against_finite_differences(device):
    flow = make_flow(device, context_dim=2)

    def mean_square(context):
        torch.manual_seed(3)
        return flow.condition(context).rsample((50,)).square().mean()

    context = torch.randn(2, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(mean_square, context)


def test_log_prob_of_a_fresh_sample_evaluates_no_network(device, dtype, monkeypatch):
    flow = make_flow(device, dtype)
    calls = []
    forward = pcf.nn.Conditioner.forward
    monkeypatch.setattr(
        pcf.nn.Conditioner, "forward", lambda self, *arguments: calls.append(1) or forward(self, *arguments)
    )
    density = flow.condition()
    sample = density.sample((5,))
    assert len(calls) == 4
    with torch.no_grad():
        density.log_prob(sample)
    assert len(calls) == 4
    density.log_prob(sample.clone())
    assert len(calls) == 8


def test_density_follows_pyros_own_optimizer(device, dtype):
    """ClippedAdam writes through `.data`, which no version counter sees."""
    flow = make_flow(device, dtype)
    optimizer = ClippedAdam({"lr": 0.1})
    density = flow.condition()
    points = density.sample((20,))
    (-density.log_prob(points.clone()).mean()).backward()
    with torch.no_grad():
        before = density.log_prob(points)
        optimizer(flow.parameters())
        after = density.log_prob(points)
        torch.testing.assert_close(after, flow.log_prob(points))
    assert (after - before).abs().max() > 0.1


def test_two_steps_on_one_tensor(device, dtype):
    flow = make_flow(device, dtype)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    points = torch.randn(100, 3, device=device, dtype=dtype)
    density, losses = flow.condition(), []
    for _ in range(20):
        loss = -density.log_prob(points).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    torch.testing.assert_close(density.log_prob(points).mean().item(), flow.log_prob(points).mean().item())


def test_views_die_without_the_garbage_collector(device, dtype):
    import gc
    import weakref

    flow = make_flow(device, dtype, context_dim=5)
    points = torch.randn(9, 3, device=device, dtype=dtype)
    gc.disable()
    try:
        density = flow.condition(torch.randn(5, device=device, dtype=dtype, requires_grad=True))
        density.log_prob(points).sum().backward()
        view = weakref.ref(density.transforms[0])
        del density
        assert view() is None
    finally:
        gc.enable()


def test_scored_data_and_its_graph_are_not_kept(device, dtype):
    """A transform remembers for as long as its product lives, and the noise behind a density dies at once."""
    import gc
    import weakref

    flow = make_flow(device, dtype)
    points = torch.randn(9, 3, device=device, dtype=dtype)
    kept = weakref.ref(points)
    gc.disable()
    try:
        flow.condition().log_prob(points)
        del points
        assert kept() is None
        sample = flow.condition().sample((9,))
        assert flow.transform._called.origin is not None
        del sample
        assert flow.transform._called.origin is None
    finally:
        gc.enable()


def test_the_components_of_a_mixture_are_carried_along():
    flow = make_flow(scale=0.05, base="mixture", num_components=3)
    flow.normalize(2 + torch.randn(100, 3).double())
    density = flow.condition()
    torch.manual_seed(0)
    points, labels = density.sample_with_labels((5000,))
    responsibilities = density.responsibilities(points)
    torch.testing.assert_close(
        responsibilities, flow.base.distribution(None).responsibilities(density.transforms[0].inv(points))
    )
    # Calibrated: of the points that belong to a component by a probability, as many come from it.
    error = (torch.nn.functional.one_hot(labels, 3) - responsibilities).mean(0)
    assert error.abs().max() < 5 * 0.5 / 5000**0.5
    with pyro.plate("points", 4):
        assert density.expand((4,)).responsibilities(points[:4]).shape == (4, 3)

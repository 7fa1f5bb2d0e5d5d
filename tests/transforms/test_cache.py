"""What a transform remembers: no density may outlive a change of the sample, and nothing may outlive the sample."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.testing import randomize_parameters

SMALL = {"num_couplings": 3, "hidden_dims": [8]}


def flow_of(**options):
    flow = randomize_parameters(pcf.PointCloudFlow(3, **{**SMALL, **options}))
    flow.normalize(5 + 2 * torch.randn(100, 3))
    return flow


def through_numpy(tensor):
    tensor.detach().numpy().flat[0] += 5


def through_data(tensor):
    tensor.data[(0,) * tensor.dim()] += 5


def by_out_argument(tensor):
    np.add(tensor.detach().numpy(), 5, out=tensor.detach().numpy())


def in_place(tensor):
    with torch.no_grad():
        tensor[(0,) * tensor.dim()] += 5


CHANGES = [through_numpy, through_data, by_out_argument, in_place]
POINTS = {
    "flow": lambda: flow_of().condition(),
    "flow under a context": lambda: flow_of(context_dim=2).condition(torch.randn(4, 2)),
    "base under a context": lambda: flow_of(context_dim=2, base="conditional").condition(torch.randn(4, 2)),
    "mixture": lambda: pcf.MixtureOfFlows(2, 3, **SMALL).condition(),
    "posed flow": lambda: dist.TransformedDistribution(
        flow_of().condition(), [pcf.transforms.similarity(torch.randn(4), torch.randn(3), 2.0)]
    ),
    "one coupling": lambda: dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0).to_event(1), [randomize_parameters(pcf.transforms.affine_point_coupling(3))]
    ),
    "cloud": lambda: pcf.PointCloud(flow_of().condition(), num_points=7),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", POINTS)
def test_the_density_of_a_changed_sample(name, change):
    density = POINTS[name]()
    with torch.no_grad():
        sample = density.sample((5,))
        before = density.log_prob(sample)
        change(sample)
        after = density.log_prob(sample)
        assert torch.equal(after, density.log_prob(sample.clone()))
        assert not torch.equal(after, before)


@pytest.mark.parametrize("change", CHANGES)
def test_the_density_of_a_sample_of_which_a_view_was_changed(change):
    density = flow_of().condition()
    with torch.no_grad():
        sample = density.sample((5, 2))
        change(sample[2:].transpose(0, 1))
        assert torch.equal(density.log_prob(sample), density.log_prob(sample.clone()))


@pytest.mark.parametrize("change", [through_numpy, through_data, in_place])
@pytest.mark.parametrize("given", ["source", "log_det", "context"])
def test_what_a_sample_was_made_of_may_change_too(given, change):
    context = torch.randn(4, 2)
    view = flow_of(context_dim=2).transform.condition(context)
    with torch.no_grad():
        source = torch.randn(4, 3)
        sample = view(source)
        log_det = view.log_abs_det_jacobian(source, sample)
        change({"source": source, "log_det": log_det, "context": context}[given])
        for points in (sample, sample.clone()):
            noise, inverse_log_det = view.cached_inverse(points)
            fresh = view.inverse_and_log_det(points)
            torch.testing.assert_close(noise, fresh[0])
            torch.testing.assert_close(inverse_log_det, fresh[1])
            torch.testing.assert_close(view.inv(points), fresh[0])
            torch.testing.assert_close(view.log_abs_det_jacobian(noise, points), -fresh[1])


def test_points_that_were_frozen_when_they_were_drawn():
    """Frozen weights are thawed, a sample is made a leaf: neither may be answered from where there was no graph."""
    flow = flow_of().requires_grad_(False)
    density = flow.condition()
    sample = density.rsample((5,)).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(sample).sum(), sample)
    assert gradient.abs().min() > 0

    sample = density.rsample((5,))
    flow.requires_grad_(True)
    density.log_prob(sample).sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_a_fresh_sample_still_costs_no_network(monkeypatch):
    flow = flow_of()
    density = flow.condition()
    sample = density.rsample((5,))
    expected = density.log_prob(sample.clone())
    monkeypatch.setattr(flow.transform, "inverse_and_log_det", None)
    torch.testing.assert_close(density.log_prob(sample), expected)


def test_a_sample_that_is_not_finite_is_computed_again():
    flow = flow_of()
    with torch.no_grad():
        broken = flow.transform(torch.full((2, 3), torch.nan))
        assert flow.transform.inv(broken).isnan().all()


def tensors_alive():
    return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)


@pytest.mark.parametrize("grad", [False, True])
def test_a_dead_sample_leaves_nothing(grad):
    """Neither where it came from nor a copy of the parameters, and no garbage collection is needed."""
    flow = flow_of(act_norm=True, lu_linear=True)
    transform = flow.transform
    with torch.set_grad_enabled(grad):
        transform.inv(transform(torch.randn(5, 3)).clone())
        transform.clear_cache()
        gc.collect()
        before = tensors_alive()
        gc.disable()
        try:
            source, data = torch.randn(5, 3), torch.randn(5, 3)
            sample, noise = transform(source), transform.inv(data)
            known = [weakref.ref(tensor) for tensor in (source, data, sample, noise)]
            assert tensors_alive() > before
            del source, data, sample, noise
            assert [ref() for ref in known] == [None] * 4
            assert tensors_alive() == before
        finally:
            gc.enable()


def test_a_transform_that_returns_its_argument_keeps_nothing():
    class Same(pcf.transforms.PointTransform):
        def transform_and_log_det(self, x):
            return x, x.new_zeros(x.shape[:-1])

        inverse_and_log_det = transform_and_log_det

    same, points = Same(3), torch.randn(5, 3)
    same.inv(same(points))
    known = weakref.ref(points)
    del points
    assert known() is None

"""A set of points as one event."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_pcflow as pcf


@pytest.fixture
def flow(device, dtype):
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, 4, num_couplings=3, hidden_dims=[8])
    pcf.testing.randomize_parameters(flow)
    return flow.to(device=device, dtype=dtype)


@pytest.fixture
def contexts(device, dtype):
    torch.manual_seed(1)
    return torch.randn(5, 4, device=device, dtype=dtype)


def test_log_prob_is_the_sum_over_points(flow, contexts, device, dtype):
    clouds = torch.randn(5, 20, 3, device=device, dtype=dtype)
    got = flow.cloud(contexts, num_points=20).log_prob(clouds)
    by_hand = torch.stack(
        [sum(flow.condition(c).log_prob(point) for point in cloud) for c, cloud in zip(contexts, clouds, strict=True)]
    )
    torch.testing.assert_close(got, by_hand)


def test_order_of_points_does_not_matter(flow, contexts, device, dtype):
    clouds = torch.randn(5, 20, 3, device=device, dtype=dtype)
    cloud = flow.cloud(contexts, num_points=20)
    shuffled = clouds[:, torch.randperm(20, device=device)]
    torch.testing.assert_close(cloud.log_prob(shuffled), cloud.log_prob(clouds), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 13, 20])
@pytest.mark.parametrize("garbage", [0.0, 1e30, float("nan"), float("inf")])
def test_padding_equals_the_shorter_cloud(flow, contexts, size, garbage, device, dtype):
    clouds = torch.randn(5, 20, 3, device=device, dtype=dtype)
    expected = flow.cloud(contexts, num_points=size).log_prob(clouds[:, :size])
    padded = clouds.clone()
    padded[:, size:] = garbage
    mask = (torch.arange(20, device=device) < size).expand(5, 20)
    padded.requires_grad_()
    got = flow.cloud(contexts, mask=mask).log_prob(padded)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    if size:
        (gradient,) = torch.autograd.grad(got.sum(), padded)
        assert gradient.isfinite().all()
        assert (gradient[:, size:] == 0).all()


def test_clouds_of_different_sizes_in_one_batch(flow, contexts, device, dtype):
    clouds = torch.randn(5, 6, 3, device=device, dtype=dtype)
    sizes = [0, 1, 3, 5, 6]
    mask = torch.arange(6, device=device) < torch.tensor(sizes, device=device).unsqueeze(-1)
    got = flow.cloud(contexts, mask=mask).log_prob(clouds)
    one_by_one = [
        flow.cloud(c, num_points=size).log_prob(cloud[:size])
        for c, cloud, size in zip(contexts, clouds, sizes, strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(one_by_one), rtol=1e-6, atol=1e-6)
    samples = flow.cloud(contexts, mask=mask).sample((2,))
    assert samples.shape == (2, 5, 6, 3)
    assert (samples[:, ~mask] == 0).all()
    assert (samples[:, mask] != 0).all()


def test_both_pyro_spellings_give_one_density(flow, contexts, device, dtype):
    """A cloud event under a plate of clouds, and a plate of points inside the plate of clouds."""
    clouds = torch.randn(5, 20, 3, device=device, dtype=dtype)

    def as_event():
        with pyro.plate("clouds", 5):
            pyro.sample("x", flow.cloud(contexts, num_points=20), obs=clouds)

    def as_plate():
        with pyro.plate("clouds", 5, dim=-2), pyro.plate("points", 20, dim=-1):
            pyro.sample("x", flow.condition(contexts.unsqueeze(-2)), obs=clouds)

    event, plate = (pyro.poutine.trace(model).get_trace().log_prob_sum() for model in (as_event, as_plate))
    torch.testing.assert_close(event, plate)
    expected = flow.cloud(contexts, num_points=20).log_prob(clouds).sum()
    torch.testing.assert_close(event, expected)


@settings(max_examples=30)
@given(
    batch=st.lists(st.integers(1, 3), max_size=3),
    sample=st.lists(st.integers(1, 3), max_size=2),
    num_points=st.integers(0, 4),
    dim=st.sampled_from([1, 2, 3, 6]),
    masked=st.booleans(),
)
def test_shapes_and_values_for_any_point_distribution(batch, sample, num_points, dim, masked):
    """Against torch's own Independent over an explicit dimension of points."""
    loc = torch.randn(*batch, dim, dtype=torch.float64)
    mask = torch.rand(*batch, num_points) < 0.5 if masked else None
    clouds = pcf.PointCloud(dist.Normal(loc, 2.0).to_event(1), num_points, mask)
    assert clouds.batch_shape == tuple(batch)
    assert clouds.event_shape == (num_points, dim)
    value = clouds.rsample(torch.Size(sample))
    assert value.shape == (*sample, *batch, num_points, dim)
    scores = dist.Normal(loc.unsqueeze(-2), 2.0).log_prob(value)
    if masked:
        scores = scores * mask.unsqueeze(-1)
    torch.testing.assert_close(clouds.log_prob(value), scores.sum((-1, -2)))
    wide = clouds.expand(torch.Size([2, *batch]))
    assert wide.sample().shape == (2, *batch, num_points, dim)
    assert wide.log_prob(value[(0,) * len(sample)]).shape == (2, *batch)


def test_bounded_support_and_masks(device):
    """Padding is taken from the support, where zero would be refused."""
    point = dist.Uniform(torch.ones(3, device=device), 3.0).to_event(1)
    mask = torch.tensor([True, False], device=device)
    cloud = pcf.PointCloud(point, mask=mask)
    value = torch.tensor([[1.5, 2.0, 2.5], [0.0, 0.0, 0.0]], device=device)
    torch.testing.assert_close(cloud.log_prob(value), torch.tensor(-3 * math.log(2), device=device))
    assert cloud.support.event_dim == 2
    with pytest.raises(ValueError, match="support"):
        cloud.log_prob(-value)


def test_rsample_carries_gradients(flow, contexts):
    contexts = contexts.requires_grad_()
    cloud = flow.cloud(contexts, num_points=6)
    assert cloud.has_rsample
    (gradient,) = torch.autograd.grad(cloud.rsample().square().sum(), contexts)
    assert (gradient.abs().sum(-1) > 0).all()
    assert not cloud.sample().requires_grad


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: pcf.PointCloud(torch.zeros(3), 5), TypeError, "Tensor"),
        (lambda: pcf.PointCloud(dist.Normal(torch.zeros(3), 1.0), 5), ValueError, "to_event"),
        (lambda: pcf.PointCloud(normal()), ValueError, "num_points is missing"),
        (lambda: pcf.PointCloud(normal(), -1), ValueError, "negative"),
        (lambda: pcf.PointCloud(normal(), 5, torch.ones(5)), TypeError, "float32"),
        (lambda: pcf.PointCloud(normal(), 5, torch.ones(4, dtype=torch.bool)), ValueError, r"\(\*batch, 5\)"),
        (
            lambda: pcf.PointCloud(normal(2), 5, torch.ones(3, 5, dtype=torch.bool)),
            ValueError,
            "does not fit clouds",
        ),
        (lambda: pcf.PointCloud(normal(), 5).log_prob(torch.zeros(4, 3)), ValueError, r"\(\*batch, 5, 3\)"),
        (lambda: pcf.PointCloud(normal(), 5).log_prob(torch.zeros(5, 2)), ValueError, r"\(\*batch, 5, 3\)"),
        (
            lambda: pcf.PointCloud(normal(), 2).log_prob(torch.full((2, 3), float("nan"))),
            ValueError,
            "support|invalid",
        ),
    ],
)
def test_wrong_use_is_told(act, error, words):
    with pytest.raises(error, match=words):
        act()


def normal(*batch):
    return dist.Normal(torch.zeros(*batch, 3), 1.0).to_event(1)

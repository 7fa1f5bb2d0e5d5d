"""Wrong use is told before any network runs: what was given, what was expected, what to do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf

MASK = torch.ones(4, 5, dtype=torch.bool)
POINTS = torch.zeros(4, 5, 3)
CONTEXTS = torch.zeros(4, 2)
NAN, INF = float("nan"), float("inf")


def spoiled(value, index):
    points = POINTS.clone()
    points[index] = value
    return points


@pytest.fixture(autouse=True)
def _no_network_runs(monkeypatch):
    def forward(self, *arguments):
        raise AssertionError("a network ran before the mistake was told")

    monkeypatch.setattr(pcf.nn.Conditioner, "forward", forward)


@pytest.fixture
def flow():
    return pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[4])


@pytest.fixture
def plain():
    return pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[4])


def test_the_guard_of_this_file_bites(flow):
    with pytest.raises(AssertionError, match="a network ran"):
        flow.cloud(CONTEXTS, num_points=5).log_prob(POINTS)


@pytest.mark.parametrize("entry", ["condition", "cloud", "log_prob", "trajectory"])
@pytest.mark.parametrize(
    ("context", "error", "words"),
    [
        (None, TypeError, r"needs a context of shape \(\*batch, 2\), got none"),
        ([0.0, 0.0], TypeError, r"expected a context as a torch.Tensor, got list"),
        (torch.zeros(4, 3), ValueError, r"context of shape \(\*batch, 2\), got a tensor of shape \(4, 3\)"),
        (torch.zeros(()), ValueError, r"context of shape \(\*batch, 2\), got a tensor of shape \(\)"),
    ],
)
def test_context(flow, entry, context, error, words):
    act = {
        "condition": lambda: flow.condition(context),
        "cloud": lambda: flow.cloud(context, num_points=5),
        "log_prob": lambda: flow.log_prob(POINTS, context),
        "trajectory": lambda: flow.trajectory(5, context),
    }[entry]
    with pytest.raises(error, match=words):
        act()


def test_context_for_a_flow_without_one(plain):
    for act in (
        lambda: plain.condition(CONTEXTS),
        lambda: plain.cloud(CONTEXTS, num_points=5),
        lambda: plain.log_prob(POINTS, CONTEXTS),
    ):
        with pytest.raises(ValueError, match=r"context_dim=0.*leave it out, or build the flow with context_dim"):
            act()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ValueError, "num_points is missing"),
        ({"num_points": -1}, ValueError, "must not be negative, got -1"),
        ({"num_points": 4.5}, ValueError, "whole number, got 4.5"),
        ({"mask": MASK, "num_points": 6}, ValueError, r"mask of shape \(\*batch, 6\), got \(4, 5\)"),
        ({"mask": MASK[:3]}, ValueError, r"mask of shape \(3, 5\).*batch shape \(4,\).*broadcasts to \(4, 5\)"),
        ({"mask": torch.tensor(True)}, ValueError, r"mask of shape \(\*batch, num_points\), got one of shape \(\)"),
        ({"mask": MASK.float()}, TypeError, r"booleans.*got torch.float32; torch.as_tensor\(mask, dtype=torch.bool\)"),
        ({"mask": MASK.long()}, TypeError, "booleans.*got torch.int64"),
        ({"mask": MASK.tolist()}, TypeError, "booleans.*got list"),
    ],
)
def test_number_of_points_and_mask(flow, options, error, words):
    with pytest.raises(error, match=words):
        flow.cloud(CONTEXTS, **options)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (POINTS[..., :2], ValueError, r"points of shape \(\*batch, 3\), got a tensor of shape \(4, 5, 2\)"),
        (torch.zeros(()), ValueError, r"points of shape \(\*batch, 3\), got a tensor of shape \(\)"),
        (POINTS.tolist(), TypeError, r"torch.Tensor of shape \(\*batch, 3\), got list; torch.as_tensor makes one"),
    ],
)
def test_points(flow, plain, value, error, words):
    for act in (
        lambda: flow.condition(CONTEXTS).log_prob(value),
        lambda: flow.log_prob(value, CONTEXTS),
        lambda: plain.condition().log_prob(value),
        lambda: plain.log_prob(value),
    ):
        with pytest.raises(error, match=words):
            act()


def test_points_that_do_not_broadcast_with_the_contexts(flow):
    words = r"batch shape \(4, 5\) do not broadcast with contexts of batch shape \(4,\).*context.unsqueeze\(-2\)"
    for act in (
        lambda: flow.condition(CONTEXTS).log_prob(POINTS),
        lambda: flow.log_prob(POINTS, CONTEXTS),
        lambda: flow.condition(CONTEXTS).transforms[0].inv(POINTS),
    ):
        with pytest.raises(ValueError, match=words):
            act()


def test_points_that_do_not_broadcast_with_an_expanded_density(plain):
    with pytest.raises(ValueError, match="not broadcastable"):
        plain.condition().expand((4,)).log_prob(torch.zeros(7, 3))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (POINTS[..., :2], ValueError, r"clouds of shape \(\*batch, 5, 3\), got a tensor of shape \(4, 5, 2\)"),
        (POINTS[:, :3], ValueError, r"clouds of shape \(\*batch, 5, 3\), got a tensor of shape \(4, 3, 3\).*5 points"),
        (torch.zeros(3), ValueError, r"clouds of shape \(\*batch, 5, 3\), got a tensor of shape \(3,\)"),
        (POINTS[:3], ValueError, r"batch shape \(3,\) do not broadcast.*batch shape \(4,\).*one cloud per context"),
        (POINTS.tolist(), TypeError, r"clouds as a torch.Tensor of shape \(\*batch, 5, 3\), got list"),
    ],
)
@pytest.mark.parametrize("options", [{"num_points": 5}, {"mask": MASK}])
def test_clouds(flow, options, value, error, words):
    with pytest.raises(error, match=words):
        flow.cloud(CONTEXTS, **options).log_prob(value)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("index", [(0, 0, 0), (3, 4, 2), (slice(None), 2)])
def test_points_that_are_not_finite(flow, plain, bad, index):
    points = spoiled(bad, index)
    words = "expected finite points.*NaN or infinite coordinates: drop such points, or mark them as padding"
    for act in (
        lambda: flow.condition(CONTEXTS.unsqueeze(-2)).log_prob(points),
        lambda: plain.condition().log_prob(points),
        lambda: flow.cloud(CONTEXTS, num_points=5).log_prob(points),
        lambda: flow.cloud(CONTEXTS, mask=MASK).log_prob(points),
        lambda: pyro.poutine.trace(observe).get_trace(flow, points).log_prob_sum(),
    ):
        with pytest.raises(ValueError, match=words):
            act()


def observe(flow, clouds):
    with pyro.plate("clouds", 4):
        context = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", flow.cloud(context, num_points=5), obs=clouds)


def test_a_bad_point_counts_only_where_the_mask_has_it(flow):
    """The network runs, so that the mistake was not told, if and only if the bad point is padding."""
    for bad_is_padding, error in ((True, AssertionError), (False, ValueError)):
        mask = MASK.clone()
        mask[3, 4] = not bad_is_padding
        with pytest.raises(error):
            flow.cloud(CONTEXTS, mask=mask).log_prob(spoiled(NAN, (3, 4)))


def test_without_validation_nothing_looks_at_values(flow):
    with pyro.validation_enabled(False), pytest.raises(AssertionError, match="a network ran"):
        flow.cloud(CONTEXTS, num_points=5).log_prob(spoiled(NAN, (0, 0)))
    # Shapes are told all the same.
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=r"\(\*batch, 5, 3\)"):
        flow.cloud(CONTEXTS, num_points=5).log_prob(POINTS[:, :3])


def test_a_point_distribution_that_is_none():
    with pytest.raises(TypeError, match=r"got PointCloudFlow; .*flow.condition\(context\)"):
        pcf.PointCloud(pcf.PointCloudFlow(3, num_couplings=1, hidden_dims=[4]), 5)
    with pytest.raises(ValueError, match=r"event shape \(D,\), got event shape \(\); .to_event\(1\)"):
        pcf.PointCloud(dist.Normal(torch.zeros(3), 1.0), 5)

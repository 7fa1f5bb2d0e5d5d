"""Priors over poses."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value

import pyro_pcflow as pcf
from pyro_pcflow.infer import pose_of, sample_pose
from pyro_pcflow.transforms import rotation_matrix, similarity

SPREAD = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
SITES = ("quaternion_offset", "translation", "scale")
THING = dist.Normal(torch.zeros(3).double(), SPREAD).to_event(1)


def test_sites_and_their_densities():
    def model():
        with pyro.plate("clouds", 5):
            return sample_pose(
                "p",
                around=torch.tensor([2.0, 0.0, 0.0, 0.0]),
                spread=0.1,
                translation=dist.Normal(torch.zeros(3), 2.0).to_event(1),
                scale=dist.LogNormal(0.0, 0.3),
            )

    trace = poutine.trace(model).get_trace()
    pose = trace.nodes["_RETURN"]["value"]
    assert pose.batch_shape == (5,)
    value = {
        name: trace.nodes[f"p_{name}"]["value"] for name in ("quaternion_offset", "rotation", "translation", "scale")
    }
    quaternion = value["quaternion_offset"] + torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert torch.equal(value["rotation"], rotation_matrix(quaternion))
    assert torch.equal(pose.rotation, value["rotation"])
    by_hand = (
        dist.Normal(0.0, torch.tensor([0.1, 0.05, 0.05, 0.05])).log_prob(value["quaternion_offset"]).sum()
        + dist.Normal(0.0, 2.0).log_prob(value["translation"]).sum()
        + dist.LogNormal(0.0, 0.3).log_prob(value["scale"]).sum()
    )
    torch.testing.assert_close(trace.log_prob_sum(), by_hand)
    x = torch.randn(5, 3)
    expected = value["scale"].unsqueeze(-1) * (value["rotation"] @ x.unsqueeze(-1)).squeeze(-1) + value["translation"]
    torch.testing.assert_close(pose(x), expected)


def test_sites_are_there_only_with_a_prior():
    trace = poutine.trace(lambda: sample_pose(around=torch.tensor([0.0, 1.0]))).get_trace()
    assert [name for name in trace.nodes if name.startswith("pose")] == ["pose_quaternion_offset", "pose_rotation"]
    assert trace.nodes["_RETURN"]["value"].point_dim == 2


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_spread_of_rotations_near_one(size, spread):
    """The rotation that is left after the mean one is undone has angles of the given standard deviation."""
    around = torch.randn(size).double()

    def poses():
        with pyro.plate("draws", 100_000):
            return sample_pose(around=3 * around, spread=spread)

    left = rotation_matrix(around).mT @ poses().rotation
    axes = [(1, 0)] if size == 2 else [(1, 0), (2, 0), (2, 1)]
    for i, j in axes:
        assert (left[:, i, j].std() / spread - 1).abs() < 0.02
        assert left[:, i, j].mean().abs() < 4 * spread / 100_000**0.5


@pytest.mark.parametrize("spread", [0.2, None])
def test_guides_start_at_the_rotation_to_start_from(spread):
    """Pyro's guides begin at zero, which must be a rotation with finite gradients."""
    around = torch.randn(4)

    def model():
        pose = sample_pose(around=around, spread=spread)
        pyro.sample("x", dist.Normal(pose.rotation, 1.0).to_event(2), obs=torch.zeros(3, 3))

    guide = AutoDelta(model)
    loss = Trace_ELBO().differentiable_loss(model, guide)
    torch.testing.assert_close(guide.median()["pose_quaternion_offset"], torch.zeros(4))
    gradients = torch.autograd.grad(loss, list(guide.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def model(scan):
    pose = sample_pose(
        around=torch.tensor([1.0, 0.0, 0.0, 0.0]).double(),
        translation=dist.Normal(torch.zeros(3).double(), 1.0).to_event(1),
        scale=dist.LogNormal(torch.zeros(()).double(), 0.3),
    )
    pyro.sample("scan", pcf.PointCloud(dist.TransformedDistribution(THING, [pose]), num_points=len(scan)), obs=scan)


@pytest.mark.exhaustive
def test_posterior_of_a_pose_against_importance_sampling():
    """NUTS over rotation, translation and scale, against self-normalised importance sampling.

    The object is a Gaussian of three different widths, so that half turns about its axes are rotations with the same
    density: the squares of the entries of the rotation do not tell them apart.
    """
    pyro.set_rng_seed(0)
    truth = similarity(
        torch.tensor([0.8, 0.3, -0.4, 0.2]).double(),
        torch.tensor([0.3, -0.2, 0.1]).double(),
        torch.tensor(1.2).double(),
    )
    scan = truth(THING.sample((60,)))
    start = {
        "pose_quaternion_offset": torch.tensor([-0.2, 0.3, -0.4, 0.2]).double(),
        "pose_translation": torch.zeros(3).double(),
        "pose_scale": torch.tensor(1.0).double(),
    }
    kernel = NUTS(model, init_strategy=init_to_value(values=start))
    chain = MCMC(kernel, num_samples=800, warmup_steps=200, disable_progbar=True)
    chain.run(scan)
    draws = chain.get_samples()
    quaternion = draws["pose_quaternion_offset"] + torch.tensor([1.0, 0.0, 0.0, 0.0]).double()

    def quantities(quaternion, translation, scale):
        return torch.cat([rotation_matrix(quaternion).square().flatten(-2), translation, scale.unsqueeze(-1)], -1)

    got = quantities(quaternion, draws["pose_translation"], draws["pose_scale"])

    # The proposal is a wide Student fitted to the chain; the weights alone decide what comes out.
    flat = torch.cat([quaternion, draws["pose_translation"], draws["pose_scale"].log().unsqueeze(-1)], -1)
    half = torch.linalg.cholesky(1.5 * flat.T.cov() + 1e-9 * torch.eye(8).double())
    proposal = dist.MultivariateStudentT(torch.tensor(5.0).double(), flat.mean(0), half)
    tries = proposal.sample((200_000,))
    quaternion, translation, log_scale = tries.split([4, 3, 1], -1)
    log_scale = log_scale.squeeze(-1)
    log_joint = (
        dist.LogNormal(0.0, 0.1).log_prob(quaternion.norm(dim=-1))
        - 3 * quaternion.norm(dim=-1).log()
        + dist.Normal(0.0, 1.0).log_prob(translation).sum(-1)
        + dist.Normal(0.0, 0.3).log_prob(log_scale)
    )
    centred = (scan - translation.unsqueeze(-2)) @ rotation_matrix(quaternion) / log_scale.exp()[:, None, None]
    log_joint += dist.Normal(0.0, SPREAD).log_prob(centred).sum((-1, -2)) - 60 * 3 * log_scale
    weights = (log_joint - proposal.log_prob(tries)).softmax(0)
    effective = 1 / weights.square().sum()
    assert effective > 2000
    expected_values = quantities(quaternion, translation, log_scale.exp())
    expected = (weights.unsqueeze(-1) * expected_values).sum(0)
    deviation = (weights.unsqueeze(-1) * (expected_values - expected).square()).sum(0).sqrt()
    size = torch.stack([pyro.ops.stats.effective_sample_size(q.unsqueeze(0)) for q in got.T])
    error = deviation * (1 / size + 1 / effective).sqrt()
    assert ((got.mean(0) - expected).abs() < 4 * error).all()
    assert (size > 100).all()
    assert (got.std(0) / deviation - 1).abs().max() < 0.2


@pytest.mark.parametrize("around", [None, torch.tensor([0.5, -1.0, 2.0, 0.3]).double()])
def test_poses_of_draws(around):
    """Of a chain, which has no deterministic sites, and of `Predictive`, which has."""

    def model():
        pose = sample_pose(
            "p",
            around=around,
            spread=0.5,
            translation=dist.Normal(torch.zeros(3).double(), 1.0).to_event(1),
            scale=dist.LogNormal(torch.zeros(()).double(), 0.3),
        )
        pyro.sample("x", dist.Normal(pose.translation, 1.0).to_event(1), obs=torch.ones(3).double())

    drawn = Predictive(model, num_samples=5, return_sites=[f"p_{n}" for n in (*SITES, "rotation")])()
    pose = pose_of(drawn, "p", around=around)
    torch.testing.assert_close(pose.rotation, drawn["p_rotation"], check_dtype=False)
    assert torch.equal(pose.translation, drawn["p_translation"])
    assert torch.equal(pose.scale, drawn["p_scale"].to(pose.scale))
    chain = MCMC(NUTS(model, max_tree_depth=2), num_samples=3, warmup_steps=2, disable_progbar=True)
    chain.run()
    samples = chain.get_samples()
    assert "p_rotation" not in samples
    assert pose_of(samples, "p", around=around).batch_shape == (3,)
    again = Predictive(model, samples, return_sites=["p_rotation"])()
    torch.testing.assert_close(pose_of(samples, "p", around=around).rotation, again["p_rotation"], check_dtype=False)


def test_poses_of_draws_without_a_prior_of_places():
    pose = pose_of({"pose_quaternion_offset": torch.zeros(5, 2)}, around=torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(pose.rotation, torch.tensor([[0.0, -1.0], [1.0, 0.0]]).expand(5, 2, 2))
    assert pose.translation.tolist() == [0.0, 0.0]
    assert pose.scale == 1


def test_wrong_draws():
    with pytest.raises(ValueError, match=r"site 'pose_quaternion_offset', which .*, got a, b"):
        pose_of({"b": torch.zeros(1), "a": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds 2 numbers and around 4: give the around"):
        pose_of({"pose_quaternion_offset": torch.zeros(5, 2)})


def test_wrong_priors():
    with pytest.raises(ValueError, match=r"quaternion as a tensor of 4 numbers .*, got shape \(3,\)"):
        sample_pose(around=torch.ones(3))
    with pytest.raises(ValueError, match=r"quaternion as a tensor .*, got list"):
        sample_pose(around=[1.0, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="translations of event shape"):
        sample_pose(translation=dist.Normal(torch.zeros(3), 1.0))
    with pytest.raises(ValueError, match="one scale"):
        sample_pose(scale=dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
    with pytest.raises(ValueError, match="positive spread"):
        sample_pose(spread=0.0)

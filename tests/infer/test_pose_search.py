"""Steps of the search for poses against direct computations, and the search itself."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from helpers.posed_objects import BRACKET, ELLIPSOID, random_pose, scan_of
from pyro_pcflow.infer.pose_search import Poses, _match, search_poses, weighted_alignment
from pyro_pcflow.transforms import rotation_matrix, rotation_vector


def some_poses(count, scale=1.3):
    return Poses(
        rotation_matrix(torch.randn(count, 4).double()),
        torch.randn(count, 3).double(),
        torch.full((count,), scale).double(),
    )


def test_matches_are_those_of_a_mixture_of_normals():
    """Responsibilities, their means, and the log-likelihood, by torch's own mixtures of the posed points."""
    pyro.set_rng_seed(0)
    points, scan, poses = torch.randn(7, 3).double(), torch.randn(11, 3).double(), some_poses(4)
    blur, volume = torch.tensor(0.4).double(), torch.tensor(20.0).double()
    shares, matched, spread, log_likelihood = _match(points, scan, poses, blur, 0.1, volume)
    for index in range(4):
        placed = poses.scale[index] * points @ poses.rotation[index].T + poses.center[index]
        parts = dist.Normal(placed, blur * poses.scale[index]).to_event(1)
        joint = parts.log_prob(scan.unsqueeze(1)) - math.log(7)
        log_object = joint.logsumexp(-1) + math.log(0.9)
        total = torch.logaddexp(log_object, torch.tensor(0.1 / 20).double().log())
        torch.testing.assert_close(log_likelihood[index], total.sum())
        torch.testing.assert_close(shares[index], (log_object - total).exp())
        weights = joint.softmax(-1)
        torch.testing.assert_close(matched[index], weights @ points)
        torch.testing.assert_close(spread[index], weights @ points.square().sum(-1))


@pytest.mark.parametrize("fit_scale", [False, True])
def test_alignment_of_exact_matches(fit_scale):
    """Points that weigh nothing may lie anywhere; a scale is found, or kept."""
    pyro.set_rng_seed(0)
    poses, points = some_poses(5), torch.randn(5, 20, 3).double()
    scan = torch.randn(24, 3).double()
    pose = random_pose(scale=1.3)
    scan[:20] = pose(points[0])
    matched = torch.cat([points[:1].expand(5, 20, 3), torch.randn(5, 4, 3).double()], 1)
    shares = (torch.arange(24) < 20).double().expand(5, 24) * torch.linspace(0.2, 1.0, 24)
    start = Poses(poses.rotation, poses.center, torch.full((5,), 0.7 if fit_scale else 1.3).double())
    found = weighted_alignment(shares, matched, matched.square().sum(-1), scan, start, fit_scale=fit_scale)
    torch.testing.assert_close(found.rotation, pose.rotation.expand(5, 3, 3))
    torch.testing.assert_close(found.center, pose.translation.expand(5, 3))
    torch.testing.assert_close(found.scale, torch.full((5,), 1.3).double())


def test_alignment_is_never_a_mirror_image():
    pyro.set_rng_seed(0)
    points = torch.randn(1, 30, 3).double()
    mirrored = points[0] * torch.tensor([1.0, 1.0, -1.0]).double()
    found = weighted_alignment(
        torch.ones(1, 30).double(), points, points.square().sum(-1), mirrored, some_poses(1), fit_scale=True
    )
    torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones(1).double())


@pytest.mark.parametrize("scale", [None, 1.4])
def test_the_pose_of_a_bracket_is_found_first(scale):
    """Among outliers, up to the width of the last blur; no other pose is left that is near it."""
    pyro.set_rng_seed(1)
    pose = random_pose(scale or 1.0)
    scan = scan_of(BRACKET, pose, 200, num_outliers=20)
    points = BRACKET.sample((1024,))
    middle = points.mean(0)
    starts = Poses(
        rotation_matrix(torch.randn(256, 4).double()),
        scan.median(0).values.expand(256, 3),
        torch.ones(256).double() if scale is None else 0.8 + 1.2 * torch.rand(256).double(),
    )
    found = search_poses(points - middle, scan, starts, 0.1, fit_scale=scale is not None)
    angle = rotation_vector(pose.rotation.mT @ found.rotation).norm(dim=-1)
    assert angle[0] < math.radians(6)
    assert (found.center[0] - pose(middle)).norm() < 0.1
    assert (angle < 0.03).sum() <= 1
    if scale is not None:
        assert abs(found.scale[0] / scale - 1) < 0.06


def test_all_poses_of_an_ellipsoid_are_found():
    pyro.set_rng_seed(0)
    pose = random_pose()
    points = ELLIPSOID.sample((1024,))
    starts = Poses(
        rotation_matrix(torch.randn(256, 4).double()), pose.translation.expand(256, 3), torch.ones(256).double()
    )
    found = search_poses(points, scan_of(ELLIPSOID, pose, 300), starts, 0.02, fit_scale=False)
    own = torch.diag_embed(torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double())
    images = pose.rotation @ own
    angle = rotation_vector(images.mT.unsqueeze(1) @ found.rotation).norm(dim=-1)
    assert (angle.amin(1) < math.radians(15)).all()

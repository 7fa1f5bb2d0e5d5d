"""The posterior over poses in tangent spaces: its parts against direct computations."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from helpers.posed_objects import BRACKET, ELLIPSOID, random_pose, scan_of
from pyro_pcflow.infer.pose_posterior import PosePosterior, PosePrior
from pyro_pcflow.infer.pose_search import Poses
from pyro_pcflow.transforms import rotation_from_vector

FULL = PosePrior(
    around=torch.eye(3).double(),
    spread=0.8,
    translation=dist.Normal(torch.ones(3).double(), 3.0).to_event(1),
    scale=dist.LogNormal(torch.zeros(()).double(), 0.2),
    outlier_probability=dist.Beta(torch.tensor(2.0).double(), 9.0),
)
BARE = PosePrior()


def posterior_at(pose, scan, prior, *, thing=BRACKET, temper=1.0, observe=None, origin=(0.0, 0.0, 0.0)):
    """Around one true pose."""
    middle = torch.tensor([0.2, 0.1, -0.3]).double()
    poses = Poses(pose.rotation[None], pose(middle)[None], pose.scale[None])
    logit = torch.tensor([-2.0]).double()
    origin = torch.tensor(origin).double()
    return PosePosterior(thing, scan - origin, origin, middle, prior, observe, temper, _shifted(poses, origin), logit)


def _shifted(poses, origin):
    return Poses(poses.rotation, poses.center - origin, poses.scale)


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (0.5, -1.0, 2.0)])
def test_height_by_hand(origin):
    """Prior and likelihood of coordinates, from their definitions, wherever the scan is counted from."""
    pyro.set_rng_seed(0)
    pose = random_pose(1.2)
    scan = scan_of(BRACKET, pose, 40, num_outliers=4)
    posterior = posterior_at(pose, scan, FULL, temper=0.5, origin=origin)
    coordinates = 0.1 * torch.randn(6, 1, 8).double()
    value, log_likelihood = posterior(coordinates)
    for row, got, got_likelihood in zip(coordinates[:, 0], value[:, 0], log_likelihood[:, 0], strict=True):
        turn, shift, factor, change = row[:3], row[3:6], row[6].exp(), row[7]
        rotation, scale = pose.rotation @ rotation_from_vector(turn), pose.scale * factor
        middle = posterior.middle
        translation = pose(middle) + shift - scale * rotation @ middle
        share = (change - 2.0).sigmoid()
        own = BRACKET.log_prob((scan - translation) @ rotation / scale) - 3 * scale.log()
        volume = (scan.amax(0) - scan.amin(0)).prod()
        expected_likelihood = torch.logaddexp(own + (-share).log1p(), (share / volume).log()).sum()
        angle = turn.norm()
        log_prior = (
            torch.log(2 * (1 - angle.cos()) / angle.square())
            - 0.5 * _angle(rotation) ** 2 / 0.8**2
            + FULL.translation.log_prob(translation)
            + FULL.scale.log_prob(scale)
            + scale.log()
            + FULL.outlier_probability.log_prob(share)
            + (share * (1 - share)).log()
        )
        torch.testing.assert_close(got_likelihood, expected_likelihood)
        torch.testing.assert_close(got, log_prior + 0.5 * expected_likelihood)


def _angle(rotation):
    return ((rotation.diagonal().sum() - 1) / 2).acos()


def test_rotations_are_uniform_without_a_likelihood():
    """Half of the coordinates' mass within one turn and a half, as of uniform rotations: (a - sin a) / pi."""
    posterior = posterior_at(random_pose(), scan_of(BRACKET, random_pose(), 10), BARE)
    angles = torch.linspace(1e-3, 2 * math.pi - 1e-3, 2001).double()
    coordinates = torch.zeros(2001, 1, 6).double()
    coordinates[:, 0, 0] = angles
    value, log_likelihood = posterior(coordinates)
    poses, _ = posterior.place(coordinates)
    low, high = posterior.scan.amin(0), posterior.scan.amax(0)
    flat = value - log_likelihood - dist.Normal((low + high) / 2, (high - low).max()).log_prob(poses.center).sum(-1)
    density = angles.square() * flat.squeeze(-1).exp() * math.pi * 4
    mass = density.cumsum(0) / density.sum()
    torch.testing.assert_close(mass, (angles - angles.sin()) / (2 * math.pi), rtol=0, atol=2e-3)
    beyond = torch.zeros(1, 1, 6).double()
    beyond[..., 0] = 6.4
    assert posterior(beyond)[0].item() == -math.inf


def test_moving_and_coordinates_undo_each_other():
    pyro.set_rng_seed(0)
    posterior = posterior_at(random_pose(), scan_of(BRACKET, random_pose(), 10), FULL)
    coordinates = 0.3 * torch.randn(1, 8).double()
    moved = posterior.moved(coordinates)
    torch.testing.assert_close(posterior.coordinates_of(moved), coordinates.unsqueeze(0))
    torch.testing.assert_close(moved.coordinates_of(moved), torch.zeros(1, 1, 8).double(), rtol=0, atol=1e-6)


def test_climbing_ends_where_the_slope_is_zero():
    pyro.set_rng_seed(0)
    pose = random_pose(1.1)
    posterior = posterior_at(pose, scan_of(BRACKET, pose, 200, num_outliers=10), FULL)
    begin = posterior.moved(0.05 * torch.randn(1, 8).double())
    end = begin.climbed(40)
    assert end.height() > begin.height() + 10
    root, _ = end.laplace()
    slope = root[0].T @ end._gradient(end._zero)[0]
    assert slope.norm() < 0.2  # per standard deviation: so near that the height changes by 0.02


def test_laplace_is_exact_for_a_quadratic_height():
    """The curvature of the translation of a Gaussian object, whose rotation is known, and its integral."""
    pyro.set_rng_seed(0)
    pose = random_pose()
    scan = scan_of(ELLIPSOID, pose, 50)
    prior = PosePrior(
        around=pose.rotation, spread=1e-5, translation=dist.Normal(torch.zeros(3).double(), 2.0).to_event(1)
    )
    posterior = posterior_at(pose, scan, prior, thing=ELLIPSOID)
    posterior = PosePosterior(**(vars(posterior) | {"middle": torch.zeros(3).double()})).climbed(60)
    widths = torch.tensor([0.2, 0.5, 1.0]).double()
    precision = pose.rotation @ torch.diag(50 / widths**2) @ pose.rotation.T + torch.eye(3).double() / 4
    root, log_mass = posterior.laplace()
    covariance = (root @ root.mT)[0]
    torch.testing.assert_close(covariance[3:, 3:], precision.inverse(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(covariance[:3, :3].diagonal(), torch.full((3,), 1e-10).double(), rtol=1e-2, atol=0)
    expected = posterior.height() + 3 * math.log(2 * math.pi) + 0.5 * torch.linalg.slogdet(covariance)[1]
    torch.testing.assert_close(log_mass, expected)


def test_outliers_are_told_from_the_object():
    pyro.set_rng_seed(0)
    pose = random_pose()
    posterior = posterior_at(pose, scan_of(BRACKET, pose, 100, num_outliers=20), FULL)
    found = posterior.outliers(torch.zeros(2, 1, 8).double())
    assert found.shape == (120,)
    assert found[:100].mean() < 0.1
    assert found[100:].median() > 0.9
    assert posterior_at(pose, scan_of(BRACKET, pose, 9), BARE).outliers(torch.zeros(1, 1, 6).double()).sum() == 0

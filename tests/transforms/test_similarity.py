"""Rotations, and poses as transforms."""

from __future__ import annotations

import pickle

import pyro.distributions as dist
import pytest
import torch
from scipy.spatial.transform import Rotation

import pyro_pcflow as pcf
from pyro_pcflow.transforms import Similarity, rotation_from_vector, rotation_matrix, rotation_vector, similarity


def random_pose(batch=(), dim=3):
    quaternion = torch.randn(*batch, 4 if dim == 3 else 2, dtype=torch.float64)
    return similarity(quaternion, torch.randn(*batch, dim, dtype=torch.float64), 0.5 + torch.rand(batch).double())


def test_rotation_of_space_is_scipys():
    quaternion = torch.randn(50, 4, dtype=torch.float64)
    expected = torch.as_tensor(Rotation.from_quat(quaternion.numpy(), scalar_first=True).as_matrix())
    torch.testing.assert_close(rotation_matrix(quaternion), expected)
    torch.testing.assert_close(rotation_matrix(-3 * quaternion), expected)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 1.0, 3.0, torch.pi - 1e-7])
def test_rotation_vectors_are_scipys(angle):
    axes = torch.randn(50, 3, dtype=torch.float64)
    vectors = angle * axes / axes.norm(dim=-1, keepdim=True)
    expected = torch.as_tensor(Rotation.from_rotvec(vectors.numpy()).as_matrix())
    torch.testing.assert_close(rotation_from_vector(vectors), expected)
    torch.testing.assert_close(rotation_vector(expected), vectors, rtol=1e-7, atol=1e-12)


def test_half_turns_have_a_vector_each_way():
    """Where the antisymmetric part of a rotation is zero, and each number of the quaternion is the largest in turn."""
    for axis in torch.eye(3, dtype=torch.float64):
        half = rotation_from_vector(torch.pi * axis)
        torch.testing.assert_close(rotation_vector(half).abs(), torch.pi * axis, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slope_of_rotations_at_no_turn(dtype):
    """The generators: a turn about the first axis moves the second to the third."""
    slope = torch.autograd.functional.jacobian(rotation_from_vector, torch.zeros(3, dtype=dtype))
    expected = torch.zeros(3, 3, 3, dtype=dtype)
    for i, j, k in [(2, 1, 0), (0, 2, 1), (1, 0, 2)]:
        expected[i, j, k], expected[j, i, k] = 1, -1
    torch.testing.assert_close(slope, expected)


def test_wrong_rotation_vectors():
    with pytest.raises(ValueError, match=r"rotation vector of 3 numbers, got a tensor of shape \(2,\)"):
        rotation_from_vector(torch.zeros(2))
    with pytest.raises(ValueError, match=r"rotations of shape \(\*batch, 3, 3\), got \(3,\)"):
        rotation_vector(torch.zeros(3))


def test_rotation_of_the_plane_turns_by_its_angle():
    angle = torch.linspace(-3, 3, 7, dtype=torch.float64)
    turned = rotation_matrix(2 * torch.stack([angle.cos(), angle.sin()], -1)) @ torch.tensor([1.0, 0.0]).double()
    torch.testing.assert_close(torch.atan2(turned[:, 1], turned[:, 0]), angle)


def test_normal_versors_give_uniform_rotations():
    """Of a uniform rotation every entry has mean 0 and variance 1/3, and the angle has density (1 - cos a) / pi."""
    count = 100_000
    rotations = rotation_matrix(torch.randn(count, 4, dtype=torch.float64))
    assert (rotations.mean(0).abs() < 4 * (1 / 3 / count) ** 0.5).all()
    assert ((rotations.square().mean(0) - 1 / 3).abs() < 4 * (4 / 45 / count) ** 0.5).all()
    angle = ((rotations.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos()
    grid = torch.linspace(0.2, 3.0, 15, dtype=torch.float64)
    expected = (grid - grid.sin()) / torch.pi
    got = (angle.unsqueeze(-1) < grid).double().mean(0)
    assert ((got - expected).abs() < 4 * 0.5 / count**0.5).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_density_against_the_jacobian(dim):
    pose = random_pose(dim=dim)
    point = dist.Normal(torch.zeros(dim).double(), 0.3 + torch.rand(dim).double()).to_event(1)
    posed = dist.TransformedDistribution(point, [pose])
    for y in torch.randn(3, dim, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda y: pose.inv(y), y)
        expected = point.log_prob(pose.inv(y)) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(posed.log_prob(y), expected)
        torch.testing.assert_close(pose(pose.inv(y).clone()), y)


def test_posed_normal_is_a_normal():
    """R diag(s^2) R^T, scaled and shifted: the closed form of a posed Gaussian, for several poses at once."""
    pose = random_pose((5,))
    spread = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    posed = dist.TransformedDistribution(dist.Normal(torch.zeros(3).double(), spread).to_event(1), [pose])
    stretched = pose.scale[:, None, None] * pose.rotation * spread
    expected = dist.MultivariateNormal(pose.translation, stretched @ stretched.mT)
    points = torch.randn(7, 5, 3, dtype=torch.float64)
    assert posed.batch_shape == (5,)
    torch.testing.assert_close(posed.log_prob(points), expected.log_prob(points))


def test_poses_broadcast_as_contexts_do():
    flow = pcf.PointCloudFlow(3, 4, num_couplings=2, hidden_dims=[8]).double()
    pose = random_pose((6, 1))
    posed = dist.TransformedDistribution(flow.condition(torch.randn(5, 4).double()), [pose])
    assert posed.batch_shape == (6, 5)
    clouds = pcf.PointCloud(posed, num_points=20)
    sample = clouds.sample((2,))
    assert sample.shape == (2, 6, 5, 20, 3)
    by_hand = torch.stack(
        [
            flow.log_prob(
                ((sample[:, i] - pose.translation[i]) @ pose.rotation[i, 0]) / pose.scale[i],
                posed.base_dist.transforms[0].context.unsqueeze(-2),
            ).sum(-1)
            - 20 * 3 * pose.scale[i].log()
            for i in range(6)
        ],
        1,
    )
    torch.testing.assert_close(clouds.log_prob(sample), by_hand)


def test_gradients_reach_the_pose():
    points = torch.randn(9, 3, dtype=torch.float64)
    point = dist.Normal(torch.zeros(3).double(), torch.tensor([0.2, 0.5, 1.0]).double()).to_event(1)

    def density(quaternion, translation, scale):
        return dist.TransformedDistribution(point, [similarity(quaternion, translation, scale)]).log_prob(points).sum()

    leaves = [torch.randn(n, dtype=torch.float64).abs().requires_grad_() for n in (4, 3)]
    assert torch.autograd.gradcheck(density, (*leaves, torch.tensor(1.3, dtype=torch.float64, requires_grad=True)))


def test_pickles_after_use():
    pose = random_pose()
    points = torch.randn(4, 3, dtype=torch.float64)
    image = pose(points)
    torch.testing.assert_close(pickle.loads(pickle.dumps(pose))(points), image)


def test_wrong_poses():
    with pytest.raises(ValueError, match="orthogonal"):
        Similarity(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"\(\*batch, D, D\)"):
        Similarity(torch.ones(3, 2))
    with pytest.raises(ValueError, match="positive scale"):
        Similarity(torch.eye(3), scale=-1.0)
    with pytest.raises(ValueError, match="last dimension"):
        Similarity(torch.eye(3), translation=torch.zeros(2))
    with pytest.raises(ValueError, match="do not broadcast"):
        Similarity(torch.eye(3), translation=torch.zeros(4, 3), scale=torch.ones(5))
    with pytest.raises(ValueError, match="quaternion"):
        rotation_matrix(torch.ones(3))
    with pytest.raises(ValueError, match="3 coordinates"):
        dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [Similarity(torch.eye(3))])

"""Stacks whose units have an origin: points in float64 around couplings in float32, on every backend."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.transforms.backend import HAS_KERNELS

T = pcf.transforms
MAP = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)


def cube(*shape, seed=0):
    return torch.rand(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5


def make_stack(context_dim=0, coupling="affine", backend="auto", origin=True):
    torch.manual_seed(0)
    stack = T.coupling_stack(
        3, num_couplings=4, hidden_dims=[16], context_dim=context_dim, coupling=coupling, backend=backend
    )
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    units = T.standardize(3)
    units.fit(MAP + cube(1000) if origin else cube(1000).float())
    stack.parts.append(units)
    return stack


@pytest.mark.parametrize("backend", ["plain", "tiled", "auto"] if HAS_KERNELS else ["plain"])
@pytest.mark.parametrize("coupling", ["affine", "cubic"])
def test_it_is_the_stack_of_the_same_points_about_zero(backend, coupling):
    far, near = (make_stack(coupling=coupling, backend=backend, origin=origin) for origin in (True, False))
    points = cube(50, seed=1).float()
    noise, log_det = far.inverse_and_log_det(MAP + points)
    assert noise.dtype == log_det.dtype == torch.float32
    expected, expected_log_det = near.inverse_and_log_det(points)
    torch.testing.assert_close(noise, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-4, atol=1e-4)
    again, forward = far.transform_and_log_det(noise)
    assert again.dtype == torch.float64
    assert forward.dtype == torch.float32
    torch.testing.assert_close(again, near.transform_and_log_det(noise)[0].double() + MAP, rtol=0, atol=1e-6)
    assert float((again.detach() - (MAP + points)).abs().max()) < 1e-3


def test_gradients_are_those_of_float64():
    far = make_stack()
    reference = copy.deepcopy(far).double()
    points = (MAP + cube(20, seed=1)).requires_grad_()
    for parts in zip(far.inverse_and_log_det(points), reference.inverse_and_log_det(points), strict=True):
        grads = [torch.autograd.grad(part.square().sum(), points, retain_graph=True)[0] for part in parts]
        assert grads[0].dtype == torch.float64
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-3)
    noise = torch.randn(20, 3)
    y, log_det = far.transform_and_log_det(noise.requires_grad_())
    ((y - MAP).square().sum() + log_det.sum()).backward()
    exact = noise.detach().double().requires_grad_()
    y, log_det = reference.transform_and_log_det(exact)
    ((y - MAP).square().sum() + log_det.sum()).backward()
    torch.testing.assert_close(noise.grad.double(), exact.grad, rtol=1e-3, atol=1e-3)


def test_a_context_of_each_cloud():
    stack = make_stack(context_dim=2)
    view = stack.condition(torch.randn(4, 1, 2))
    clouds = view(torch.randn(4, 10, 3))
    assert clouds.dtype == torch.float64
    noise, log_det = view.inverse_and_log_det(clouds)
    torch.testing.assert_close(view(noise), clouds, rtol=0, atol=1e-4)
    assert log_det.shape == (4, 10)


def test_cache_and_trajectory():
    stack = make_stack()
    noise = torch.randn(20, 3)
    points = stack(noise)
    assert stack.inv(points) is noise
    assert stack.log_abs_det_jacobian(noise, points).dtype == torch.float32
    stack.parts[-1].fit(MAP + 100 + cube(1000))
    assert not torch.allclose(stack.inv(points), noise)
    assert torch.equal(stack.trajectory(noise)[-1], stack(noise))


def test_a_pose_between_map_and_scan():
    """In float64, in which a rotation about the far zero of the map keeps its digits."""
    stack = make_stack()
    normal = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
    point = dist.TransformedDistribution(normal, [stack])
    turn = T.rotation_from_vector(torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64))
    pose = T.Similarity(turn, translation=-(turn @ MAP), scale=2.0)
    posed = dist.TransformedDistribution(point, [pose])
    points = MAP + cube(10, seed=1)
    torch.testing.assert_close(
        posed.log_prob(pose(points)),
        point.log_prob(points).double() - 3 * torch.log(torch.tensor(2.0).double()),
        rtol=1e-4,
        atol=1e-4,
    )

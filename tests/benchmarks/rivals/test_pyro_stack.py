"""Pyro's couplings as a density: a reference with a wrong log-determinant would be no reference."""

from __future__ import annotations

import torch

import pyro_pcflow as pcf
from benchmarks.rivals.pyro_stack import PyroStack


def test_pyros_stack_has_the_density_that_autograd_computes():
    torch.manual_seed(0)
    stack = PyroStack(3, num_couplings=4, hidden_dims=[8]).double()
    stack.normalize(5 + 3 * torch.randn(100, 3, dtype=torch.float64))
    transforms = stack.condition().transforms

    def to_noise(point):
        for transform in reversed(transforms):
            point = transform.inv(point)
        return point

    point = 5 + 3 * torch.randn(3, dtype=torch.float64)
    _, log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(to_noise, point))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(point)).sum() + log_det
    torch.testing.assert_close(stack.log_prob(point), expected, rtol=1e-8, atol=1e-8)


def test_pyros_stack_has_the_one_unit_of_our_flow():
    points = 5 + torch.randn(500, 3) * torch.tensor([1.0, 2.0, 0.5])
    stack, ours = PyroStack(3, num_couplings=1, hidden_dims=[8]), pcf.PointCloudFlow(3, num_couplings=1)
    stack.normalize(points)
    ours.normalize(points)
    torch.testing.assert_close(stack.loc, ours.units.loc)
    torch.testing.assert_close(stack.scale, ours.units.scale.expand(3))

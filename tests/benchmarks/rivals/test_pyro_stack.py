"""Pyro's couplings as a density: a reference with a wrong log-determinant would be no reference."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rivals.pyro_stack import COUPLINGS, PyroStack


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_pyros_stack_has_the_density_that_autograd_computes(coupling):
    torch.manual_seed(0)
    stack = PyroStack(3, num_couplings=4, hidden_dims=[8], coupling=coupling).double()
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

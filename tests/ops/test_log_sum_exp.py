"""The log-sum-exp of a product of matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_pcflow.ops import log_sum_exp
from pyro_pcflow.ops.log_sum_exp import log_sum_exp_of_product


def make(groups=2, rows=5, inner=4, columns=3):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(groups, rows, inner, generator=generator, dtype=torch.float64, requires_grad=True)
    right = torch.randn(groups, inner, columns, generator=generator, dtype=torch.float64, requires_grad=True)
    return left, right


@given(st.integers(1, 4), st.integers(0, 9), st.integers(1, 7), st.integers(1, 40))
def test_any_block_gives_the_whole(groups, rows, columns, block):
    left, right = make(groups, rows, columns=columns)
    before = log_sum_exp.BLOCK_ON_CPU
    try:
        log_sum_exp.BLOCK_ON_CPU = block
        got = log_sum_exp_of_product(left, right, torch.float64)
        gradients = torch.autograd.grad(got.square().sum(), (left, right))
    finally:
        log_sum_exp.BLOCK_ON_CPU = before
    expected = (left @ right).logsumexp(-1)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), (left, right)))


def test_gradients_and_second_derivatives():
    def function(left, right):
        return log_sum_exp_of_product(left, right, torch.float64)

    assert torch.autograd.gradcheck(function, make())
    assert torch.autograd.gradgradcheck(function, make())


@pytest.mark.parametrize("of_left", [True, False])
@pytest.mark.parametrize("create_graph", [True, False])
def test_only_what_needs_a_gradient(of_left, create_graph):
    left, right = (x.detach().requires_grad_(needs) for x, needs in zip(make(), (of_left, not of_left), strict=True))
    source = left if of_left else right
    got = torch.autograd.grad(
        log_sum_exp_of_product(left, right, torch.float64).sum(), source, create_graph=create_graph
    )
    expected = torch.autograd.grad((left @ right).logsumexp(-1).sum(), source)
    torch.testing.assert_close(got, expected)


def test_a_single_precision_exponential_of_large_terms():
    left, right = make()
    left, right = (1e4 * left).detach(), right.detach()
    got, expected = log_sum_exp_of_product(left, right, torch.float32), (left @ right).logsumexp(-1)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_vectorized_maps_take_the_whole():
    left, right = make()
    got = torch.vmap(lambda x: log_sum_exp_of_product(x, right, torch.float64))(torch.stack([left, 2 * left]))
    torch.testing.assert_close(got[1], (2 * left @ right).logsumexp(-1))


def test_the_product_is_never_whole():
    """Neither pass makes a tensor as large as a share of the product."""
    left, right = (torch.randn(1, *shape).double().requires_grad_() for shape in ((20_000, 10), (10, 1024)))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        log_sum_exp_of_product(left, right, torch.float32).sum().backward()
    assert largest == left.numel()

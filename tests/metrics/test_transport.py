"""Entropic optimal transport by Sinkhorn's iterations, against POT."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from helpers.brute_force import (
    degenerate_pairs,
    distances,
    real_clouds,
)
from pyro_pcflow.metrics import emd, sinkhorn
from pyro_pcflow.metrics.transport import log_sum_exp

PAIRS = degenerate_pairs()
POWERS = {"euclidean": 1, "squared": 2}


def tensors(pair, dtype=torch.float64, device="cpu"):
    return [torch.tensor(cloud, dtype=dtype, device=device) for cloud in pair]


def sinkhorn_by_pot(x, y, epsilon, power=1, iterations=3000):
    weights = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    options = {"method": "sinkhorn_log", "numItermax": iterations, "stopThr": 1e-13, "warn": False}
    return ot.sinkhorn(*weights, distances(x, y) ** power, epsilon, **options)


@pytest.mark.parametrize("cost", POWERS)
@pytest.mark.parametrize("name", PAIRS)
def test_sinkhorn_agrees_with_pot(name, cost, device):
    x, y = PAIRS[name]
    table = distances(x, y) ** POWERS[cost]
    epsilon = 0.2 * max(table.mean(), 0.1)
    plan = sinkhorn_by_pot(x, y, epsilon, POWERS[cost])
    value = sinkhorn(*tensors((x, y), device=device), epsilon, 2000, cost)
    assert value.item() == pytest.approx((plan * table).sum(), rel=1e-5, abs=1e-9)


def test_sinkhorn_of_real_clouds_of_unequal_size():
    x, y = real_clouds(2, 120)
    y = y[:90]
    plan = sinkhorn_by_pot(x, y, 0.05)
    assert sinkhorn(x, y, 0.05, 1000).item() == pytest.approx((plan * distances(x, y)).sum(), rel=1e-5)


def entropic_optimum(x, y, epsilon):
    """`<P, C> + epsilon KL(P | a b)` at POT's plan."""
    plan, table = sinkhorn_by_pot(x, y, epsilon), distances(x, y)
    there = plan > 0
    return (plan * table).sum() + epsilon * (plan[there] * np.log(plan[there] * plan.size)).sum()


@pytest.mark.parametrize("sizes", [(12, 12), (12, 8)])
def test_the_divergence_is_made_of_optima(sizes):
    x, y = (cloud[:size] for cloud, size in zip(PAIRS["random"], sizes, strict=True))
    expected = entropic_optimum(x, y, 0.3) - (entropic_optimum(x, x, 0.3) + entropic_optimum(y, y, 0.3)) / 2
    assert sinkhorn(*tensors((x, y)), 0.3, 3000, debiased=True).item() == pytest.approx(expected, rel=1e-5)


def test_a_smaller_epsilon_comes_nearer_to_the_exact_matching():
    x, y = tensors(PAIRS["random"])
    exact = emd(x, y).item()
    gaps = [sinkhorn(x, y, epsilon, 4000).item() - exact for epsilon in (1.0, 0.3, 0.1, 0.03, 0.01)]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 <= gaps[-1] < 1e-3 * exact


def test_sinkhorn_in_float32_with_a_small_epsilon_does_not_underflow():
    x, y = real_clouds(2, 64)
    value = sinkhorn(x, y, 1e-4, 500)
    assert value.item() == pytest.approx(sinkhorn(x.double(), y.double(), 1e-4, 500).item(), rel=1e-3)


@pytest.mark.parametrize("dim", [-1, -2])
def test_sums_without_terms_that_underflow_are_the_sums(dim):
    exponents = -torch.logspace(-3, 4, 400, dtype=torch.float64)[torch.randperm(400)].reshape(20, 20)
    exponents[3, 4] = exponents[11, 2] = -torch.inf
    assert log_sum_exp(torch.full((3, 3), -torch.inf), dim).tolist() == [-torch.inf] * 3
    exponents.requires_grad_()
    expected = exponents.logsumexp(dim)
    for found in (log_sum_exp(exponents, dim), log_sum_exp(exponents.detach().clone(), dim)):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    weights = torch.randn(20, dtype=torch.float64)
    (want,) = torch.autograd.grad(expected @ weights, exponents)
    (got,) = torch.autograd.grad(log_sum_exp(exponents, dim) @ weights, exponents)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-20)

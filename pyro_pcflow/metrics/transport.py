"""Entropic optimal transport between clouds by Sinkhorn's iterations: an approximation to the exact matching."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from pyro_pcflow.metrics.pairs import (
    LEAST_EXPONENT,
    MATRIX_ENTRIES,
    CloudPairs,
    Cost,
    check_choice,
    cost_matrix,
    pair_clouds,
)

__all__ = ["log_sum_exp", "sinkhorn"]


def sinkhorn(
    x: Tensor,
    y: Tensor,
    epsilon: float,
    iterations: int = 100,
    cost: Cost = "euclidean",
    *,
    debiased: bool = False,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """An approximation to optimal transport between clouds, smoothed by entropy. It is not the earth mover's distance.

    With `P` a transport plan between the uniform weights `a` and `b` of the clouds and `C_ij = c(x_i, y_j)`:

        P = argmin of  <P, C> + epsilon KL(P | a b)                                        (Cuturi 2013)

    By default the result is `<P, C>`, which is no less than `emd` once the iterations have converged, and tends to it
    as `epsilon` tends to 0. With `debiased`, it is the Sinkhorn divergence (Feydy et al. 2019)

        S(x, y) = OT(x, y) - (OT(x, x) + OT(y, y)) / 2,        OT = min of <P, C> + epsilon KL(P | a b)

    which is zero between equal clouds. The iterations are in the log domain: a small epsilon does not underflow.
    A small epsilon needs many of them, about in proportion to `max C / epsilon`; there is no test of convergence: the
    result is that of exactly `iterations`, and before convergence it is neither bounded by `emd` nor symmetric.
    Differentiable, through the iterations.

    Memory: without gradients some 48 MiB of float32, or six matrices of N x M for one pair, whichever is more. With
    gradients, about 6 such matrices for every iteration and pair of the batch.

    Args:
        x: (*batch, N, D) of float32 or float64.
        y: (*batch, M, D); batch shapes broadcast, M need not be N.
        epsilon: strength of the entropy, in the units of the cost, a positive number.
        iterations: updates of both potentials.
        cost: `"euclidean"`, in the data's units, or `"squared"`.
        debiased: return the Sinkhorn divergence.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, M) boolean.

    Returns:
        (*batch,), in the dtype of the clouds. A pair with a NaN or an infinity in a cloud has the distance NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: an epsilon or a number of iterations that is not positive, an unknown cost, different dimensions or
            devices, an empty cloud, or a wrong mask.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(2, 64, 3, dtype=torch.float64)
        >>> from pyro_pcflow.metrics import emd
        >>> bool(emd(x, y) < sinkhorn(x, y, epsilon=0.05, iterations=500))
        True
        >>> sinkhorn(x, x, epsilon=0.05, debiased=True)
        tensor(0., dtype=torch.float64)
    """
    check_choice(cost, get_args(Cost), "cost")
    if not (isinstance(epsilon, (int, float)) and 0 < epsilon < math.inf):
        raise ValueError(f"epsilon: expected a positive number in the units of the cost, got {epsilon!r}")
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations: expected a whole number of at least 1, got {iterations!r}")
    pairs = pair_clouds(x, y, x_mask, y_mask)
    largest = max(pairs.x.shape[1], pairs.y.shape[1]) ** 2 if debiased else pairs.x.shape[1] * pairs.y.shape[1]
    block = max(1, MATRIX_ENTRIES // largest)
    values = [
        _transport(pairs, slice(first, first + block), epsilon, iterations, cost, debiased)
        for first in range(0, len(pairs.x), block)
    ]
    return pairs.finish(torch.cat(values) if values else pairs.x.new_zeros(0))


def _transport(pairs: CloudPairs, some: slice, epsilon: float, iterations: int, cost: Cost, debiased: bool) -> Tensor:
    x, y = pairs.x[some], pairs.y[some]
    log_a, log_b = _log_weights(pairs.x_mask[some], x.dtype), _log_weights(pairs.y_mask[some], x.dtype)
    if not debiased:
        costs = cost_matrix(x, y, cost)
        f, g = _potentials(costs / epsilon, log_a, log_b, iterations)
        plan = (f.unsqueeze(-1) + g.unsqueeze(-2) - costs / epsilon).exp()
        return (plan * costs).sum((-1, -2))

    def value(one: Tensor, other: Tensor, log_one: Tensor, log_other: Tensor) -> Tensor:
        f, g = _potentials(cost_matrix(one, other, cost) / epsilon, log_one, log_other, iterations)
        # After an update of g the plan has unit mass, so the dual is <a, f> + <b, g> without a further term. The
        # logarithms of the weights are in f and g, and minus infinity where a mask leaves a point out.
        left = torch.where(log_one.isfinite(), log_one.exp() * (f - log_one), 0.0).sum(-1)
        right = torch.where(log_other.isfinite(), log_other.exp() * (g - log_other), 0.0).sum(-1)
        return epsilon * (left + right)

    return value(x, y, log_a, log_b) - (value(x, x, log_a, log_a) + value(y, y, log_b, log_b)) / 2


def _log_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(mask, -mask.sum(-1, keepdim=True).to(dtype).log(), -torch.inf)


def _potentials(scaled: Tensor, log_a: Tensor, log_b: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """`f / epsilon + log a` and `g / epsilon + log b`, from costs divided by epsilon."""
    g = log_b
    for _ in range(iterations):
        f = log_a - log_sum_exp(g.unsqueeze(-2) - scaled, -1)
        g = log_b - log_sum_exp(f.unsqueeze(-1) - scaled, -2)
    return f, g


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """`values.logsumexp(dim)`, without the terms that underflow, which make it several times as slow on a CPU.

    Args:
        values: numbers, overwritten where they need no gradient.
        dim: the dimension that is summed over.

    Examples:
        >>> log_sum_exp(torch.tensor([0.0, 0.0, -1000.0]), 0)
        tensor(0.6931)
    """
    least = values.detach().amax(dim, keepdim=True) + LEAST_EXPONENT
    return (values.clamp(min=least) if values.requires_grad else values.clamp_(min=least)).logsumexp(dim)

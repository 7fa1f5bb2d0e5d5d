"""The earth mover's distance (EMD) by exact optimal matching, and the approximate matching that papers call EMD."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.kernels.cpu.clouds import PackedClouds
from pyro_pcflow.metrics.pairs import (
    LEAST_EXPONENT,
    MATRIX_ENTRIES,
    CloudPairs,
    Cost,
    check_choice,
    cost_matrix,
    pair_clouds,
)

__all__ = ["ApproximateEMD", "approximate_emd", "approximate_matching", "emd", "matched_emd"]

_SCIPY_METRIC = {"euclidean": "euclidean", "squared": "sqeuclidean"}
ApproximateEMD = Literal["pointflow", "pvd", "lion"]

# Sharpness of the weights, from near to far.
_LEVELS = tuple(-(4.0**power) for power in range(7, -2, -1))
# The last level of the publication hands out what is left at any distance.
_ALL_LEVELS = (*_LEVELS, 0.0)
# The published code keeps divisors away from zero by this.
_TINY = 1e-9


class _Variant(NamedTuple):
    cost: Cost
    levels: tuple[float, ...]


# PointFlow's loop ends one level early (`j > -2` for `j >= -2`, with the latter kept as a comment).
_VARIANTS = {
    "pointflow": _Variant("euclidean", _LEVELS),
    "pvd": _Variant("squared", _ALL_LEVELS),
    "lion": _Variant("squared", _ALL_LEVELS),
}


def emd(
    x: Tensor,
    y: Tensor,
    cost: Cost = "euclidean",
    *,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """The earth mover's distance between clouds: the mean distance of a point to its partner in the best matching.

    With `s` running over all matchings of the points of x to those of y, one to one:

        emd(x, y) = min over s of  1/N sum_i c(x_i, y_s(i)),        c(p, q) = |p - q|  or  |p - q|^2

    With the Euclidean cost this is the 1-Wasserstein distance between the clouds, a metric, in the data's units; with
    the squared cost it is the square of the 2-Wasserstein distance. The matching is exact, by shortest augmenting paths
    (Jonker and Volgenant, 1987) in float64, on the CPU: compiled, or of scipy where there is no compiler; its time
    grows with the cube of N. What PointFlow calls EMD is an approximation to the first, what PVD and LION call EMD an
    approximation to the second: see `approximate_emd`.

    Differentiable almost everywhere: the gradient holds the matching fixed.

    Memory: for each of torch's threads, a matrix of N x N float32 for the pair at hand, or 16 MiB at 2048 points, and
    for few pairs one of float64, too.

    Args:
        x: (*batch, N, D) of float32 or float64.
        y: (*batch, N, D); batch shapes broadcast.
        cost: `"euclidean"` or `"squared"`.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, N) boolean, with as many points as the x of the same pair.

    Returns:
        (*batch,), in the dtype of the clouds. A pair with a NaN or an infinity in a cloud has the distance NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: different numbers of points, an unknown cost, different dimensions or devices, an empty cloud, or a
            wrong mask.

    Examples:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> emd(x, y)  # (3 + 0) / 2
        tensor(1.5000)
        >>> emd(x, y, cost="squared")
        tensor(4.5000)
    """
    return matched_emd(pair_clouds(x, y, x_mask, y_mask), cost, torch.get_num_threads())


def matched_emd(pairs: CloudPairs, cost: Cost, num_threads: int, limits: np.ndarray | None = None) -> Tensor:
    """`emd` of pairs that were checked before, by a number of threads.

    With limits (B,), a pair whose distance is above its limit may have any number between both in its place.
    """
    check_choice(cost, get_args(Cost), "cost")
    pairs.require_equal_counts("emd")
    matches, bounds = _match(pairs, cost, num_threads, limits)
    index = torch.from_numpy(matches).to(pairs.x.device)
    difference = pairs.x - pairs.y.gather(1, index.unsqueeze(-1).expand(-1, -1, pairs.y.shape[-1]))
    distances = difference.square().sum(-1) if cost == "squared" else torch.linalg.vector_norm(difference, dim=-1)
    values = torch.where(pairs.x_mask, distances, 0.0).sum(-1) / pairs.x_mask.sum(-1)
    if limits is not None:
        values = torch.where(
            torch.from_numpy(bounds > limits).to(values.device), torch.from_numpy(bounds).to(values), values
        )
    return pairs.finish(values)


def _match(pairs: CloudPairs, cost: Cost, num_threads: int, limits: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Partners (B, N), and lower bounds (B,) of the distances: those of pairs above a limit have no partners."""
    x, y, x_mask, y_mask = (tensor.detach().cpu().numpy() for tensor in (pairs.x, pairs.y, pairs.x_mask, pairs.y_mask))
    if kernel.available():
        return _match_compiled(PackedClouds.of(x, x_mask), PackedClouds.of(y, y_mask), cost, num_threads, limits)
    index = np.zeros(x_mask.shape, dtype=np.int64)

    def solve(pair: int) -> None:
        ours, theirs = np.flatnonzero(x_mask[pair]), np.flatnonzero(y_mask[pair])
        with np.errstate(over="ignore"):
            costs = cdist(x[pair, ours], y[pair, theirs], _SCIPY_METRIC[cost])
        # Costs that overflow have no best matching, and every one is infinitely dear.
        columns = linear_sum_assignment(costs)[1] if np.isfinite(costs).all() else np.arange(len(ours))
        index[pair, ours] = theirs[columns]

    if num_threads == 1 or len(index) == 1:
        for pair in range(len(index)):
            solve(pair)
    else:
        # The solver lets go of the interpreter's lock.
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(solve, range(len(index))))
    return index, np.full(len(index), -np.inf)


def _match_compiled(
    x: PackedClouds, y: PackedClouds, cost: Cost, num_threads: int, limits: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.arange(len(x.counts))
    limits = np.full(len(pairs), np.inf) if limits is None else limits
    numbers, bounds = kernel.match(x, y, pairs, pairs, cost == "squared", limits, num_threads)
    index = np.zeros_like(numbers)
    np.put_along_axis(index, x.places, np.take_along_axis(y.places, numbers, 1), 1)
    return index, bounds


def approximate_emd(
    x: Tensor,
    y: Tensor,
    variant: ApproximateEMD = "pointflow",
    *,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """What papers report as EMD, by the approximate matching that they use. It is not the earth mover's distance.

    Fan, Su and Guibas (A Point Set Generation Network for 3D Object Reconstruction from a Single Image, 2017) published
    a matching for GPUs, in which each point of x hands out one unit to points of y, which take one unit each. For the
    levels `a = -4^7, -4^6, ..., -4^-1, 0`, with `l` and `r` what the points of x and y have left:

        K_ij = exp(a |x_i - y_j|^2)
        u_i  = l_i / (sum_j K_ij r_j + 1e-9)                  each x divides what it has left
        s_j  = r_j sum_i K_ij u_i                             what y_j is offered
        v_j  = r_j min(r_j / (s_j + 1e-9), 1)                 and takes, at most what it has left
        match_ij += u_i K_ij v_j
        r_j  = max(0, r_j - s_j),   l_i = max(0, l_i - sum_j u_i K_ij v_j)

    The result is `1/N sum_ij match_ij c(x_i, y_j)`, with a cost `c` by variant:

    | variant | cost | levels | unit |
    | --- | --- | --- | --- |
    | `"pointflow"` | Euclidean, `c(p, q) = norm(p - q)` | without the last, 0 | `u` |
    | `"pvd"`, `"lion"` | squared, `c(p, q) = norm(p - q)^2` | all | `u^2` |

    The matching is not the best one, so on clouds of surfaces the result is often tens of percent above `emd`. It is
    not symmetric; it is not zero between a cloud and itself; and as the levels are fixed, it does not scale with the
    unit of the data. **With `"pointflow"`, what is left after the level `-4^-1` stays unmatched and costs nothing:
    clouds that lie several units apart come out nearer than they are, in the end at zero.** Its figures mean something
    only between clouds of a standard deviation near 1, as PointFlow has them. Figures compare only with figures of the
    same variant, in the same normalisation and the same order: between sets, both PointFlow's and PVD's evaluation
    take a reference for x and a sample for y.

    The algorithm is that of the published kernels: `approxmatch.cu` of PointFlow at commit 4e6795a, `emd_kernel.cu` of
    PVD at 8540aa8 and of LION at 1d24a78.

    The published code is in float32 on GPUs; here the arithmetic has the dtype of the clouds, on any device.
    Differentiable as there: the gradient holds the matching fixed.

    Memory: without gradients some 48 MiB of float32, or six matrices of N x N for one pair, whichever is more. With
    gradients, some 2 D + 4 such matrices for every pair of the batch.

    Args:
        x: (*batch, N, D) of float32 or float64.
        y: (*batch, N, D); batch shapes broadcast.
        variant: one of the names above.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, N) boolean, with as many points as the x of the same pair.

    Returns:
        (*batch,), in the dtype of the clouds. A pair with a NaN or an infinity in a cloud has the distance NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: different numbers of points, an unknown variant, different dimensions or devices, an empty cloud, or
            a wrong mask.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(2, 256, 3)
        >>> bool(approximate_emd(x, y) > emd(x, y))
        True
        >>> bool(approximate_emd(x, y) == approximate_emd(y, x))
        False
    """
    check_choice(variant, get_args(ApproximateEMD), "variant")
    pairs = pair_clouds(x, y, x_mask, y_mask)
    pairs.require_equal_counts("approximate_emd")
    chosen = _VARIANTS[variant]
    block = max(1, MATRIX_ENTRIES // (pairs.x.shape[1] * pairs.y.shape[1]))
    totals = [_total(pairs, slice(first, first + block), chosen) for first in range(0, len(pairs.x), block)]
    total = torch.cat(totals) if totals else pairs.x.new_zeros(0)
    return pairs.finish(total / pairs.x_mask.sum(-1))


def _total(pairs: CloudPairs, some: slice, variant: _Variant) -> Tensor:
    x, y = pairs.x[some], pairs.y[some]
    match = approximate_matching(x.detach(), y.detach(), pairs.x_mask[some], pairs.y_mask[some], variant.levels)
    return (match * cost_matrix(x, y, variant.cost)).sum((-1, -2))


def approximate_matching(
    x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor, levels: Sequence[float] = _ALL_LEVELS
) -> Tensor:
    """The matching of `approximate_emd`.

    Args:
        x: (B, N, D), finite.
        y: (B, M, D), finite.
        x_mask: (B, N) boolean.
        y_mask: (B, M) boolean, with as many points as x.
        levels: sharpness of the weights, from the first to the last; by default those of the publication.

    Returns:
        (B, N, M), not negative; rows and columns sum to 1 at most.

    Examples:
        >>> x, there = torch.randn(1, 8, 3), torch.ones(1, 8, dtype=torch.bool)
        >>> approximate_matching(x, x, there, there).shape
        torch.Size([1, 8, 8])
    """
    squared = cost_matrix(x, y, "squared")
    match, kernel = torch.zeros_like(squared), torch.empty_like(squared)
    left, right = x_mask.to(x.dtype).unsqueeze(-1), y_mask.to(x.dtype).unsqueeze(-1)
    for level in levels:
        torch.mul(squared, level, out=kernel)
        kernel.clamp_(min=LEAST_EXPONENT).exp_()
        hand_out = left / (kernel @ right + _TINY)
        offered = right * (kernel.mT @ hand_out)
        taken = right * (right / (offered + _TINY)).clamp(max=1)
        kernel *= hand_out
        left = (left - kernel @ taken).clamp(min=0)
        match.addcmul_(kernel, taken.mT)
        right = (right - offered).clamp(min=0)
    return match

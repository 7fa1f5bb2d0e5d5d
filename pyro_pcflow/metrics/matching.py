"""The earth mover's distance between clouds of one size, by exact optimal matching."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from pyro_pcflow.metrics.pairs import CloudPairs, Cost, check_choice, pair_clouds

__all__ = ["emd", "matched_emd"]

_SCIPY_METRIC = {"euclidean": "euclidean", "squared": "sqeuclidean"}


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
    the squared cost it is the square of the 2-Wasserstein distance. The matching is exact, by the shortest augmenting
    paths of Crouse (On implementing 2D rectangular assignment algorithms, 2016) in float64, on the CPU; its time grows
    with the cube of N. What PointFlow calls EMD is an approximation to the first, what PVD and LION call EMD an
    approximation to the second: see `approximate_emd`.

    Differentiable almost everywhere: the gradient holds the matching fixed.

    Memory: for each of torch's threads, one matrix of N x N float64 for the pair at hand, or 32 MiB at 2048 points.

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


def matched_emd(pairs: CloudPairs, cost: Cost, num_threads: int) -> Tensor:
    """`emd` of pairs that were checked before, by a number of threads."""
    check_choice(cost, get_args(Cost), "cost")
    pairs.require_equal_counts("emd")
    index = torch.from_numpy(_match(pairs, cost, num_threads)).to(pairs.x.device)
    difference = pairs.x - pairs.y.gather(1, index.unsqueeze(-1).expand(-1, -1, pairs.y.shape[-1]))
    distances = difference.square().sum(-1) if cost == "squared" else torch.linalg.vector_norm(difference, dim=-1)
    return pairs.finish(torch.where(pairs.x_mask, distances, 0.0).sum(-1) / pairs.x_mask.sum(-1))


def _match(pairs: CloudPairs, cost: Cost, num_threads: int) -> np.ndarray:
    clouds = [tensor.detach().cpu().numpy() for tensor in (pairs.x, pairs.y, pairs.x_mask, pairs.y_mask)]
    invalid = pairs.invalid.tolist()
    index = np.zeros(clouds[2].shape, dtype=np.int64)

    def solve(pair: int) -> None:
        if invalid[pair]:
            return
        x, y, x_mask, y_mask = (array[pair] for array in clouds)
        ours, theirs = np.flatnonzero(x_mask), np.flatnonzero(y_mask)
        rows, columns = linear_sum_assignment(cdist(x[ours], y[theirs], _SCIPY_METRIC[cost]))
        index[pair, ours[rows]] = theirs[columns]

    if num_threads == 1 or len(index) == 1:
        for pair in range(len(index)):
            solve(pair)
    else:
        # The solver lets go of the interpreter's lock.
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(solve, range(len(index))))
    return index

"""The nearest point of another cloud, exactly: trees on a CPU, blocks of differences elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pyro_pcflow.metrics.pairs import cost_matrix

__all__ = ["nearest_by_blocks", "nearest_by_trees", "nearest_index"]

# Entries of a block of differences, so that a block and what is made of it take some 128 MiB of float32.
BLOCK = 1 << 23
THREADED = 4096


def nearest_index(x: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """For each point of x, where in y the nearest point is.

    Args:
        x: (B, N, D), finite.
        y: (B, M, D), finite.
        y_mask: (B, M) boolean, with a point in each cloud.

    Returns:
        (B, N) of int64. Of several nearest points it is any one.

    Examples:
        >>> x, y = torch.tensor([[[0.0], [5.0]]]), torch.tensor([[[4.0], [1.0], [0.1]]])
        >>> nearest_index(x, y, torch.ones(1, 3, dtype=torch.bool))
        tensor([[2, 0]])
    """
    x, y = x.detach(), y.detach()
    return nearest_by_trees(x, y, y_mask) if x.device.type == "cpu" else nearest_by_blocks(x, y, y_mask)


def nearest_by_trees(x: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """`nearest_index` by a k-d tree of each cloud, in float64 (Maneewongvatana and Mount, 1999)."""
    index = torch.empty(x.shape[:2], dtype=torch.int64)
    # To start threads takes as long as some thousand queries.
    threads = torch.get_num_threads() if x.shape[1] >= THREADED else 1
    queries, clouds, masks = (tensor.cpu().numpy() for tensor in (x, y, y_mask))
    for pair, (query, cloud, mask) in enumerate(zip(queries, clouds, masks, strict=True)):
        there = np.flatnonzero(mask)
        _, found = cKDTree(cloud[there]).query(query, workers=threads)
        index[pair] = torch.from_numpy(there[found])
    return index


def nearest_by_blocks(x: Tensor, y: Tensor, y_mask: Tensor, block: int = BLOCK) -> Tensor:
    """`nearest_index` by all distances, at most about `block` of them at a time."""
    num_pairs, num_points, num_others = *x.shape[:2], y.shape[1]
    index = torch.empty(num_pairs, num_points, dtype=torch.int64, device=x.device)
    rows = max(1, min(num_points, block // num_others))
    pairs = max(1, block // (rows * num_others))
    for first in range(0, num_pairs, pairs):
        some = slice(first, first + pairs)
        absent = ~y_mask[some].unsqueeze(1)
        for row in range(0, num_points, rows):
            part = slice(row, row + rows)
            distances = cost_matrix(x[some, part], y[some], "squared").masked_fill_(absent, torch.inf)
            index[some, part] = distances.argmin(-1)
    return index

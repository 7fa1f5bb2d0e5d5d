"""Exact nearest-neighbour search between clouds: all distances or k-d trees on a CPU, blocks of differences elsewhere.

`few_enough` is the one place that chooses between the first two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.kernels.cpu.clouds import PackedClouds
from pyro_pcflow.metrics.pairs import cost_matrix, nonfinite_clouds

__all__ = [
    "Convention",
    "NearestRows",
    "few_enough",
    "nearest_by_all_distances",
    "nearest_by_blocks",
    "nearest_by_trees",
    "nearest_index",
]

# Entries of a block of differences, so that a block and its temporaries take some 128 MiB of float32.
BLOCK = 1 << 23
# Distances between the points of two clouds up to which computing all of them takes no longer than trees do: 4096
# points each. The exact place depends on the clouds, and on whether numbers are wanted or distances.
MOST_DISTANCES = 1 << 24
# To start threads takes as long as about a thousand queries.
THREADED = 4096

Clouds = tuple[np.ndarray, np.ndarray]


def nearest_index(x: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """Index (B, N) into y (B, M, D) of the nearest point to each point of x (B, N, D); of equal ones, any one."""
    x, y = x.detach(), y.detach()
    if x.device.type != "cpu":
        return nearest_by_blocks(x, y, y_mask)
    find = nearest_by_all_distances if few_enough(x.shape[1], y.shape[1]) else nearest_by_trees
    return find(x, y, y_mask)


def few_enough(num_points: int, num_others: int) -> bool:
    """Whether all distances between two clouds take less time on a CPU than trees do."""
    return num_points * num_others <= MOST_DISTANCES and kernel.available()


def nearest_by_all_distances(x: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """`nearest_index` by all distances, in float64; of equal ones, the first."""
    queries = PackedClouds.of(x.numpy(), np.ones(x.shape[:2], dtype=np.bool_))
    clouds = PackedClouds.of(y.numpy(), y_mask.numpy())
    pairs = np.arange(len(x))
    numbers = kernel.nearest_numbers(queries, clouds, pairs, pairs, torch.get_num_threads())
    return torch.from_numpy(np.take_along_axis(clouds.places, numbers, 1))


def nearest_by_trees(x: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """`nearest_index` by a k-d tree of each cloud, in float64 (Maneewongvatana and Mount, 1999)."""
    index = torch.empty(x.shape[:2], dtype=torch.int64)
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


@dataclass(frozen=True)
class Convention:
    """How distances to nearest neighbours are reduced to one number per pair of clouds.

    Args:
        power: 1 for distances, 2 for their squares.
        reduction: from the points of a cloud to one number.
        join: from the numbers of both directions to one.
    """

    power: Literal[1, 2]
    reduction: Literal["mean", "total", "max"]
    join: Literal["sum", "mean", "max"]

    def join_ways(self, there: Tensor, back: Tensor) -> Tensor:
        """One number from those of both directions, elementwise."""
        if self.join == "max":
            return torch.maximum(there, back)
        return there + back if self.join == "sum" else (there + back) / 2


class NearestRows:
    """Computes rows of a matrix of Chamfer or Hausdorff distances, exactly, in float64 on the CPU.

    Args:
        rows: clouds (S, N, D) and mask (S, N).
        columns: clouds (R, M, D) and mask (R, M).
        convention: how distances to nearest neighbours are reduced.
        budget: bytes for copies of points, and for distances.
        threads: threads over pairs, or of a query of a tree.

    Raises:
        ValueError: the budget is too small for one cloud.
    """

    def __init__(
        self,
        rows: tuple[Tensor, Tensor],
        columns: tuple[Tensor, Tensor],
        convention: Convention,
        budget: float,
        threads: int,
    ) -> None:
        # NumPy throughout: on arrays as small as these, torch's threads cost more than the trees where cores are busy.
        self.rows, self.columns = ((clouds.numpy(), mask.numpy()) for clouds, mask in (rows, columns))
        self.convention = convention
        self.threads = threads
        # A tree refuses a NaN.
        self.valid_rows, self.valid_columns = (~nonfinite_clouds(*both).numpy() for both in (rows, columns))
        points, dim = max(rows[0].shape[1], columns[0].shape[1]), rows[0].shape[2]
        self.all_distances = few_enough(rows[0].shape[1], columns[0].shape[1])
        # A query's copies of the points and its mask, distances and indices, squares of them, and a tree; or copies of
        # a cloud and its mask, its distances both ways and squares of them.
        one = points * (4 * 8 * dim + 64)
        self.room = int(budget // one) - 1
        if self.room < 1:
            raise ValueError(f"max_memory_mb: not enough for one pair of clouds, give {2 * one / 2**20:.3g} or more")

    def __call__(self, some: slice, first: int) -> Tensor:
        """Distances of some rows from column `first` on, (rows, R - first); NaN where a cloud is not finite."""
        rows = some.start + np.flatnonzero(self.valid_rows[some])
        columns = first + np.flatnonzero(self.valid_columns[first:])
        result = np.full((some.stop - some.start, len(self.valid_columns) - first), np.nan)
        if len(rows) and len(columns):
            both_ways = self._by_all_distances if self.all_distances else self._by_trees
            ways = [torch.from_numpy(way) for way in both_ways(rows, columns)]
            result[np.ix_(rows - some.start, columns - first)] = self.convention.join_ways(*ways).numpy()
        return torch.from_numpy(result)

    def _by_all_distances(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there, back = np.empty((2, len(rows), len(columns)))
        for start in range(0, len(columns), self.room):
            part = slice(start, start + self.room)
            others = PackedClouds.of(*(array[columns[part]] for array in self.columns))
            numbers = np.arange(len(others.counts))
            for row, chosen in enumerate(rows.tolist()):
                cloud = PackedClouds.of(*(array[chosen : chosen + 1] for array in self.rows))
                squares = kernel.nearest_both_ways(cloud, others, np.zeros_like(numbers), numbers, self.threads)
                for way, squared, counts in zip((there, back), squares, (cloud.counts, others.counts), strict=True):
                    way[row, part] = self._reduce(squared if self.convention.power == 2 else np.sqrt(squared), counts)
        return there, back

    def _by_trees(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = [self._all_to_one(self.rows, rows, self.columns, column) for column in columns.tolist()]
        back = [self._all_to_one(self.columns, columns, self.rows, row) for row in rows.tolist()]
        return np.stack(there, 1), np.stack(back)

    def _all_to_one(self, clouds: Clouds, chosen: np.ndarray, others: Clouds, other: int) -> np.ndarray:
        """Reduced distances of the points of the chosen clouds to one other cloud, (len(chosen),)."""
        tree = cKDTree(others[0][other][others[1][other]].astype(np.float64))
        values = []
        for start in range(0, len(chosen), self.room):
            part = chosen[start : start + self.room]
            mask = clouds[1][part]
            found, _ = tree.query(clouds[0][part][mask].astype(np.float64), workers=self.threads)
            powers = np.zeros(mask.shape)
            powers[mask] = found**self.convention.power
            values.append(self._reduce(powers, mask.sum(1)))
        return np.concatenate(values)

    def _reduce(self, powers: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Reduce powers of distances (P, N), zero for points that are not there, to one number for each cloud."""
        if self.convention.reduction == "max":
            return powers.max(1)
        return powers.sum(1) if self.convention.reduction == "total" else powers.sum(1) / counts

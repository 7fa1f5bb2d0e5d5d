"""Rows of a matrix of nearest-neighbour distances, by one tree a cloud and many queries of each."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pyro_pcflow.metrics.nearest_neighbours import Convention

__all__ = ["NearestRows", "find_invalid"]

Clouds = tuple[np.ndarray, np.ndarray]


def find_invalid(clouds: Tensor, mask: Tensor) -> Tensor:
    """Which clouds have a NaN or an infinity among the points that are there.

    Args:
        clouds: (S, N, D).
        mask: (S, N) boolean.

    Returns:
        (S,) boolean, on the CPU.

    Examples:
        >>> find_invalid(torch.tensor([[[0.0]], [[torch.nan]]]), torch.tensor([[True], [True]]))
        tensor([False,  True])
    """
    return (mask & ~clouds.isfinite().all(-1)).any(-1).cpu()


class NearestRows:
    """Computes rows of a matrix of Chamfer or Hausdorff distances, exactly, on the CPU.

    Args:
        rows: clouds (S, N, D) and mask (S, N).
        columns: clouds (R, M, D) and mask (R, M).
        convention: what is made of the distances of one way, and then of both ways.
        budget: bytes for queries and their answers.
        threads: threads of a query.

    Raises:
        ValueError: the budget is too small for one cloud.

    Examples:
        >>> from pyro_pcflow.metrics.nearest_neighbours import CHAMFER_CONVENTIONS
        >>> one, two = torch.zeros(3, 1, 2), torch.ones(4, 1, 2)
        >>> masks = torch.ones(3, 1, dtype=torch.bool), torch.ones(4, 1, dtype=torch.bool)
        >>> count = NearestRows((one, masks[0]), (two, masks[1]), CHAMFER_CONVENTIONS["squared_sum"], 2**20, 1)
        >>> count(slice(1, 3), 2).round(decimals=9).tolist()  # rows 1 and 2, from column 2 on
        [[4.0, 4.0], [4.0, 4.0]]
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
        # A valid cloud alone takes part: a tree refuses a NaN.
        self.valid_rows, self.valid_columns = (~find_invalid(*both).numpy() for both in (rows, columns))
        points, dim = max(rows[0].shape[1], columns[0].shape[1]), rows[0].shape[2]
        # A query's copies of the points and its mask, distances and indices, squares of them, and a tree.
        one = points * (4 * 8 * dim + 64)
        self.room = int(budget // one) - 1
        if self.room < 1:
            raise ValueError(f"max_memory_mb: not enough for one pair of clouds, give {2 * one / 2**20:.3g} or more")

    def __call__(self, some: slice, first: int) -> Tensor:
        """Distances of shape (rows, R - first); NaN where a cloud is not valid."""
        rows = some.start + np.flatnonzero(self.valid_rows[some])
        columns = first + np.flatnonzero(self.valid_columns[first:])
        result = np.full((some.stop - some.start, len(self.valid_columns) - first), np.nan)
        if len(rows) and len(columns):
            back = np.stack([self._all_to_one(self.columns, columns, self.rows, row) for row in rows.tolist()])
            there = np.stack(
                [self._all_to_one(self.rows, rows, self.columns, column) for column in columns.tolist()], 1
            )
            result[np.ix_(rows - some.start, columns - first)] = self._join(there, back)
        return torch.from_numpy(result)

    def _join(self, there: np.ndarray, back: np.ndarray) -> np.ndarray:
        if self.convention.join == "max":
            return np.maximum(there, back)
        return there + back if self.convention.join == "sum" else (there + back) / 2

    def _all_to_one(self, clouds: Clouds, chosen: np.ndarray, others: Clouds, other: int) -> np.ndarray:
        """How far the points of the chosen clouds are from one other cloud, reduced by cloud, (len(chosen),)."""
        tree = cKDTree(others[0][other][others[1][other]].astype(np.float64))
        values = []
        for start in range(0, len(chosen), self.room):
            part = chosen[start : start + self.room]
            mask = clouds[1][part]
            found, _ = tree.query(clouds[0][part][mask].astype(np.float64), workers=self.threads)
            values.append(self._one_way(found, mask.sum(1)))
        return np.concatenate(values)

    def _one_way(self, distances: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Reduce the distances of several clouds, which lie one after the other, to a number each."""
        starts = np.cumsum(counts) - counts
        if self.convention.one_way == "max":
            return np.maximum.reduceat(distances**self.convention.power, starts)
        sums = np.add.reduceat(distances**self.convention.power, starts)
        return sums if self.convention.one_way == "total" else sums / counts

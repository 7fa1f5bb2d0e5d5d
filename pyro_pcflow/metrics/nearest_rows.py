"""Rows of a matrix of nearest-neighbour distances, by one tree a cloud and many queries of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pyro_pcflow.metrics.chamfer import Convention

__all__ = ["NearestRows", "find_invalid"]


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
        >>> from pyro_pcflow.metrics.chamfer import CHAMFER_CONVENTIONS
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
        self.rows, self.columns = rows, columns
        self.one_way, self.join = convention
        self.threads = threads
        # A valid cloud alone takes part: a tree refuses a NaN.
        self.valid_rows, self.valid_columns = ~find_invalid(*rows), ~find_invalid(*columns)
        points, dim = max(rows[0].shape[1], columns[0].shape[1]), rows[0].shape[2]
        # A query's copies of the points and its mask, distances and indices, squares of them, and a tree.
        one = points * (4 * 8 * dim + 64)
        self.room = int(budget // one) - 1
        if self.room < 1:
            raise ValueError(f"max_memory_mb: not enough for one pair of clouds, give {2 * one / 2**20:.3g} or more")

    def __call__(self, some: slice, first: int) -> Tensor:
        """Distances of shape (rows, R - first); NaN where a cloud is not valid."""
        rows = [row for row in range(some.start, some.stop) if self.valid_rows[row]]
        columns = [column for column in range(first, len(self.valid_columns)) if self.valid_columns[column]]
        result = torch.full((some.stop - some.start, len(self.valid_columns) - first), torch.nan, dtype=torch.float64)
        if not rows or not columns:
            return result
        back = torch.stack([self._all_to_one(self.columns, columns, self.rows, row) for row in rows])
        there = torch.stack([self._all_to_one(self.rows, rows, self.columns, column) for column in columns], 1)
        places = torch.tensor(rows) - some.start, torch.tensor(columns) - first
        result[places[0].unsqueeze(1), places[1]] = self.join(there, back)
        return result

    def _all_to_one(
        self, clouds: tuple[Tensor, Tensor], chosen: list[int], others: tuple[Tensor, Tensor], other: int
    ) -> Tensor:
        """How far the points of the chosen clouds are from one other cloud, reduced by cloud, (len(chosen),)."""
        tree = cKDTree(others[0][other][others[1][other]].double().numpy())
        values = [torch.empty(0, dtype=torch.float64)]
        for part in _runs(chosen, self.room):
            points, mask = clouds[0][part], clouds[1][part]
            distances = torch.zeros(mask.shape, dtype=torch.float64)
            found, _ = tree.query(points[mask].double().numpy(), workers=self.threads)
            distances[mask] = torch.from_numpy(np.asarray(found))
            values.append(self.one_way(distances, mask))
        return torch.cat(values)


def _runs(indices: list[int], room: int) -> Iterator[Tensor]:
    for first in range(0, len(indices), room):
        yield torch.tensor(indices[first : first + room])

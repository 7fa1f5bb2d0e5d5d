"""Which clouds are nearest by the earth mover's distance, without matching those that cannot be.

A matrix of distances in which the smallest entries of each row and of each column are right, and all others at least
larger than both, has the same nearest neighbours as the whole one, to the last tie: 1-NNA, coverage and MMD come out
the same. Most of its entries need no matching, since a bound from below tells that they are too large.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.matching import matched_emd
from pyro_pcflow.metrics.pairs import Cost, nonfinite_clouds, pair_clouds

__all__ = ["NearestMatchings", "matching_bounds", "random_pairs"]

# A bound excludes a pair only where it lies above by more than rounding, in float32, too.
MARGIN = 1e-5
# Pairs between two updates of what is the smallest so far: the same for any number of threads, as results are.
BATCH = 16
# Pairs of the smallest bounds of each row and column that are matched first.
FIRST = 2
FRAMES = 16


def matching_bounds(x: Tensor, y: Tensor, cost: Cost, frames: int = FRAMES) -> Tensor:
    """Numbers that the earth mover's distances between clouds are not below, from their projections.

    On a line, the best matching is that of the sorted points. Projected onto each axis of a frame of D orthonormal
    axes, no matching of clouds moves points by less than that, `w_d`. As a norm is convex, the mean length of what it
    moves them by is at least `norm(w)`, and the mean square at least the sum of the mean squares `w_d`. Sliced
    distances (Rabin, Peyré, Delon and Bernot, Wasserstein barycenter and its application to texture mixing, 2011) take
    the mean over single directions, which is less.

    Args:
        x: (S, N, D), finite.
        y: (R, N, D), finite.
        cost: `"euclidean"` or `"squared"`.
        frames: random ones, after that of the coordinates; the largest bound counts.

    Returns:
        (S, R) of float64. Where a coordinate overflows, zero.

    Examples:
        >>> x = torch.zeros(1, 5, 2)
        >>> matching_bounds(x, x + 3, "squared", frames=0).round(decimals=9).tolist()
        [[18.0]]
    """
    x, y = x.double().cpu(), y.double().cpu()
    generator = torch.Generator().manual_seed(0)
    best = x.new_zeros(len(x), len(y))
    for frame in range(frames + 1):
        axes = torch.eye(x.shape[-1], dtype=x.dtype)
        if frame:
            axes = torch.linalg.qr(torch.randn(axes.shape, generator=generator, dtype=x.dtype))[0]
        ours, theirs = ((clouds @ axes).sort(1).values for clouds in (x, y))
        total = torch.zeros_like(best)
        for axis in range(x.shape[-1]):
            pair = ours[..., axis], theirs[..., axis]
            if cost == "squared":
                apart = torch.cdist(*pair, compute_mode="donot_use_mm_for_euclid_dist")
                total += apart.square() / x.shape[1]
            else:
                total += (torch.cdist(*pair, p=1.0) / x.shape[1]).square()
        bound = total if cost == "squared" else total.sqrt()
        best = torch.maximum(best, bound.nan_to_num(0.0, 0.0))
    return best


def random_pairs(count: int, pairs: int, seed: int) -> Tensor:
    """Which pairs of `count` clouds belong to a random sample, (count, count), true above the diagonal only.

    Args:
        count: of clouds.
        pairs: in the sample; all pairs if there are no more.
        seed: of the choice.

    Examples:
        >>> int(random_pairs(20, 50, 0).sum()), int(random_pairs(3, 50, 0).sum())
        (50, 3)
    """
    chosen = torch.ones(count, count, dtype=torch.bool).triu(1)
    places = chosen.flatten().nonzero().squeeze(-1)
    left_out = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[pairs:]
    chosen.view(-1)[places[left_out]] = False
    return chosen


class NearestMatchings:
    """Computes rows of a matrix of exact earth mover's distances, in which pairs that are no neighbours have bounds.

    Args:
        rows: clouds (S, N, D) and mask (S, N), each with the same number of points.
        columns: clouds (R, M, D) and mask (R, M); the same where the matrix is mirrored.
        cost: of a matching.
        needed: (S, R) boolean, pairs whose distances are wanted whatever they are.
        mirrored: whether rows start at the diagonal.
        threads: over pairs.
    """

    def __init__(
        self,
        rows: tuple[Tensor, Tensor],
        columns: tuple[Tensor, Tensor],
        cost: Cost,
        needed: Tensor,
        mirrored: bool,
        threads: int,
    ) -> None:
        self.rows, self.columns = rows, columns
        self.cost: Cost = cost
        self.needed = needed.cpu().numpy()
        self.mirrored = mirrored
        self.threads = threads
        self.bounds = np.empty(0)

    def __call__(self, some: slice, first: int) -> Tensor:
        """Distances or bounds of some rows from column `first` on, (rows, R - first); NaN where a cloud is."""
        # Only now, since a matrix whose rows are all on disk needs none of it.
        if not self.bounds.size:
            self._start()
        for row in range(some.start, some.stop):
            self._finish(row)
        return torch.from_numpy(np.where(np.isnan(self.known[some]), self.bounds[some], self.known[some])[:, first:])

    def _start(self) -> None:
        """Bounds of all pairs, and distances of those that look nearest."""
        self.bad_rows, self.bad_columns = (nonfinite_clouds(*both).cpu().numpy() for both in (self.rows, self.columns))
        ours, theirs = (_dense(*both) for both in (self.rows, self.columns))
        self.bounds = matching_bounds(ours, theirs, self.cost).numpy()
        self.bounds[self.bad_rows] = np.nan
        self.bounds[:, self.bad_columns] = np.nan
        self.known = np.full(self.bounds.shape, np.nan)
        self.row_best, self.column_best = (np.full(count, np.inf) for count in self.bounds.shape)
        if self.mirrored:
            self.column_best = self.row_best
        wanted = np.where(np.isnan(self.bounds), np.inf, self.bounds)
        if self.mirrored:
            np.fill_diagonal(wanted, np.inf)
        near = np.zeros(wanted.shape, dtype=bool)
        for axis in (0, 1):
            order = np.argsort(wanted, axis, kind="stable")
            np.put_along_axis(near, order.take(range(min(FIRST, order.shape[axis])), axis), True, axis)
        near &= np.isfinite(wanted)
        if self.mirrored:
            near = np.triu(near | near.T, 1)
        for row in range(len(near)):
            self._match(row, np.flatnonzero(near[row]))

    def _finish(self, row: int) -> None:
        open_columns = np.flatnonzero(np.isnan(self.known[row]) & ~np.isnan(self.bounds[row]))
        if self.mirrored:
            open_columns = open_columns[open_columns > row]
        open_columns = open_columns[np.argsort(self.bounds[row, open_columns], kind="stable")]
        while True:
            open_columns = open_columns[self.bounds[row, open_columns] <= self._limits(row, open_columns)]
            if not len(open_columns):
                return
            self._match(row, open_columns[:BATCH])
            open_columns = open_columns[BATCH:]

    def _limits(self, row: int, columns: np.ndarray) -> np.ndarray:
        """Above which a distance makes no difference."""
        limits = np.maximum(self.row_best[row], self.column_best[columns]) * (1 + MARGIN)
        return np.where(self.needed[row, columns], np.inf, limits)

    def _match(self, row: int, columns: np.ndarray) -> None:
        if not len(columns):
            return
        (x, x_mask), (y, y_mask) = self.rows, self.columns
        index = torch.from_numpy(columns).to(y.device)
        pairs = pair_clouds(x[row], y[index], x_mask[row], y_mask[index])
        limits = self._limits(row, columns)
        values = matched_emd(pairs, self.cost, self.threads, limits).double().cpu().numpy()
        # A bound that was rounded to float32 may lie a little below the limit that it was found to exceed.
        exact = values <= limits / (1 + MARGIN / 2)
        self.bounds[row, columns] = values
        self.known[row, columns[exact]] = values[exact]
        self.row_best[row] = min(self.row_best[row], values[exact].min(initial=np.inf))
        self.column_best[columns[exact]] = np.minimum(self.column_best[columns[exact]], values[exact])


def _dense(clouds: Tensor, mask: Tensor) -> Tensor:
    """The points that are there, (S, n, D), all finite."""
    points = clouds[mask].reshape(len(clouds), -1, clouds.shape[-1])
    return torch.where(points.isfinite(), points, 0.0)

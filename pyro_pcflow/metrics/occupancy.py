"""Jensen-Shannon divergence (JSD) between occupancy grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_pcflow.metrics.pairs import nonfinite_clouds

__all__ = ["Grid", "grid_around", "jensen_shannon"]


@dataclass(frozen=True)
class Grid:
    """A grid of equal boxes.

    Args:
        resolution: cells along each axis.
        low: lowest coordinates, one per axis, in the data's units.
        high: highest coordinates, one per axis.

    Raises:
        ValueError: a resolution below 1, or bounds that leave no room.

    Examples:
        >>> Grid(28, (-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)).cell
        (0.03571428571428571, 0.03571428571428571, 0.03571428571428571)
    """

    resolution: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(f"resolution: expected at least 1 cell along each axis, got {self.resolution}")
        if len(self.low) != len(self.high) or not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"bounds: expected a lower and a higher end for each axis, got {self.low} and {self.high}")
        if self.resolution ** len(self.low) >= 1 << 62:
            raise ValueError(f"resolution: {self.resolution}^{len(self.low)} cells are more than can be numbered")

    @property
    def cell(self) -> tuple[float, ...]:
        """Sides of a cell, in the data's units."""
        return tuple((b - a) / self.resolution for a, b in zip(self.low, self.high, strict=True))

    def cells(self, points: Tensor) -> Tensor:
        """Number of the cell of each point; one outside the grid belongs to the nearest cell.

        Args:
            points: (*batch, D), finite.

        Returns:
            (*batch,) of int64.

        Raises:
            ValueError: points of another dimension.

        Examples:
            >>> Grid(2, (0.0, 0.0), (1.0, 1.0)).cells(torch.tensor([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [7.0, 7.0]]))
            tensor([0, 1, 2, 3])
        """
        if points.shape[-1] != len(self.low):
            raise ValueError(f"the grid has {len(self.low)} axes, but points have {points.shape[-1]} coordinates")
        low, side = (points.new_tensor(ends, dtype=torch.float64) for ends in (self.low, self.cell))
        steps = ((points.double() - low) / side).floor().clamp(0, self.resolution - 1).long()
        number = torch.zeros_like(steps[..., 0])
        for axis in range(len(self.low)):
            number = number * self.resolution + steps[..., axis]
        return number


def grid_around(
    references: Tensor,
    resolution: int = 28,
    bounds: tuple[float | Sequence[float], float | Sequence[float]] | None = None,
) -> Grid:
    """A grid of given bounds, or the cube around the references.

    Args:
        references: (R, M, D), finite.
        resolution: cells along each axis; Achlioptas et al. take 28.
        bounds: lowest and highest coordinates, a number each or one per axis; by default the cube with the centre of
            the bounding box of all references, and its longest side.

    Returns:
        The grid.

    Raises:
        ValueError: bounds that leave no room or do not fit the dimension; references without extent and no bounds.

    Examples:
        >>> grid_around(torch.tensor([[[0.0, 0.0], [2.0, 1.0]]]), 10)
        Grid(resolution=10, low=(0.0, -0.5), high=(2.0, 1.5))
    """
    dim = references.shape[-1]
    if bounds is None:
        points = references.detach().reshape(-1, dim).double()
        low, high = points.amin(0), points.amax(0)
        half = (high - low).max() / 2
        if not half > 0:
            raise ValueError("references: all points are the same, so that no grid fits around them: give its bounds")
        return Grid(resolution, tuple(((low + high) / 2 - half).tolist()), tuple(((low + high) / 2 + half).tolist()))
    ends = [tuple(map(float, end)) if isinstance(end, Sequence) else (float(end),) * dim for end in bounds]
    if len(ends) != 2 or any(len(end) != dim for end in ends):
        raise ValueError(f"bounds: expected (low, high), each a number or {dim} numbers, got {bounds}")
    return Grid(resolution, *ends)


def jensen_shannon(samples: Tensor, references: Tensor, *, grid: int | Grid = 28) -> float:
    """The Jensen-Shannon divergence between where the points of two sets of clouds are (JSD), in bits.

    Achlioptas et al., ICML 2018. The points of all clouds of a set are counted in the cells of a grid, and
    `H((p + q) / 2) - (H(p) + H(q)) / 2` is taken with logarithms to base 2. It measures where points are on
    average, and nothing of single clouds. Its value depends on the grid and on the number of points: state both. Points
    outside the grid are counted in the nearest cell, as Achlioptas et al. do; their grid is a sphere of 28^3 cells of
    the unit cube, and this one is the whole cube.

    Args:
        samples: (S, N, D). The share of failed clouds (with coordinates that are not finite) is counted in a cell of
            its own, which no reference is in.
        references: (R, M, D), finite.
        grid: cells along each axis of the cube around the references, see `grid_around`; or a `Grid`.

    Returns:
        In [0, 1] bits: 0 for equal occupancies, 1 for ones that share no cell.

    Raises:
        ValueError: different dimensions, empty sets, references that are not finite, or a wrong grid.

    Examples:
        >>> clouds, grid = torch.rand(10, 100, 2), Grid(28, (0.0, 0.0), (6.0, 6.0))
        >>> jensen_shannon(clouds, clouds), round(jensen_shannon(clouds + 5, clouds, grid=grid), 6)
        (0.0, 1.0)
    """
    for name, clouds in [("samples", samples), ("references", references)]:
        if clouds.dim() != 3 or 0 in clouds.shape:
            raise ValueError(f"{name}: expected clouds of shape (S, N, D), got {tuple(clouds.shape)}")
    if samples.shape[-1] != references.shape[-1]:
        found = f"{samples.shape[-1]} and {references.shape[-1]}"
        raise ValueError(f"samples and references: expected points of one dimension, got {found}")
    if nonfinite_clouds(references).any():
        number = int(nonfinite_clouds(references).sum())
        raise ValueError(f"references: {number} of {len(references)} clouds have coordinates that are not finite")
    if not isinstance(grid, Grid):
        grid = grid_around(references, grid)
    failed = nonfinite_clouds(samples)
    ours, theirs = grid.cells(samples[~failed]).flatten().cpu(), grid.cells(references).flatten().cpu()
    numbers, positions = torch.cat([ours, theirs]).unique(return_inverse=True)
    cells = [
        torch.bincount(part, minlength=len(numbers)).double() for part in positions.split([len(ours), len(theirs)])
    ]
    share = failed.double().mean().cpu().reshape(1)
    p = torch.cat([cells[0] / max(1, len(ours)) * (1 - share), share])
    q = torch.cat([cells[1] / len(theirs), torch.zeros_like(share)])
    bits = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    # Rounding alone leads outside [0, 1].
    return float(bits.clamp(0, 1))


def _entropy(shares: Tensor) -> Tensor:
    return -torch.special.xlogy(shares, shares).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))

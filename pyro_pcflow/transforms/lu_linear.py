"""Invertible linear layers by LU decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.coupling import tanh_bound
from pyro_pcflow.transforms.base import PointTransform

__all__ = ["LULinear", "lu_linear"]


class LULinear(PointTransform):
    """An invertible linear layer `y = P L U x` by LU decomposition, with a cheap determinant and inverse.

    Kingma and Dhariwal, Glow, NeurIPS 2018, section 3.2. `L` is unit lower triangular, `U` upper triangular with
    a positive diagonal whose logarithm is bounded smoothly, and `P` a fixed permutation. It starts at `P`.

    Args:
        point_dim: number of coordinates `D`.
        permutation: coordinate `i` of the data is coordinate `permutation[i]` of `L U x`; the identity by
            default.
        max_log_scale: smooth bound of the logarithm of the diagonal of `U`.

    Raises:
        ValueError: if `permutation` is not a permutation of `range(D)`.

    Examples:
        >>> linear = LULinear(3)
        >>> linear(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [1.0, 2.0, 3.0]
    """

    @property
    def is_affine(self) -> bool:
        """True: it carries a Gaussian to a Gaussian."""
        return True

    def __init__(self, point_dim: int, *, permutation: Sequence[int] | None = None, max_log_scale: float = 1.0) -> None:
        super().__init__(point_dim)
        if point_dim < 2:
            raise ValueError(f"LULinear needs points of at least 2 coordinates, got point_dim={point_dim}")
        permutation = tuple(range(point_dim)) if permutation is None else tuple(map(int, permutation))
        if sorted(permutation) != list(range(point_dim)):
            raise ValueError(f"expected a permutation of 0 to {point_dim - 1}, got {permutation}")
        self.permutation = permutation
        self.max_log_scale = max_log_scale
        off_diagonal = point_dim * (point_dim - 1) // 2
        self.lower_entries = nn.Parameter(torch.zeros(off_diagonal))
        self.upper_entries = nn.Parameter(torch.zeros(off_diagonal))
        self.raw_log_diagonal = nn.Parameter(torch.zeros(point_dim))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {
            "point_dim": self.point_dim,
            "permutation": self.permutation,
            "max_log_scale": self.max_log_scale,
        }

    @property
    def log_diagonal(self) -> Tensor:
        """The bounded logarithm of the diagonal of `U`, shape `(D,)`."""
        return tanh_bound(self.raw_log_diagonal, self.max_log_scale)

    def _factors(self, log_diagonal: Tensor) -> tuple[Tensor, Tensor]:
        """`L` and `U`, each of shape `(D, D)`."""
        lower = _strictly_lower(self.lower_entries, self.point_dim)
        lower = lower + torch.eye(self.point_dim, dtype=lower.dtype, device=lower.device)
        upper = _strictly_lower(self.upper_entries, self.point_dim).mT + torch.diag(log_diagonal.exp())
        return lower, upper

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_diagonal = self.log_diagonal
        lower, upper = self._factors(log_diagonal)
        mixed = x @ (lower @ upper).mT
        return _pick(mixed, self.permutation), log_diagonal.sum().expand(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_diagonal = self.log_diagonal
        lower, upper = self._factors(log_diagonal)
        mixed = _pick(y, [self.permutation.index(i) for i in range(self.point_dim)])
        flat = mixed.reshape(-1, self.point_dim).mT
        solved = torch.linalg.solve_triangular(lower, flat, upper=False, unitriangular=True)
        solved = torch.linalg.solve_triangular(upper, solved, upper=True)
        return solved.mT.reshape(y.shape), -log_diagonal.sum().expand(y.shape[:-1])

    def extra_repr(self) -> str:
        return f"{self.point_dim}, permutation={self.permutation}"


def lu_linear(point_dim: int, *, permutation: Sequence[int] | None = None, max_log_scale: float = 1.0) -> LULinear:
    """Make an `LULinear`.

    Args:
        point_dim: number of coordinates `D`.
        permutation: coordinate `i` of the data is coordinate `permutation[i]` of `L U x`; the identity by default.
        max_log_scale: smooth bound of the logarithm of the diagonal of `U`.

    Raises:
        ValueError: if `permutation` is not a permutation of `range(D)`.

    Examples:
        >>> linear = lu_linear(3, permutation=[1, 2, 0])
        >>> linear(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[2., 3., 1.]], grad_fn=<StackBackward0>)
    """
    return LULinear(point_dim, permutation=permutation, max_log_scale=max_log_scale)


def _strictly_lower(entries: Tensor, size: int) -> Tensor:
    # Rows are joined from slices: an index buffer would be cast to floating point by `module.double()`.
    rows, start = [entries.new_zeros(size)], 0
    for length in range(1, size):
        rows.append(torch.cat([entries[start : start + length], entries.new_zeros(size - length)]))
        start += length
    return torch.stack(rows)


def _pick(points: Tensor, order: Sequence[int]) -> Tensor:
    coordinates = points.unbind(-1)
    return torch.stack([coordinates[i] for i in order], -1)

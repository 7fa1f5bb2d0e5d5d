"""Standardization: the change of units between a flow and its data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.transforms.base import PointTransform
from pyro_pcflow.transforms.checks import check_point_shape

__all__ = ["Standardize", "standardize"]


class Standardize(PointTransform):
    """Standardization: one scale for all coordinates and a shift per coordinate, of training points, never learned.

    From noise to data `y = x * scale + loc`. The scale is a single number, so that shapes keep their proportions.
    It starts as the identity; `fit` sets it.

    Args:
        point_dim: number of coordinates `D`.

    Examples:
        >>> units = Standardize(2)
        >>> units.fit(torch.tensor([[0.0, 10.0], [2.0, 12.0]]))
        >>> units(torch.zeros(2)).tolist()
        [1.0, 11.0]
    """

    @property
    def is_affine(self) -> bool:
        """True: it carries a Gaussian to a Gaussian."""
        return True

    loc: Tensor
    scale: Tensor

    def __init__(self, point_dim: int) -> None:
        super().__init__(point_dim)
        self.register_buffer("loc", torch.zeros(point_dim))
        self.register_buffer("scale", torch.ones(()))
        self.fitted = False

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"point_dim": self.point_dim}

    @torch.no_grad()
    def fit(self, points: Tensor) -> None:
        """Set the shift to the mean of the points and the scale to their standard deviation.

        Args:
            points: shape `(*batch, D)`, in the data's units.

        Raises:
            ValueError: if the points are not finite, or all the same.
        """
        check_point_shape(points.shape, self.point_dim)
        points = points.detach().reshape(-1, self.point_dim).to(self.loc)
        loc = points.mean(0)
        scale = (points - loc).square().mean().sqrt()
        if not (loc.isfinite().all() and scale.isfinite() and scale > 0):
            raise ValueError(
                f"cannot take units from {len(points)} points with mean {loc.tolist()} and standard deviation "
                f"{scale.item()}: expected finite points that are not all the same"
            )
        self.loc.copy_(loc)
        self.scale.copy_(scale)
        self.fitted = True

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.loc, x, self.scale), self._log_det().expand(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return (y - self.loc) / self.scale, -self._log_det().expand(y.shape[:-1])

    def _log_det(self) -> Tensor:
        return self.point_dim * self.scale.log()

    def get_extra_state(self) -> dict[str, Any]:
        return {"fitted": self.fitted}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.fitted = bool(state["fitted"])

    def extra_repr(self) -> str:
        return f"{self.point_dim}, fitted={self.fitted}"


def standardize(point_dim: int) -> Standardize:
    """Make a `Standardize`.

    Args:
        point_dim: number of coordinates `D`.

    Examples:
        >>> units = standardize(3)
        >>> units.fit(100 + 7 * torch.randn(1000, 3))
        >>> noise = units.inv(100 + 7 * torch.randn(1000, 3))
        >>> bool(noise.mean().abs() < 0.2)
        True
    """
    return Standardize(point_dim)

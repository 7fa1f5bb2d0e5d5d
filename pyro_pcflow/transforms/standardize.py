"""Standardization: the change of units between a flow and its data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_pcflow.ops.origin import find_origin, origin_text, relative
from pyro_pcflow.transforms.base import PointTransform
from pyro_pcflow.transforms.checks import check_point_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Standardize", "scales_of", "standardize"]


class Standardize(PointTransform):
    """Standardization: one scale for all coordinates and a shift per coordinate, of training points, never learned.

    From noise to data `y = x * scale + loc`. The scale of the coordinates is a single number, so that shapes keep their
    proportions; each feature has a scale of its own. It starts as the identity; `fit` sets it.

    Data whose coordinates are too large for the data type of `loc` and `scale`, as those of maps in float32, has an
    origin: `y = origin + (x * scale + loc)`, added and subtracted in float64, in which such data is; noise and
    log-determinants have the data type of the rest.

    Args:
        point_dim: number of coordinates `D` of a point, features included.
        feature_dim: how many of the last of them are features, such as an intensity, whose units are none of length.

    Raises:
        ValueError: if no coordinate is left.

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
    # No buffer, which `module.float()` would round.
    _origin: Tensor | None = None

    def __init__(self, point_dim: int, feature_dim: int = 0) -> None:
        super().__init__(point_dim)
        if not 0 <= feature_dim < point_dim:
            raise ValueError(f"feature_dim must be less than point_dim={point_dim}, and at least 0, got {feature_dim}")
        self.feature_dim = feature_dim
        self.register_buffer("loc", torch.zeros(point_dim))
        self.register_buffer("scale", torch.ones(point_dim if feature_dim else ()))
        self.fitted = False

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"point_dim": self.point_dim} | ({"feature_dim": self.feature_dim} if self.feature_dim else {})

    @property
    def origin(self) -> Tensor | None:
        """What is subtracted from data in float64, shape `(D,)`; None where nothing is."""
        return self._origin

    @property
    def data_dtype(self) -> torch.dtype:
        """The data type of data: float64 with an origin, else that of the weights."""
        return self.loc.dtype if self._origin is None else torch.float64

    @torch.no_grad()
    def fit(self, points: Tensor, origin: Tensor | None = None) -> None:
        """Set the shift to the mean of the points and the scales to their standard deviations.

        Args:
            points: shape `(*batch, D)`, in the data's units.
            origin: what is subtracted from them first, shape `(D,)`; by default points in float64 get one where the
                data type of the weights needs one, see `pyro_pcflow.ops.origin.find_origin`.

        Raises:
            ValueError: if the points are not finite, or all the same.
        """
        check_point_shape(points.shape, self.point_dim)
        points = points.detach().reshape(-1, self.point_dim)
        if origin is None and self.loc.dtype != torch.float64:
            origin = find_origin(points, feature_dim=self.feature_dim)
        if origin is not None:
            check_point_shape(origin.shape, self.point_dim)
            origin = origin.detach().to(self.loc.device, torch.float64)
            points = relative(points.to(self.loc.device), origin, self.loc.dtype)
        points = points.to(self.loc)
        loc = points.mean(0)
        scale = scales_of(points, self.feature_dim)
        if not (loc.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError(
                f"cannot take units from {len(points)} points with mean {loc.tolist()} and standard deviation "
                f"{scale.tolist()}: expected finite points that are not all the same, nor any of their features"
            )
        self.loc.copy_(loc)
        self.scale.copy_(scale)
        self._origin = origin
        self.fitted = True

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.addcmul(self.loc, x, self.scale)
        return y if self._origin is None else self._origin + y, self._log_det().expand(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._origin is not None:
            y = relative(y, self._origin, self.loc.dtype)
        return (y - self.loc) / self.scale, -self._log_det().expand(y.shape[:-1])

    def _log_det(self) -> Tensor:
        return self.scale.log().sum() if self.feature_dim else self.point_dim * self.scale.log()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self._origin is not None:
            self._origin = self._origin.to(self.loc.device)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        return {"fitted": self.fitted, "origin": [] if self._origin is None else self._origin.tolist()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        # Files of before had no origin.
        numbers = [float(number) for number in state.get("origin", ())]
        if len(numbers) not in (0, self.point_dim) or not all(map(math.isfinite, numbers)):
            raise ValueError(f"expected an origin of {self.point_dim} finite numbers, or none, got {numbers}")
        self._origin = torch.tensor(numbers, dtype=torch.float64, device=self.loc.device) if numbers else None
        self.fitted = bool(state["fitted"])

    def extra_repr(self) -> str:
        origin = "" if self._origin is None else f", origin={origin_text(self._origin)}"
        features = f", feature_dim={self.feature_dim}" if self.feature_dim else ""
        return f"{self.point_dim}{features}, fitted={self.fitted}{origin}"


def scales_of(points: Tensor, feature_dim: int) -> Tensor:
    """Standard deviations: one of all coordinates together, and one of each feature.

    Args:
        points: shape `(N, D)`.
        feature_dim: how many of the last coordinates are features.

    Returns:
        Shape `()` without features, else `(D,)`.

    Examples:
        >>> scales_of(torch.tensor([[0.0, 2.0, 10.0], [2.0, 0.0, 30.0]]), 1).tolist()
        [1.0, 1.0, 10.0]
    """
    squares = (points - points.mean(0)).square()
    if not feature_dim:
        return squares.mean().sqrt()
    variances = squares.mean(0)
    place = points.shape[-1] - feature_dim
    return torch.cat([variances[:place].mean().expand(place), variances[place:]]).sqrt()


def standardize(point_dim: int, feature_dim: int = 0) -> Standardize:
    """Make a `Standardize`.

    Args:
        point_dim: number of coordinates `D` of a point, features included.
        feature_dim: how many of the last of them are features, with a scale each.

    Examples:
        >>> units = standardize(3)
        >>> units.fit(100 + 7 * torch.randn(1000, 3))
        >>> noise = units.inv(100 + 7 * torch.randn(1000, 3))
        >>> bool(noise.mean().abs() < 0.2)
        True
    """
    return Standardize(point_dim, feature_dim)

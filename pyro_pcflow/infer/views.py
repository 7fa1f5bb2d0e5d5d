"""Random partial views of clouds, as sensors record them, to train a completer on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["VIEWS", "Crop", "DepthCamera", "Hole", "OneOf", "OneSide", "Outliers", "View", "Whole"]

# From clouds (B, N, D) and their mask (B, N) to the points that a sensor records of them, and their mask. It draws from
# torch's generators.
View = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# Points that a pixel of a depth camera should see of a surface without holes: with one or two, what lies behind shows
# through.
POINTS_PER_PIXEL = 24.0
# How far, in pixels, a steep part of the same surface lies behind its nearest point.
PIXELS_DEEP = 2.0


@dataclass(frozen=True)
class Whole:
    """All points.

    Examples:
        >>> points, mask = torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
        >>> bool(Whole()(points, mask)[1].all())
        True
    """

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return points, mask


@dataclass(frozen=True)
class OneSide:
    """The points on one side of a plane with a soft edge: half of the time along an axis, or else in any direction.

    Args:
        offset: standard deviation of the plane's distance from the middle of a cloud, as a share of half of its longest
            side.
        softness: width of the edge, as the same share, see `SoftHalfSpace`.

    Raises:
        ValueError: if a number is negative.

    Examples:
        >>> points, mask = torch.randn(2, 500, 3), torch.ones(2, 500, dtype=torch.bool)
        >>> OneSide()(points, mask)[1].shape
        torch.Size([2, 500])
    """

    offset: float = 0.2
    softness: float = 0.05

    def __post_init__(self) -> None:
        if self.offset < 0 or self.softness < 0:
            raise ValueError(f"expected an offset and a softness of at least 0, got {self.offset} and {self.softness}")

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        middle, half = _box(points, mask)
        height = torch.einsum("bnd,bd->bn", points - middle, random_directions(points)) / half
        edge = self.offset * _normal(points, 1) + self.softness * torch.randn_like(height)
        return points, mask & (height > edge)


@dataclass(frozen=True, eq=False)
class DepthCamera:
    """The points that a camera far away sees, those that lie behind others left out.

    A point is hidden if another one lies before it, within a pixel, by more than `depth`, or than two sides of a pixel,
    as a steep part of one surface may. A pixel is so large that it sees two dozen points: few points hide little
    of each other.

    Args:
        depth: how far a point may lie behind the nearest one, as a share of half of the longest side of its cloud.
        towards: unit vectors from the clouds to the camera, shape `(3,)` or `(B, 3)`; new random ones by default.

    Raises:
        ValueError: if the depth is not positive; called on points of other than 3 coordinates.

    Examples:
        >>> points = torch.nn.functional.normalize(torch.randn(2, 2000, 3), dim=-1)
        >>> seen = DepthCamera()(points, torch.ones(2, 2000, dtype=torch.bool))[1]
        >>> bool((seen.float().mean(-1) < 0.75).all())
        True
    """

    depth: float = 0.1
    towards: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.depth > 0:
            raise ValueError(f"expected a positive depth, got {self.depth}")

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if points.shape[-1] != 3:
            raise ValueError(f"a camera sees points of 3 coordinates, got {points.shape[-1]}")
        middle, half = _box(points, mask)
        towards = random_directions(points) if self.towards is None else self.towards.expand(len(points), 3)
        frame = _frames(towards)
        seen = torch.einsum("bnd,bde->bne", (points - middle) / half.unsqueeze(-1), frame)
        # The silhouette fills a part of a square of side 2; half of a surface lies in front.
        area = seen[..., :2].masked_fill(~mask.unsqueeze(-1), 0.0).square().sum(-2).prod(-1).sqrt()
        count = mask.sum(-1).clamp(min=1)
        pixel = (POINTS_PER_PIXEL * 2 * math.pi * area / count.square()).sqrt().clamp(min=1e-6)
        cells = ((seen[..., :2] / pixel[:, None, None]).floor().long() + 2**10).clamp(0, 2**11 - 1)
        key = cells[..., 0] * 2**11 + cells[..., 1] + torch.arange(len(points), device=points.device)[:, None] * 2**22
        _, index = key.unique(return_inverse=True)
        height = seen[..., 2].masked_fill(~mask, -torch.inf)
        nearest = height.new_full((int(index.max()) + 1,), -torch.inf)
        nearest = nearest.scatter_reduce(0, index.flatten(), height.flatten(), "amax")[index]
        return points, mask & (height >= nearest - (PIXELS_DEEP * pixel).clamp(min=self.depth).unsqueeze(-1))


@dataclass(frozen=True)
class Crop:
    """The points in a box about a random point, as if the rest were beyond the edge of a picture.

    Args:
        least: the least half length of the box's sides, as a share of half of the cloud's longest side.
        most: the largest.

    Raises:
        ValueError: unless `0 < least <= most`.

    Examples:
        >>> points, mask = torch.randn(2, 500, 3), torch.ones(2, 500, dtype=torch.bool)
        >>> bool(Crop()(points, mask)[1].any(-1).all())
        True
    """

    least: float = 0.3
    most: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise ValueError(f"expected 0 < least <= most, got least={self.least}, most={self.most}")

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        _, half = _box(points, mask)
        sides = torch.empty_like(points[:, 0]).uniform_(self.least, self.most) * half
        return points, mask & ((points - _random_points(points, mask)).abs() <= sides.unsqueeze(1)).all(-1)


@dataclass(frozen=True)
class Hole:
    """All points but those in a ball about a random one.

    Args:
        least: the least radius, as a share of half of the cloud's longest side.
        most: the largest.

    Raises:
        ValueError: unless `0 < least <= most`.

    Examples:
        >>> points, mask = torch.randn(2, 500, 3), torch.ones(2, 500, dtype=torch.bool)
        >>> bool(Hole()(points, mask)[1].all())
        False
    """

    least: float = 0.2
    most: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise ValueError(f"expected 0 < least <= most, got least={self.least}, most={self.most}")

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        _, half = _box(points, mask)
        radius = torch.empty_like(half).uniform_(self.least, self.most) * half
        left = mask & ((points - _random_points(points, mask)).norm(dim=-1) > radius)
        # A hole that leaves nothing is none.
        return points, torch.where(left.any(-1, keepdim=True), left, mask)


@dataclass(frozen=True)
class Outliers:
    """Another view in which some points are outliers, uniform in a box somewhat larger than the cloud.

    Args:
        view: the other view.
        most: the largest share of outliers; it is uniform between 0 and this.
        margin: the sides of the box, as a multiple of those of the cloud.

    Raises:
        ValueError: if a number is out of range.

    Examples:
        >>> points, mask = torch.zeros(2, 500, 3), torch.ones(2, 500, dtype=torch.bool)
        >>> points[:, ::2] = 1.0
        >>> seen, _ = Outliers(Whole(), most=0.1)(points, mask)
        >>> bool((seen != points).any())
        True
    """

    view: View
    most: float = 0.05
    margin: float = 1.2

    def __post_init__(self) -> None:
        if not 0 <= self.most <= 1 or not self.margin > 0:
            raise ValueError(
                f"expected a share between 0 and 1 and a positive margin, got most={self.most}, margin={self.margin}"
            )

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        low, high = _bounds(points, mask)
        places = torch.empty_like(points).uniform_(-0.5, 0.5) * self.margin * (high - low) + 0.5 * (low + high)
        points, mask = self.view(points, mask)
        share = self.most * torch.rand_like(points[:, :1, 0])
        drawn = torch.rand_like(points[..., 0]) < share
        return torch.where(drawn.unsqueeze(-1), places, points), mask


@dataclass(frozen=True)
class OneOf:
    """One of several views, drawn for each cloud.

    Args:
        views: the views, which leave points in their places.
        weights: how often each is drawn, relative to the others; all alike by default.

    Raises:
        ValueError: if there is no view, or not one weight for each.

    Examples:
        >>> points, mask = torch.randn(2, 500, 3), torch.ones(2, 500, dtype=torch.bool)
        >>> OneOf((Whole(), OneSide()))(points, mask)[1].shape
        torch.Size([2, 500])
    """

    views: Sequence[View]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.views or (self.weights is not None and len(self.weights) != len(self.views)):
            raise ValueError(
                f"expected at least one view, and a weight for each, got {len(self.views)} views and "
                f"{'no' if self.weights is None else len(self.weights)} weights"
            )

    def __call__(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        weights = points.new_ones(len(self.views)) if self.weights is None else points.new_tensor(self.weights)
        drawn = torch.multinomial(weights, len(points), replacement=True)
        seen, recorded = points.clone(), mask.clone()
        for number, view in enumerate(self.views):
            rows = (drawn == number).nonzero().squeeze(-1)
            if len(rows):
                seen[rows], recorded[rows] = view(points[rows], mask[rows])
        return seen, recorded


# What a completer is trained on unless it is told otherwise.
VIEWS = OneOf((OneSide(), DepthCamera(), Crop(), Hole(), Whole()), (4.0, 2.0, 2.0, 1.0, 1.0))


def _bounds(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest coordinates of the points of clouds, shape `(B, 1, D)`."""
    outside = ~mask.unsqueeze(-1)
    low = points.masked_fill(outside, torch.inf).amin(1, keepdim=True)
    return low, points.masked_fill(outside, -torch.inf).amax(1, keepdim=True)


def _box(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The middles of the bounding boxes of clouds, `(B, 1, D)`, and half of their longest sides, `(B, 1)`."""
    low, high = _bounds(points, mask)
    return 0.5 * (low + high), (0.5 * (high - low)).amax(-1).clamp(min=torch.finfo(points.dtype).tiny)


def _normal(points: Tensor, size: int) -> Tensor:
    """Standard normals for each cloud, shape `(B, size)`."""
    return torch.randn(len(points), size, dtype=points.dtype, device=points.device)


def random_directions(points: Tensor) -> Tensor:
    """A unit vector for each cloud, shape `(B, D)`: half of the time along an axis."""
    vectors = _normal(points, points.shape[-1])
    axes = torch.zeros_like(vectors).scatter(-1, vectors.abs().argmax(-1, keepdim=True), 1.0) * vectors.sign()
    along = torch.rand_like(vectors[:, :1]) < 0.5
    return F.normalize(torch.where(along, axes, vectors), dim=-1)


def _frames(towards: Tensor) -> Tensor:
    """Rotations whose last column is the given unit vector, shape `(B, 3, 3)`."""
    other = F.one_hot(towards.abs().argmin(-1), 3).to(towards)
    first = F.normalize(torch.linalg.cross(towards, other), dim=-1)
    return torch.stack([first, torch.linalg.cross(towards, first), towards], -1)


def _random_points(points: Tensor, mask: Tensor) -> Tensor:
    """A point of each cloud, shape `(B, 1, D)`."""
    row = torch.where(mask, torch.rand_like(points[..., 0]), -1.0).argmax(-1)
    return points.gather(1, row[:, None, None].expand(-1, 1, points.shape[-1]))

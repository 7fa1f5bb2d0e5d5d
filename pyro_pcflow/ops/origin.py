"""Origins of coordinates: what is subtracted from map coordinates before float32 would round them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_pcflow.ops.spacing import point_spacing

__all__ = ["as_exact", "find_origin", "narrowed", "origin_text", "relative"]

# The largest error of a coordinate in float32, per distance between neighbours.
HARMLESS = 1e-3
# So much smaller coordinates must become, or an origin is not worth it: two bits of 24.
LEAST_GAIN = 4.0
# Enough for a median.
POINTS_FOR_CENTRE = 2**16
# Enough for the distances between their points.
SOME_CLOUDS = 16
# What float64 still counts one by one.
LARGEST_WHOLE = 2**53


def find_origin(points: Tensor, clouds: Sequence[Tensor] | None = None, feature_dim: int = 0) -> Tensor | None:
    """The origin that must be subtracted before points become float32, if they need one.

    None of points that float32 can hold: by a thousandth of the distance between neighbours or better, or no worse than
    if they were counted from their centre. Medians decide, so that a few points astray change nothing.

    Args:
        points: shape `(*batch, D)`.
        clouds: shape `(N, D)` each, those whose distances between neighbours count; by default all points are one.
        feature_dim: how many of the last coordinates are features, each of which counts by itself: float32 must hold it
            by a thousandth of its spread.

    Returns:
        The centre of the points in whole multiples of a power of ten, or of two below 1, that is no larger than the
        cloud: shape `(D,)` in float64; 0 where coordinates, or a feature, need none. Always None of points in float32
        or narrower, which have been rounded already.

    Examples:
        >>> cube = torch.rand(1000, 3, dtype=torch.float64)
        >>> find_origin(cube) is None
        True
        >>> find_origin(100 * cube + torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)).tolist()
        [701410.0, 4485560.0, 90.0]
    """
    if points.is_floating_point() and points.dtype != torch.float64:
        return None
    points = points.detach().reshape(-1, points.shape[-1])
    place = points.shape[-1] - feature_dim
    some = points[:: max(1, len(points) // POINTS_FOR_CENTRE)].double()
    some = some[some.isfinite().all(-1)]
    if not len(some):
        return None
    origin = torch.zeros_like(some[0])
    centre = _whole_centre(some[:, :place])
    if centre is not None:
        finite = points[points.double().isfinite().all(-1)]
        spacings = [point_spacing(cloud[:, :place]) for cloud in clouds or [finite]]
        spacing = min((spacing for spacing in spacings if spacing > 0), default=point_spacing(finite[:, :place]))
        if _rounding(some[:, :place]) > HARMLESS * spacing > 0:
            origin[:place] = centre
    for column in range(place, points.shape[-1]):
        feature = some[:, column : column + 1]
        centre = _whole_centre(feature)
        if centre is not None and _rounding(feature) > HARMLESS * _typical(feature - feature.median()):
            origin[column : column + 1] = centre
    return origin if bool(origin.any()) else None


def relative(points: Tensor, origin: Tensor, dtype: torch.dtype) -> Tensor:
    """Points counted from an origin: subtracted in float64, then converted.

    Args:
        points: shape `(*batch, D)`.
        origin: shape `(D,)`, in float64.
        dtype: data type of the result.

    Examples:
        >>> origin = torch.tensor([701362.0, 4485513.0], dtype=torch.float64)
        >>> relative(origin + 0.125, origin, torch.float32)
        tensor([0.1250, 0.1250])
    """
    return (points.to(torch.float64) - origin).to(dtype)


def as_exact(points: Tensor, dtype: torch.dtype, name: str = "points") -> Tensor:
    """Points in a data type, or in float64 if they are wider than it or whole numbers that it may not hold.

    Args:
        points: of any shape and type.
        dtype: data type of the weights.
        name: what the points are called in an error.

    Raises:
        ValueError: if float64 does not hold them, either.
    """
    if points.is_floating_point():
        return points.to(torch.float64 if points.dtype == torch.float64 else dtype)
    if points.dtype.itemsize <= 2:
        return points.to(dtype)
    exact = points.to(torch.float64)
    if bool((exact.abs() >= LARGEST_WHOLE).any()):
        raise ValueError(f"{name}: whole numbers of 2**53 or more, which float64 may round: subtract an origin first")
    return exact


def narrowed(
    points: Tensor, dtype: torch.dtype, name: str, clouds: Sequence[Tensor] | None = None, feature_dim: int = 0
) -> Tensor:
    """Points in a data type that must hold them.

    Args:
        points: shape `(*batch, D)`.
        dtype: data type of the result.
        name: what the points are called in an error.
        clouds: see `find_origin`; by default some of those of shape `(*batch, N, D)`.
        feature_dim: see there.

    Raises:
        ValueError: if a narrower type would round their differences away.
    """
    if clouds is None and points.dim() > 2:
        clouds = list(points.flatten(0, -3)[:SOME_CLOUDS])
    if dtype != torch.float64 and (origin := find_origin(points, clouds, feature_dim)) is not None:
        raise ValueError(
            f"{name}: these coordinates are so large that {dtype} would round away what distinguishes neighbouring "
            f"points: subtract an origin first, in float64, for example {origin_text(origin)}, as in points - origin"
        )
    return points.to(dtype)


def origin_text(origin: Tensor) -> str:
    """An origin in words.

    Examples:
        >>> origin_text(torch.tensor([701362.0, 4485513.5], dtype=torch.float64))
        '(701362, 4485513.5)'
    """
    return f"({', '.join(f'{value:.12g}' for value in origin.tolist())})"


def _typical(points: Tensor) -> float:
    """The median of the largest coordinates of points."""
    return float(points.abs().amax(-1).median())


def _rounding(points: Tensor) -> float:
    """The largest error of such points in float32."""
    return 0.5 * torch.finfo(torch.float32).eps * _typical(points)


def _whole_centre(points: Tensor) -> Tensor | None:
    """The centre of finite points in round numbers; None where counting from it gains nothing."""
    centre = points.median(0).values
    spread = _typical(points - centre) or float((points - centre).abs().max())
    if not 0 < spread < math.inf:
        return None
    unit = 10.0 ** math.floor(math.log10(spread)) if spread >= 1 else 2.0 ** math.floor(math.log2(spread))
    whole = (centre / unit).round() * unit
    return whole if _typical(points) >= LEAST_GAIN * _typical(points - whole) else None

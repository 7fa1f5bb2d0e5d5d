"""What callers hand over, checked once at the border and turned into float64 arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Points: TypeAlias = "torch.Tensor | Array"
Clouds: TypeAlias = "Points | Sequence[Any] | Mapping[str, Any]"


def as_array(value: Any, name: str) -> Array:
    """Return real numbers as a float64 array, detached from any graph and device.

    Args:
        value: a tensor on any device, or anything that NumPy reads as numbers.
        name: what to call it in an error.

    Returns:
        A float64 array of the same shape; never a view that a caller may write through.

    Raises:
        TypeError: not numbers, or complex ones.

    Examples:
        >>> as_array(torch.ones(2, 3, requires_grad=True), "cloud").shape
        (2, 3)
    """
    if isinstance(value, torch.Tensor):
        if value.is_complex():
            raise TypeError(f"{name}: expected real numbers, got a {value.dtype} tensor")
        return value.detach().to("cpu", torch.float64, copy=True).numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name}: expected a tensor or an array of numbers, got a ragged list") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected a tensor or an array of numbers, got {type(value).__name__}")
    return array.astype(np.float64)


def check_points(points: Array, name: str, ranks: Sequence[int] = (2,)) -> Array:
    """Check that an array holds finite points.

    Args:
        points: (N, D), or (T, N, D) where `ranks` has 3.
        name: what to call it in an error.
        ranks: the ranks that are allowed.

    Returns:
        The first three coordinates, (..., N, min(D, 3)).

    Raises:
        ValueError: another rank, no points, fewer than two coordinates, or points that are not finite.

    Examples:
        >>> check_points(np.zeros((4, 6)), "cloud").shape
        (4, 3)
    """
    if points.ndim not in ranks:
        shapes = " or ".join({2: "(N, D)", 3: "(T, N, D)"}[rank] for rank in ranks)
        raise ValueError(f"{name}: expected shape {shapes}, got {points.shape}")
    if points.shape[-1] < 2:
        raise ValueError(f"{name}: points need at least 2 coordinates, got shape {points.shape}")
    if 0 in points.shape:
        raise ValueError(f"{name}: there are no points in it, its shape is {points.shape}")
    points = points[..., :3]
    check_finite(np.asarray(np.isfinite(points).all(-1)), name, "points")
    return points


def check_finite(finite: Array, name: str, what: str) -> None:
    """Say how many entries are NaN or infinite, and where the first one is.

    Args:
        finite: boolean, of any shape; false marks an entry that is not finite.
        name: what to call the whole in an error.
        what: what to call its entries, in the plural.

    Raises:
        ValueError: some entry is not finite.

    Examples:
        >>> check_finite(np.array([True, False, False]), "cloud", "points")
        Traceback (most recent call last):
            ...
        ValueError: cloud: 2 of 3 points are not finite, the first at index 1
    """
    bad = np.argwhere(~finite)
    if len(bad):
        first = ", ".join(str(index) for index in bad[0])
        raise ValueError(f"{name}: {len(bad)} of {finite.size} {what} are not finite, the first at index {first}")


def as_rows(clouds: Clouds) -> tuple[list[list[Any]], list[str] | None, bool]:
    """Rows of single clouds, not yet checked, from any arrangement of clouds.

    Args:
        clouds: (N, D), (S, N, D), a list of these, a list of lists of (N, D), or a mapping from names to these.

    Returns:
        The rows; the names, where there are any; and whether the rows were the caller's own: if not, there is
        one row, to be folded as one likes.

    Raises:
        TypeError: not clouds at all.
        ValueError: nothing to show, or a wrong rank.

    Examples:
        >>> rows, names, own = as_rows({"data": torch.zeros(4, 9, 3), "samples": torch.zeros(2, 9, 3)})
        >>> [len(row) for row in rows], names, own
        ([4, 2], ['data', 'samples'], True)
    """
    names = None
    if isinstance(clouds, Mapping):
        names, clouds = [str(key) for key in clouds], list(clouds.values())
    if isinstance(clouds, (torch.Tensor, np.ndarray)):
        if clouds.ndim not in (2, 3):
            raise ValueError(f"clouds: expected shape (N, D) or (S, N, D), got {tuple(clouds.shape)}")
        single, clouds = clouds.ndim == 2, cast(Any, clouds)
        items = [clouds] if single else list(clouds)
        own = False
    elif isinstance(clouds, Sequence) and not isinstance(clouds, (str, bytes)):
        items = [_as_item(item, f"clouds[{index}]") for index, item in enumerate(clouds)]
        own = any(isinstance(item, list) for item in items)
    else:
        raise TypeError(f"clouds: expected tensors or arrays of points, got {type(clouds).__name__}")
    if not items or any(isinstance(item, list) and not item for item in items):
        raise ValueError("clouds: there is nothing to show, a list of clouds is empty")
    if own:
        return [item if isinstance(item, list) else [item] for item in items], names, True
    return [items], names, False


def _as_item(item: Any, name: str) -> Any:
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return list(item) if item.ndim == 3 else item
    if isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
        return list(item)
    raise TypeError(f"{name}: expected a tensor or an array of points, got {type(item).__name__}")


def mirror(values: Any, rows: list[list[Any]], own: bool, name: str) -> list[list[Any]]:
    """Values that are arranged like the clouds, as one entry per cloud.

    Args:
        values: one for all (None, a string, or one entry for every point of any cloud), or arranged as the clouds are.
        rows: the clouds, as `as_rows` returns them.
        own: whether the rows are the caller's.
        name: what to call the values in an error.

    Returns:
        Lists of the same lengths as `rows`.

    Raises:
        ValueError: another number of entries than there are clouds.

    Examples:
        >>> mirror(["red", "blue"], [[1, 2], [3]], True, "colors")
        [['red', 'red'], ['blue']]
    """
    if values is None or isinstance(values, str):
        return [[values] * len(row) for row in rows]
    if isinstance(values, Mapping):
        values = list(values.values())
    if own:
        parts = _deal(values, len(rows), name, "rows")
        return [
            _deal_row(part, row, f"{name}[{index}]") for index, (part, row) in enumerate(zip(parts, rows, strict=True))
        ]
    return [_deal_row(values, rows[0], name)]


def _deal_row(values: Any, row: list[Any], name: str) -> list[Any]:
    if values is None or isinstance(values, str):
        return [values] * len(row)
    shape = getattr(values, "shape", None)
    if shape is not None and tuple(shape[:2]) != (len(row), len(row[0])) and len(shape) <= 2:
        # One entry per point, not per cloud: the same points at several moments.
        return [values] * len(row)
    return _deal(values, len(row), name, "clouds")


def _deal(values: Any, count: int, name: str, what: str) -> list[Any]:
    parts = list(values)
    if len(parts) != count:
        raise ValueError(f"{name}: expected one entry for each of {count} {what}, got {len(parts)}")
    return parts


def check_mask(mask: Any, points: Array, name: str) -> Array:
    """Keep the points that a mask marks as real.

    Args:
        mask: (N,), true for a point that is there, or None for all of them.
        points: (N, D).
        name: what to call the mask in an error.

    Returns:
        Boolean, (N,).

    Raises:
        ValueError: another shape, or no point left.

    Examples:
        >>> check_mask(torch.tensor([1, 0]), np.zeros((2, 3)), "mask").tolist()
        [True, False]
    """
    if mask is None:
        return np.ones(len(points), dtype=bool)
    keep = as_array(mask, name).astype(bool)
    if keep.shape != points.shape[:1]:
        raise ValueError(f"{name}: expected shape {points.shape[:1]}, one entry per point, got {keep.shape}")
    if not keep.any():
        raise ValueError(f"{name}: it leaves no point to show")
    return keep

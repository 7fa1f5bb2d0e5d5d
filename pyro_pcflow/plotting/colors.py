"""Colours of points: one colour, a scale of scalars, parts, or position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyro_pcflow.plotting.arrays import Array, as_array, check_finite

INKS = ("#4878a8", "#d07a4a", "#4f9a7e", "#9a6fb0", "#b8943a", "#c2607c")


@dataclass(frozen=True)
class Scale:
    """How scalars become colours, the same for all clouds of one picture.

    Attributes:
        low: the scalar at the low end.
        high: the scalar at the high end.
        cmap: the name of a Matplotlib colormap.
        under: whether some scalar lies below `low`.
        over: whether some scalar lies above `high`.

    Examples:
        >>> Scale(0.0, 2.0, "viridis")(np.array([0.0, 2.0])).round(2).tolist()
        [[0.27, 0.0, 0.33], [0.99, 0.91, 0.14]]
    """

    low: float
    high: float
    cmap: str
    under: bool = False
    over: bool = False

    def __call__(self, scalars: Array) -> Array:
        """Return colours, (N, 3), of scalars, (N,)."""
        from matplotlib import colormaps

        share = np.clip((scalars - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.asarray(colormaps[self.cmap](share))[..., :3]


def make_scale(scalars: Sequence[Array], cmap: str, limits: tuple[float, float] | None) -> Scale:
    """Return one scale for several clouds.

    Args:
        scalars: one array per cloud.
        cmap: the name of a Matplotlib colormap.
        limits: the scalars at both ends; None for the 1st and the 99th percentile, as log-densities have long tails.

    Returns:
        The scale.

    Raises:
        ValueError: an unknown colormap, or limits that are not in order.

    Examples:
        >>> make_scale([np.array([3.0, 3.0])], "viridis", None).low
        2.5
    """
    from matplotlib import colormaps

    if cmap not in colormaps:
        raise ValueError(f"cmap: Matplotlib has no colormap {cmap!r}")
    values = np.concatenate([np.ravel(part) for part in scalars])
    low, high = np.quantile(values, [0.01, 0.99]) if limits is None else limits
    if limits is not None and not low < high:
        raise ValueError(f"color_limits: expected low < high, got {limits}")
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return Scale(float(low), float(high), cmap, bool(values.min() < low), bool(values.max() > high))


def check_colors(colors: Any, num_points: int, name: str) -> Array | str | None:
    """Check the colours of one cloud.

    Args:
        colors: None, a string, scalars (N,), red, green and blue in [0, 1], (N, 3), or parts, whole numbers from 0 of
            an integer type, (N,).
        num_points: N.
        name: what to call them in an error.

    Returns:
        None, the string, or a float64 array, (N,) or (N, 3); parts come back as colours.

    Raises:
        TypeError: not numbers.
        ValueError: another shape, numbers that are not finite, colours outside [0, 1], or a negative part.

    Examples:
        >>> check_colors([0.5, 1.5], 2, "colors")
        array([0.5, 1.5])
    """
    if colors is None or isinstance(colors, str):
        return colors
    array = as_array(colors, name)
    if array.shape not in ((num_points,), (num_points, 3)):
        raise ValueError(
            f"{name}: expected shape ({num_points},) for scalars or ({num_points}, 3) for colours, got {array.shape}"
        )
    check_finite(np.isfinite(array), name, "values")
    if are_parts(colors):
        return part_colors(array.astype(int), name)
    if array.ndim == 2 and (array.min() < 0 or array.max() > 1):
        raise ValueError(f"{name}: red, green and blue must lie in [0, 1], got [{array.min()}, {array.max()}]")
    return array


def are_parts(colors: Any) -> bool:
    """Whether colours are the numbers of parts: one whole number per point, of an integer type.

    Examples:
        >>> are_parts([0, 1, 1]), are_parts([0.0, 1.0, 1.0]), are_parts("black"), are_parts(None)
        (True, False, False, False)
    """
    if colors is None or isinstance(colors, str):
        return False
    if isinstance(colors, torch.Tensor):
        return colors.ndim == 1 and not colors.is_floating_point() and not colors.is_complex()
    array = np.asarray(colors)
    return array.ndim == 1 and array.dtype.kind in "iub"


def part_colors(parts: Array, name: str = "colors") -> Array:
    """One colour per part, (N, 3); from the seventh part on the colours repeat, lighter, then darker.

    Args:
        parts: whole numbers from 0, (N,).
        name: what to call them in an error.

    Raises:
        ValueError: a negative part.

    Examples:
        >>> part_colors(np.array([0, 1, 0])).shape
        (3, 3)
    """
    if parts.size and parts.min() < 0:
        raise ValueError(f"{name}: parts are whole numbers from 0, got {parts.min()}")
    inks = np.array([ink(color) for color in INKS])
    # Six hues, three lightnesses: more parts cannot be distinguished by eye.
    shades = np.concatenate([inks, 0.5 + 0.5 * inks, 0.5 * inks])
    return shades[parts % len(shades)]


def ink(color: str, name: str = "colors") -> Array:
    """Return the red, green and blue of a colour that Matplotlib knows.

    Args:
        color: a name or a hexadecimal code.
        name: what to call it in an error.

    Returns:
        (3,), in [0, 1].

    Raises:
        ValueError: no such colour.

    Examples:
        >>> ink("#ff0000").tolist()
        [1.0, 0.0, 0.0]
    """
    from matplotlib.colors import to_rgb

    try:
        return np.array(to_rgb(color))
    except ValueError as error:
        raise ValueError(f'{name}: expected "position" or a colour that Matplotlib knows, got {color!r}') from error


def paint(
    colors: Array | str | None, points: Array, scale: Scale | None, default: str, box: Array | None = None
) -> Array:
    """One colour per point.

    Args:
        colors: as `check_colors` returns them; the string "position" colours by place.
        points: (N, 2) or (N, 3), the places that count for "position".
        scale: for scalars.
        default: what None stands for.
        box: for "position", the corners of what the colours cover, as `position_box` returns them.

    Returns:
        (N, 3), in [0, 1].

    Raises:
        ValueError: an unknown colour.

    Examples:
        >>> paint(None, np.zeros((5, 3)), None, "black").shape
        (5, 3)
    """
    colors = default if colors is None else colors
    if isinstance(colors, str):
        if colors == "position":
            return position_colors(points, box)
        return np.broadcast_to(ink(colors), (len(points), 3))
    if colors.ndim == 1:
        assert scale is not None
        return scale(colors)
    return colors


def position_box(points: Array) -> Array:
    """Two corners around points, (2, D), outliers left out.

    Examples:
        >>> position_box(np.array([[0.0, 1.0], [0.0, 1.0]])).tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """
    return np.quantile(points, [0.02, 0.98], axis=0)


def position_colors(points: Array, box: Array | None = None) -> Array:
    """Colour points by place, so that an eye can follow them.

    Hue runs along the longest axis, from teal over violet to orange; lightness along the second longest. Both are
    axes of OKLab (Ottosson, 2020), where equal steps look equal, so no place stands out.

    Args:
        points: (N, 2) or (N, 3).
        box: the corners of what the colours cover; by default those of the points. One box for several clouds gives
            one place one colour.

    Returns:
        (N, 3), in [0, 1].

    Examples:
        >>> position_colors(np.array([[0.0, 0.0], [9.0, 1.0]])).shape
        (2, 3)
    """
    low, high = position_box(points) if box is None else box
    order = np.argsort(low - high, kind="stable")
    place = np.clip((points - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    hue = np.deg2rad(195.0 + 215.0 * place[:, order[0]])
    light = 0.58 + 0.18 * place[:, order[1]]
    return _srgb(light, 0.125 * np.cos(hue), 0.125 * np.sin(hue))


def _srgb(light: Array, a: Array, b: Array) -> Array:
    cones = np.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ],
        -1,
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(cones**3 @ to_linear.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)

"""Clouds with their colours, checked, for the sheet and the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_pcflow.plotting.arrays import Array, Clouds, as_array, as_rows, check_mask, check_points, mirror
from pyro_pcflow.plotting.colors import INKS, Scale, are_parts, check_colors, make_scale, paint, position_box


@dataclass(frozen=True)
class Panel:
    """One cloud, ready to be drawn.

    Attributes:
        points: (N, 2) or (N, 3).
        colors: (N, 3), in [0, 1].
        scalar: whether the colours stand for scalars.
    """

    points: Array
    colors: Array
    scalar: bool


def gather(
    clouds: Clouds,
    colors: Any,
    mask: Any,
    cmap: str,
    limits: tuple[float, float] | None,
) -> tuple[list[list[Panel]], list[str] | None, bool, Scale | None]:
    """Check clouds and give every point its colour.

    Args:
        clouds: as `plot_clouds` takes them.
        colors: as `plot_clouds` takes them.
        mask: as `plot_clouds` takes it.
        cmap: the name of a Matplotlib colormap, for scalars.
        limits: the scalars at both ends of the colormap; None for the 1st and the 99th percentile.

    Returns:
        Rows of panels; their names, where there are any; whether the rows are the caller's own; and the scale of
        the scalars, if there are scalars.

    Raises:
        TypeError: something that is not numbers.
        ValueError: something that cannot be drawn; the message names it.

    Examples:
        >>> rows, *_ = gather(np.zeros((2, 5, 3)), None, None, "viridis", None)
        >>> [len(row) for row in rows], rows[0][0].colors.shape
        ([2], (5, 3))
    """
    rows, names, own = as_rows(clouds)
    masks, tints = mirror(mask, rows, own, "mask"), mirror(colors, rows, own, "colors")
    checked: list[list[tuple[Array, Array | str | None]]] = []
    for r, row in enumerate(rows):
        checked.append([])
        for c, cloud in enumerate(row):
            spot = f"[{r}][{c}]" if own else f"[{c}]" if len(row) > 1 else ""
            checked[-1].append(_check(cloud, tints[r][c], masks[r][c], spot))
    if len({points.shape[-1] for row in checked for points, _ in row}) > 1:
        raise ValueError("clouds: some points have two coordinates and some have more; draw them apart")
    scalars = [tint for row in checked for _, tint in row if not isinstance(tint, str | None) and tint.ndim == 1]
    scale = make_scale(scalars, cmap, limits) if scalars else None
    box = position_box(np.concatenate([points for row in checked for points, _ in row]))
    panels = [[_paint(*pair, scale, INKS[r % len(INKS)], box) for pair in row] for r, row in enumerate(checked)]
    return panels, names, own, scale


def _check(cloud: Any, tint: Any, mask: Any, spot: str) -> tuple[Array, Array | str | None]:
    everything = as_array(cloud, f"clouds{spot}")
    if everything.ndim != 2:
        raise ValueError(f"clouds{spot}: expected shape (N, D), got {everything.shape}")
    keep = check_mask(mask, everything, f"mask{spot}")
    points = check_points(everything[keep] if len(everything) else everything, f"clouds{spot}")
    if isinstance(tint, str | None):
        return points, tint
    values = as_array(tint, f"colors{spot}")
    if values.shape[:1] == keep.shape and not keep.all():
        values = values[keep]
    if are_parts(tint):
        values = values.astype(int)
    return points, check_colors(values, len(points), f"colors{spot}")


def _paint(points: Array, tint: Array | str | None, scale: Scale | None, default: str, box: Array) -> Panel:
    scalar = not isinstance(tint, str | None) and tint.ndim == 1
    return Panel(points, paint(tint, points, scale, default, box), scalar)


def check_titles(titles: Sequence[str] | str | None, count: int, what: str) -> list[str] | None:
    """Check that there is one title for each of what is shown.

    Args:
        titles: one per cloud or row, one string for a single one, or None.
        count: how many are due.
        what: what they are titles of, in the plural.

    Returns:
        The titles as strings.

    Raises:
        ValueError: another number of titles.

    Examples:
        >>> check_titles("spot", 1, "clouds")
        ['spot']
    """
    if titles is None:
        return None
    found = [titles] if isinstance(titles, str) else [str(title) for title in titles]
    if len(found) != count:
        raise ValueError(f"titles: expected {count}, one for each of the {what}, got {len(found)}")
    return found

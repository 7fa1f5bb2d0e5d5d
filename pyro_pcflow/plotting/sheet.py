"""Contact sheets: many clouds in one Matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyro_pcflow.ops.files import atomic_file
from pyro_pcflow.plotting.arrays import Array, Clouds
from pyro_pcflow.plotting.camera import Frame, frame_around, turn, view_matrix
from pyro_pcflow.plotting.colors import Scale, ink
from pyro_pcflow.plotting.panels import Panel, check_titles, gather
from pyro_pcflow.plotting.raster import dot_radius, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
# Pixels drawn for a pixel shown: figures are often saved at a higher resolution than they were made at.
_OVERDRAW = 1.5
_GAP, _TITLE, _LABEL, _EDGE, _BAR = 0.06, 0.26, 0.30, 0.08, 0.85


def plot_clouds(
    clouds: Clouds,
    *,
    colors: Any = None,
    titles: Sequence[str] | str | None = None,
    columns: int | None = None,
    size: float = 2.2,
    elev: float = 18.0,
    azim: float = 35.0,
    up: str = "y",
    mask: Any = None,
    cmap: str = "viridis",
    color_label: str = "",
    color_limits: tuple[float, float] | None = None,
    share_frame: bool = True,
    point_size: float = 1.0,
    background: str = "white",
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Draw a contact sheet of clouds.

    Points are small lit balls, seen from afar (lengths are kept), with all clouds at one scale. Points of two
    coordinates are drawn flat; of more than three, the first three count. A few points far outside the rest may
    be cut off. Nothing global is touched: no pyplot, no backend.

    Args:
        clouds: (N, D) for one cloud, (S, N, D) for several, a list of clouds of any sizes, a list of (S, N, D) for
            one row each (data beside samples), or a mapping from titles to any of these.
        colors: a colour that Matplotlib knows, "position" (by place), scalars such as log-densities, (N,), numbers of
            parts of an integer type, (N,), or red, green and blue, (N, 3); one for all, or arranged as `clouds` is.
            By default one colour per row.
        titles: one for each cloud, or for each row where `clouds` has rows.
        columns: clouds beside each other, where `clouds` has no rows of its own.
        size: inches of a panel's longer side.
        elev: degrees of the camera above the horizon.
        azim: degrees of the camera around the upright axis; 0 looks along z where y is up. For shapes that face -z,
            try 215.
        up: the axis that stands upright, with a minus sign where it hangs.
        mask: true for points that are there, arranged as `clouds` is; the others are not drawn.
        cmap: a Matplotlib colormap, for scalars.
        color_label: what the scalars are, beside the colour bar.
        color_limits: the scalars at both ends of the bar; by default the 1st and the 99th percentile.
        share_frame: whether all clouds keep one scale and place; otherwise each fills its panel.
        point_size: a factor on the size of points, which follows from their number.
        background: a colour that Matplotlib knows.
        ax: axes of your own to draw on, one for each cloud.

    Returns:
        A new figure, or that of `ax`; `figure.savefig(path)` writes it, a notebook shows it.

    Raises:
        TypeError: something that is not numbers.
        ValueError: nothing to draw, a wrong rank, points that are not finite, colours that do not match.

    Examples:
        >>> import torch
        >>> figure = plot_clouds(torch.randn(3, 64, 3), size=0.5, titles=["a", "b", "c"])
        >>> len(figure.axes)
        3
    """
    rows, names, own, scale = gather(clouds, colors, mask, cmap, color_limits)
    what = "rows" if own else "clouds"
    labels = check_titles(titles, len(rows) if own else len(rows[0]), what) or names
    if not size > 0:
        raise ValueError(f"size: expected a positive number of inches, got {size}")
    if columns is not None and (own or columns < 1):
        raise ValueError(f"columns: expected a positive number, and clouds without rows, got {columns}")
    matrix = view_matrix(elev, azim, up)
    views = [[turn(panel.points, matrix) for panel in row] for row in rows]
    frames = _frames(views, share_frame)
    if own:
        grid = views
    else:
        columns = columns or _columns(len(views[0]), frames[0][0].aspect)
        grid = [views[0][start : start + columns] for start in range(0, len(views[0]), columns)]
    ground = ink(background, "background")
    if ax is None:
        shape = (len(grid), max(len(row) for row in grid))
        figure, axes, bar = _layout(shape, [len(row) for row in grid], frames[0][0].aspect, size, ground,
                                    labels, own, scale is not None)  # fmt: skip
    else:
        axes, bar = [ax] if not isinstance(ax, (Sequence, np.ndarray)) else list(np.ravel(np.asarray(ax))), None
        figure = cast("Figure", axes[0].figure)
        count = sum(len(row) for row in grid)
        if len(axes) != count:
            raise ValueError(f"ax: expected {count} axes, one for each cloud, got {len(axes)}")
        if labels is not None:
            _label(axes, [len(row) for row in rows], labels, own, ground, 10.0)
    triples = zip(_chain(rows), _chain(views), _chain(frames), strict=True)
    for axis, (panel, view, frame) in zip(axes, triples, strict=True):
        _draw(axis, panel, view, frame, ceil(size * _DPI * _OVERDRAW), point_size, ground)
    if scale is not None:
        _colorbar(figure, axes, bar, scale, color_label, ground)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, after making the folders that lead to it.

    Args:
        figure: any Matplotlib figure.
        path: its suffix tells the format.

    Returns:
        The path.

    Raises:
        ValueError: a path without a suffix, or with one that Matplotlib has no format for.

    Examples:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_figure(plot_clouds(torch.randn(64, 2), size=0.5), f"{folder}/new/sheet.png").name
        'sheet.png'
    """
    path = Path(path)
    if not path.suffix:
        raise ValueError(f"path: expected a name with a suffix, which tells the format, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])
    return path


def _chain(rows: list[list[Any]]) -> list[Any]:
    return [item for row in rows for item in row]


def _frames(views: list[list[Array]], share: bool) -> list[list[Frame]]:
    largest = max(len(view) for view in _chain(views))
    whole = frame_around(_chain(views))
    aspect = float(np.clip(whole.aspect, 0.62, 1.6))

    def fitted(frame: Frame) -> Frame:
        radius = dot_radius(min(largest, 4096), frame)
        return frame.padded(radius, radius).shaped(aspect)

    return [[fitted(whole if share else frame_around([view])) for view in row] for row in views]


def _columns(count: int, aspect: float) -> int:
    if count <= 5:
        return count
    # The rows that a wide page asks for, filled evenly.
    rows = max(1, round(sqrt(count * aspect / 1.7)))
    return ceil(count / rows)


def _layout(
    shape: tuple[int, int],
    counts: list[int],
    aspect: float,
    size: float,
    ground: Array,
    labels: list[str] | None,
    own: bool,
    scaled: bool,
) -> tuple[Figure, list[Axes], Axes | None]:
    """Place the panels by inches, since no layout engine of Matplotlib keeps a sheet tight at every size."""
    from pyro_pcflow.plotting.figure import NotebookFigure

    width, height = (size, size / aspect) if aspect > 1 else (size * aspect, size)
    left = _EDGE + (_LABEL if own and labels else 0.0)
    head = _TITLE if labels and not own else 0.0
    total_w = left + shape[1] * (width + _GAP) - _GAP + _EDGE + (_BAR if scaled else 0.0)
    total_h = 2 * _EDGE + shape[0] * (height + head + _GAP) - _GAP
    figure = NotebookFigure(figsize=(total_w, total_h), dpi=_DPI, facecolor=tuple(ground))
    figure.set_layout_engine("none")
    axes = []
    for r, count in enumerate(counts):
        bottom = total_h - _EDGE - (r + 1) * (height + head) - r * _GAP
        for c in range(count):
            place = (left + c * (width + _GAP), bottom, width, height)
            axes.append(figure.add_axes(_share(place, total_w, total_h)))
    if labels is not None:
        _label(axes, counts, labels, own, ground, height if own else width)
    bar = None
    if scaled:
        tall = min(total_h - 0.4, max(1.2, 0.6 * total_h))
        place = (total_w - _BAR + 0.08, (total_h - tall) / 2, 0.11, tall)
        bar = figure.add_axes(_share(place, total_w, total_h))
    return figure, axes, bar


def _share(place: tuple[float, float, float, float], width: float, height: float) -> tuple[float, float, float, float]:
    return place[0] / width, place[1] / height, place[2] / width, place[3] / height


def _label(axes: list[Axes], counts: list[int], labels: list[str], own: bool, ground: Array, room: float) -> None:
    letters = max(6, int(room * 14))
    starts = np.cumsum([0, *counts])
    for index, text in enumerate(labels):
        short = text if len(text) <= letters else text[: letters - 1] + "…"
        if own:
            place = {"xy": (0, 0.5), "xytext": (-7, 0), "rotation": 90, "ha": "right", "va": "center"}
            axis = axes[starts[index]]
        else:
            place = {"xy": (0.5, 1), "xytext": (0, 4), "ha": "center", "va": "bottom"}
            axis = axes[index]
        # A title may hold dollar signs that are not mathematics.
        axis.annotate(short, xycoords="axes fraction", textcoords="offset points", fontsize=9,
                      color=_text_color(ground), parse_math=False, annotation_clip=False, **place)  # fmt: skip


def _text_color(ground: Array) -> str:
    return "#33373d" if ground @ (0.299, 0.587, 0.114) > 0.5 else "#dfe3e8"


def _draw(axis: Axes, panel: Panel, view: Array, frame: Frame, pixels: int, point_size: float, ground: Array) -> None:
    flat = panel.points.shape[-1] == 2
    image = render(
        view,
        panel.colors,
        frame,
        max(2, round(pixels * min(1.0, frame.aspect))),
        radius=dot_radius(len(view), frame, point_size * (0.7 if flat else 1.0)),
        background=ground,
        relief=0.5 if panel.scalar else 1.0,
        flat=flat,
    )
    (x, y), (w, h) = frame.center[:2], frame.half[:2]
    axis.imshow(image, extent=(x - w, x + w, y - h, y + h), origin="upper", aspect="equal", interpolation="antialiased")
    axis.set_axis_off()


def _colorbar(figure: Figure, axes: list[Axes], bar: Axes | None, scale: Scale, label: str, ground: Array) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    room = {"cax": bar} if bar is not None else {"ax": axes, "fraction": 0.04, "pad": 0.02}
    drawn = figure.colorbar(
        ScalarMappable(Normalize(scale.low, scale.high), scale.cmap),
        extend=ends[scale.under, scale.over],
        extendfrac=0.03,
        **room,
    )
    color = _text_color(ground)
    drawn.outline.set_visible(False)
    drawn.ax.tick_params(labelsize=8, length=2, width=0.6, color=color, labelcolor=color)
    drawn.set_label(label, fontsize=9, color=color, parse_math=False)

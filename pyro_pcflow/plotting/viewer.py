"""Interactive pages: clouds that turn under the mouse, in one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_pcflow.ops.files import atomic_file
from pyro_pcflow.ops.options import check_options, option_names
from pyro_pcflow.plotting.arrays import Array, Clouds, as_array, check_points
from pyro_pcflow.plotting.camera import view_matrix
from pyro_pcflow.plotting.colors import (
    INKS,
    Scale,
    are_parts,
    check_colors,
    make_scale,
    paint,
    part_colors,
    position_box,
)
from pyro_pcflow.plotting.panels import check_titles

_STEPS = 32767
_SECONDS = 4.0


class View:
    """Clouds that turn under the mouse: a notebook shows them by itself, and `save` writes them as a page.

    `view_clouds` makes it.

    Args:
        page: a whole page of HTML that needs nothing else.
        height: of the frame in a notebook, in pixels.

    Examples:
        >>> View("<!DOCTYPE html>...", height=300).height
        300
    """

    def __init__(self, page: str, height: int = 420) -> None:
        if not height > 0:
            raise ValueError(f"height: expected a positive number of pixels, got {height}")
        self.page = page
        self.height = int(height)

    def save(self, path: str | Path) -> Path:
        """Write the page; an existing file is replaced, and missing folders are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(self.page.encode())
        return path

    def _repr_html_(self) -> str:
        # The page has styles and a script of its own: a frame keeps them away from those of the notebook.
        return (
            f'<iframe class="pcflow-view" title="Point clouds, interactive" srcdoc="{html.escape(self.page)}" '
            f'style="width: 100%; height: {self.height}px; border: 0" loading="lazy" sandbox="allow-scripts"></iframe>'
        )


def view_clouds(
    clouds: Clouds,
    *,
    colors: Any = None,
    titles: Sequence[str] | str | None = None,
    title: str = "",
    fps: float | None = None,
    autoplay: bool = True,
    elev: float = 18.0,
    azim: float = 35.0,
    up: str = "y",
    cmap: str = "viridis",
    color_label: str = "",
    color_limits: tuple[float, float] | None = None,
    point_size: float = 1.0,
    height: int = 420,
) -> View:
    """Show clouds interactively, in a notebook or as a page that needs no network.

    Drag turns, the wheel or two fingers zoom, the arrow keys, + and - do the same; films have a slider and a play
    button (the space bar). Several clouds lie beside each other and turn together. The page follows the reader's
    light or dark theme and says in words what it shows. Coordinates are rounded to 1/32767 of a cloud's half
    extent.

    Args:
        clouds: (N, D) for one cloud, (T, N, D) for a film of the same points, or a mapping from names, or a list,
            of several of these. Of more than three coordinates, the first three count.
        colors: a colour that Matplotlib knows, "position" (the place in the last frame), scalars such as log-densities,
            (N,), numbers of parts of an integer type, (N,), or red, green and blue, (N, 3); a mapping or a list where
            there are several clouds. By default one colour per cloud, and "position" where something moves.
        titles: names of the clouds, if they are not given by a mapping.
        title: a heading.
        fps: frames of `clouds` shown a second; by default a film takes four seconds. Points move on straight lines
            between frames.
        autoplay: whether films start by themselves, unless the reader prefers less motion.
        elev: degrees of the camera above the horizon.
        azim: degrees of the camera around the upright axis.
        up: the axis that stands upright.
        cmap: a Matplotlib colormap, for scalars.
        color_label: what the scalars are, beside the legend.
        color_limits: the scalars at both ends of the legend; by default the 1st and the 99th percentile.
        point_size: a factor on the size of points, which follows from their number.
        height: of the frame in a notebook, in pixels.

    Returns:
        A view, which a notebook shows when it is the last expression of a cell.

    Raises:
        TypeError: something that is not numbers.
        ValueError: nothing to show, a wrong rank, points that are not finite, colours that do not match.

    Examples:
        >>> view = view_clouds({"noise": torch.randn(4, 64, 3)}, title="Noise")
        >>> view._repr_html_()[:27]
        '<iframe class="pcflow-view"'
    """
    names, films = _films(clouds, titles)
    count = len(films)
    given = _colors(colors, clouds, count)
    tints = [
        check_colors(tint, film.shape[1], f"colors[{index}]" if count > 1 else "colors")
        for index, (tint, film) in enumerate(zip(given, films, strict=True))
    ]
    parts = sorted({int(part) for tint in given if are_parts(tint) for part in tint})
    if fps is not None and not 0 < fps <= 240:
        raise ValueError(f"fps: expected a number in (0, 240], got {fps}")
    if not point_size > 0:
        raise ValueError(f"point_size: expected a positive number, got {point_size}")
    scalars = [tint for tint in tints if not isinstance(tint, str | None) and tint.ndim == 1]
    scale = make_scale(scalars, cmap, color_limits) if scalars else None
    longest = max(len(film) for film in films)
    flat = all(film.shape[-1] == 2 for film in films)
    films = [np.pad(film, [(0, 0), (0, 0), (0, 3 - film.shape[-1])]) for film in films]
    center, radius = _ball(films)
    box = position_box(np.concatenate([film[-1] for film in films]))
    scenes = []
    for index, (name, film, tint) in enumerate(zip(names, films, tints, strict=True)):
        default = "position" if longest > 1 else INKS[index % len(INKS)]
        scenes.append(_scene(name, film, paint(tint, film[-1], scale, default, box)))
    data = {
        "scenes": scenes,
        "center": center.tolist(),
        "radius": radius,
        "relief": 0.0 if flat else 0.45 if scalars else 1.0,
        "basis": view_matrix(0.0, 0.0, "y" if flat else up).tolist(),
        "elev": 0.0 if flat else float(elev),
        "azim": 0.0 if flat else float(azim),
        "fps": float(fps) if fps is not None else max(1, longest - 1) / _SECONDS,
        "autoplay": bool(autoplay),
        "pointSize": float(point_size),
    }
    legend = _legend(scale, color_label) if scale is not None else _legend_of_parts(parts, color_label)
    return View(_page(title, data, names, films, legend), height)


def save_html(clouds: Clouds, path: str | Path, **options: Any) -> Path:
    """Write clouds as one interactive page, to be opened from disk, without any network.

    Args:
        clouds: as for `view_clouds`.
        path: the file, usually `.html`; an existing one is replaced.
        **options: those of `view_clouds`.

    Returns:
        The path. Missing folders are made.

    Raises:
        TypeError: something that is not numbers, or an unknown option.
        ValueError: as `view_clouds`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_html({"noise": torch.randn(4, 64, 3)}, f"{folder}/noise.html", title="Noise").name
        'noise.html'
    """
    check_options(options, option_names(view_clouds, without=["clouds"]), "save_html")
    return view_clouds(clouds, **options).save(path)


def _films(clouds: Clouds, titles: Sequence[str] | str | None) -> tuple[list[str], list[Array]]:
    names: list[str] | None = None
    if isinstance(clouds, Mapping):
        names, items = [str(key) for key in clouds], list(clouds.values())
    elif isinstance(clouds, (torch.Tensor, np.ndarray)):
        items = [clouds]
    elif isinstance(clouds, Sequence) and not isinstance(clouds, (str, bytes)):
        items = list(clouds)
    else:
        raise TypeError(f"clouds: expected tensors or arrays of points, got {type(clouds).__name__}")
    if not items:
        raise ValueError("clouds: there is nothing to show, the list of clouds is empty")
    names = check_titles(titles, len(items), "clouds") or names
    if names is None:
        names = [f"cloud {index + 1}" for index in range(len(items))] if len(items) > 1 else [""]
    labels = ["clouds"] if len(items) == 1 else [f"clouds[{index}]" for index in range(len(items))]
    pairs = zip(items, labels, strict=True)
    return names, [film if film.ndim == 3 else film[None] for film in (_checked(*pair) for pair in pairs)]


def _checked(cloud: Any, label: str) -> Array:
    return check_points(as_array(cloud, label), label, ranks=(2, 3))


def _colors(colors: Any, clouds: Clouds, count: int) -> list[Any]:
    if colors is None or isinstance(colors, str) or isinstance(clouds, (torch.Tensor, np.ndarray)):
        return [colors] * count
    if isinstance(colors, Mapping):
        if not isinstance(clouds, Mapping) or set(colors) != set(clouds):
            raise ValueError("colors: expected the same names as those of the clouds")
        return [colors[name] for name in clouds]
    if len(colors) != count:
        raise ValueError(f"colors: expected one entry for each of {count} clouds, got {len(colors)}")
    return list(colors)


def _ball(films: list[Array]) -> tuple[Array, float]:
    """A ball around what the page shows at first: the last frames without outliers, and most of the rest."""
    ends = np.concatenate([film[-1] for film in films])
    rest = np.concatenate([film.reshape(-1, 3) for film in films])
    center = np.quantile(ends, [0.005, 0.995], axis=0).mean(0)
    far = np.quantile(np.linalg.norm(ends - center, axis=-1), 0.995)
    return center, max(float(far), float(np.quantile(np.linalg.norm(rest - center, axis=-1), 0.95)), 1e-9)


def _scene(name: str, film: Array, rgb: Array) -> dict[str, Any]:
    low, high = film.min((0, 1)), film.max((0, 1))
    center = (low + high) / 2
    step = max(float((high - low).max()) / 2, 1e-12) / _STEPS
    packed = np.round((film - center) / step).astype("<i2")
    tints = np.round(rgb * 255).astype(np.uint8)
    return {
        "name": name,
        "frames": len(film),
        "points": film.shape[1],
        "center": center.tolist(),
        "step": step,
        "data": base64.b64encode(packed.tobytes()).decode(),
        "colors": base64.b64encode(tints.tobytes()).decode(),
    }


def _page(title: str, data: dict[str, Any], names: list[str], films: list[Array], legend: str) -> str:
    # In a script element only "<" can end the text early; the rest is for JavaScript's line ends.
    packed = json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    here = files(__package__)
    parts = {
        "title": html.escape(title or ", ".join(filter(None, names)) or "Point cloud"),
        "heading": f"<h1>{html.escape(title)}</h1>" if title else "",
        "summary": html.escape(_summary(films)),
        "rows": "".join(_row(name, film) for name, film in zip(names, films, strict=True)),
        "legend": legend,
        "data": packed,
        "script": here.joinpath("viewer.js").read_text(encoding="utf-8"),
    }
    # One pass: a title that looks like a placeholder stays a title.
    return re.sub(r"\{\{(\w+)\}\}", lambda hit: parts[hit[1]], here.joinpath("viewer.html").read_text("utf-8"))


def _summary(films: list[Array]) -> str:
    points = sum(film.shape[1] for film in films)
    longest = max(len(film) for film in films)
    what = "One point cloud" if len(films) == 1 else f"{len(films)} point clouds side by side"
    motion = f", moving through {longest} frames" if longest > 1 else ""
    return f"{what}, {points} points in all{motion}."


def _row(name: str, film: Array) -> str:
    last = film[-1]
    spans = "".join(f"<td>{low:.3g} to {high:.3g}</td>" for low, high in zip(last.min(0), last.max(0), strict=True))
    head = html.escape(name or "cloud")
    return f'<tr><th scope="row">{head}</th><td>{film.shape[1]}</td><td>{len(film)}</td>{spans}</tr>'


def _legend(scale: Scale, label: str) -> str:
    ramp = ", ".join(_hex(stop) for stop in scale(np.linspace(scale.low, scale.high, 17)))
    low = ("≤ " if scale.under else "") + f"{scale.low:.3g}"
    high = ("≥ " if scale.over else "") + f"{scale.high:.3g}"
    name = html.escape(label)
    spoken = html.escape(f"Colours: {label or 'scalars'} from {scale.low:.3g} to {scale.high:.3g}")
    return (
        f'<div class="legend" role="img" aria-label="{spoken}"><span>{name}</span><span>{low}</span>'
        f'<i style="background: linear-gradient(90deg, {ramp})"></i><span>{high}</span></div>'
    )


def _legend_of_parts(parts: list[int], label: str) -> str:
    if not parts:
        return ""
    inks = part_colors(np.array(parts))
    swatches = "".join(
        f'<i class="part" style="background: {_hex(color)}"></i><span>{part}</span>'
        for part, color in zip(parts, inks, strict=True)
    )
    name = html.escape(label or "part")
    spoken = html.escape(f"Colours: {label or 'part'} {', '.join(map(str, parts))}")
    return f'<div class="legend" role="img" aria-label="{spoken}"><span>{name}</span>{swatches}</div>'


def _hex(color: Array) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in color)

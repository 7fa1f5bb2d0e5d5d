"""Films: clouds that move, as an animated WebP or GIF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from scipy.ndimage import gaussian_filter

from pyro_pcflow.ops.files import atomic_file
from pyro_pcflow.plotting.arrays import Array, Points, as_array, check_points
from pyro_pcflow.plotting.camera import Frame, frame_around, turn, view_matrix
from pyro_pcflow.plotting.colors import check_colors, ink, make_scale, paint
from pyro_pcflow.plotting.raster import dot_radius, render

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".gif", ".webp")
_GIF_COLORS = 63


def animate(
    frames: Points,
    path: str | Path,
    *,
    colors: Any = None,
    fps: float = 24.0,
    size: int = 360,
    turn: float = 60.0,
    hold: float = 0.8,
    tween: int = 1,
    elev: float = 18.0,
    azim: float = 35.0,
    up: str = "y",
    cmap: str = "viridis",
    point_size: float = 1.0,
    background: str = "white",
    quality: int = 20,
) -> Path:
    """Write a film of a moving cloud that loops forever.

    The camera turns gently, at rest at both ends, and arrives at `azim` with the last frame. Over a multiple of 360
    degrees it turns steadily and the film closes to a ring: `animate(cloud.expand(72, -1, -1), path, turn=360)` is a
    turntable. The last frame fills the picture; points far outside it, at the start, may be out of sight.

    Args:
        frames: (T, N, D), the same points at T moments. Of more than three coordinates, the first three count; points
            of two are drawn flat and the camera rests.
        path: ends in `.webp` (small, all colours) or `.gif` (shown everywhere); an existing file is replaced.
        colors: a colour that Matplotlib knows, scalars (N,), parts (N,) of an integer type, or red, green and blue
            (N, 3); they stay with their points. By default the place of each point in the last frame, so that one sees
            where noise goes.
        fps: frames a second.
        size: pixels of the width and of the height.
        turn: degrees that the camera turns.
        hold: seconds that the first and the last frame rest, in addition.
        tween: film frames for one step of `frames`; between two moments, points move on straight lines.
        elev: degrees of the camera above the horizon.
        azim: degrees of the camera around the upright axis, at the end.
        up: the axis that stands upright.
        cmap: a Matplotlib colormap, for scalars.
        point_size: a factor on the size of points, which follows from their number.
        background: a colour that Matplotlib knows.
        quality: of WebP, in [0, 100].

    Returns:
        The path. Missing folders are made.

    Raises:
        TypeError: something that is not numbers.
        ValueError: another suffix, a wrong rank, points that are not finite, colours or settings out of range.

    Examples:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     animate(torch.randn(4, 64, 3), f"{folder}/noise.webp", size=48).name
        'noise.webp'
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"path: expected a name that ends in {' or '.join(_SUFFIXES)}, got {path.name!r}")
    points = check_points(as_array(frames, "frames"), "frames", ranks=(3,))
    tint = check_colors(colors, points.shape[1], "colors")
    if not 0 < fps <= 100:
        raise ValueError(f"fps: expected a number in (0, 100], got {fps}")
    if size < 16 or tween < 1 or not hold >= 0 or not 0 <= quality <= 100:
        raise ValueError(
            "expected size of at least 16, tween of at least 1, hold of at least 0 and quality in [0, 100], "
            f"got {size}, {tween}, {hold} and {quality}"
        )
    scalar = not isinstance(tint, str | None) and tint.ndim == 1
    scale = make_scale([tint], cmap, None) if scalar else None  # type: ignore[list-item]
    rgb = paint(tint, points[-1], scale, "position")
    ground = ink(background, "background")
    points = _tween(points, tween)
    ring = turn != 0 and turn % 360 == 0
    angles = azim + turn * (_path(len(points), ring) - 1.0)
    images = _shoot(points, rgb, angles, elev, up, size, ground, point_size, 0.5 if scalar else 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        _write(images, file, path.suffix.lower() == ".gif", fps, 0.0 if ring else hold, ground, quality)
    return path


def _tween(points: Array, steps: int) -> Array:
    if steps == 1 or len(points) == 1:
        return points
    moments = np.linspace(0, len(points) - 1, (len(points) - 1) * steps + 1)
    before = np.minimum(moments.astype(int), len(points) - 2)
    share = (moments - before)[:, None, None]
    return points[before] * (1 - share) + points[before + 1] * share


def _path(count: int, ring: bool) -> Array:
    """Return how far the camera has come at each frame, in [0, 1]."""
    if ring:
        return np.arange(1, count + 1) / count
    time = np.linspace(0.0, 1.0, count) if count > 1 else np.ones(1)
    return time * time * (3 - 2 * time)


def _shoot(
    points: Array,
    rgb: Array,
    angles: Array,
    elev: float,
    up: str,
    size: int,
    ground: Array,
    point_size: float,
    relief: float,
) -> list[Array]:
    flat = points.shape[-1] == 2
    low, high = np.quantile(points[-1], [0.01, 0.99], axis=0)
    pivot = np.zeros(points.shape[-1]) if flat else (low + high) / 2
    views = [turn(moment - pivot, view_matrix(elev, angle, up)) for moment, angle in zip(points, angles, strict=True)]
    frame = _frame(views)
    radius = dot_radius(points.shape[1], frame, point_size * (0.8 if flat else 1.25))
    frame = frame.padded(radius, radius).shaped(1.0)

    return [
        render(view, rgb, frame, size, radius=radius, background=ground, relief=relief, flat=flat) for view in views
    ]


def _frame(views: list[Array]) -> Frame:
    """Return a box around the last view, whichever way it turns, and around the bulk of all others."""
    last = frame_around(views[-1:])
    bulk = frame_around(views, tail=0.01, slack=0.05)
    low = np.minimum(last.center - last.half, bulk.center - bulk.half)
    high = np.maximum(last.center + last.half, bulk.center + bulk.half)
    return Frame((low + high) / 2, (high - low) / 2)


def _write(
    images: list[Array], file: BinaryIO, gif: bool, fps: float, hold: float, ground: Array, quality: int
) -> None:
    pictures = _palette(images, ground) if gif else _pictures(images)
    times = _durations(len(images), fps, hold, 10 if gif else 1)
    first, rest = pictures[0], pictures[1:]
    common: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": times, "loop": 0}
    if gif:
        first.save(file, format="GIF", optimize=True, disposal=1, **common)
    else:
        first.save(file, format="WEBP", quality=quality, method=4, **common)


def _durations(count: int, fps: float, hold: float, unit: int) -> list[int]:
    """Milliseconds per frame, rounded to the unit of the format such that errors do not add up."""
    ends = np.arange(count + 1) * (1000 / fps / unit)
    times = np.diff(np.round(ends)).astype(int)
    times[0] += round(hold * 1000 / unit)
    if count > 1:
        times[-1] += round(hold * 1000 / unit)
    return [max(1, int(time)) * unit for time in times]


def _pictures(images: list[Array]) -> list[Image]:
    """Blur by half a pixel, which saves a quarter of the bytes and is invisible in motion."""
    from PIL import Image

    return [Image.fromarray(gaussian_filter(image, (0.45, 0.45, 0))) for image in images]


def _palette(images: list[Array], ground: Array) -> list[Image]:
    """All frames with one palette, without dither: colours do not flicker, and equal areas cost nothing."""
    from PIL import Image

    pick = [images[index] for index in np.unique(np.linspace(0, len(images) - 1, 9).astype(int))]
    montage = Image.fromarray(np.concatenate(pick)).quantize(_GIF_COLORS, method=Image.Quantize.MEDIANCUT)
    backdrop = (ground * 255 + 0.5).astype(np.uint8).tolist()
    colors = [*backdrop, *(montage.getpalette() or [])[: _GIF_COLORS * 3]]
    table = Image.new("P", (1, 1))
    table.putpalette(colors + backdrop * (256 - len(colors) // 3))
    return [Image.fromarray(image).quantize(palette=table, dither=Image.Dither.NONE) for image in images]

"""Points drawn straight into an image: small lit balls, or flat translucent dots."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from pyro_pcflow.plotting.arrays import Array
from pyro_pcflow.plotting.camera import Frame

# Over the left shoulder of the viewer, so that forms read as the eye expects; length 1.
_LIGHT = np.array([-0.40, 0.55, 0.733], dtype=np.float32)
# Pixels stamped at a time: what fits the cache is several times faster than fresh memory.
_CHUNK = 1 << 17


def dot_radius(num_points: int, frame: Frame, point_size: float = 1.0) -> float:
    """Return a radius at which the dots of a surface nearly touch.

    Args:
        num_points: the number of dots.
        frame: what the picture shows.
        point_size: a factor of taste.

    Returns:
        The radius, in the units of the points.

    Raises:
        ValueError: `point_size` is not positive.

    Examples:
        >>> wide = Frame(np.zeros(3), np.ones(3))
        >>> dot_radius(400, wide) > dot_radius(4000, wide)
        True
    """
    if not point_size > 0:
        raise ValueError(f"point_size: expected a positive number, got {point_size}")
    side = float(np.sqrt(frame.half[0] * frame.half[1]))
    return point_size * side * float(np.clip(1.15 / np.sqrt(num_points), 0.004, 0.045))


def render(
    view: Array,
    colors: Array,
    frame: Frame,
    width: int,
    *,
    radius: float,
    background: Array,
    relief: float = 1.0,
    flat: bool = False,
    supersample: int = 2,
) -> Array:
    """Draw projected points.

    Args:
        view: (N, 3), projected.
        colors: (N, 3), in [0, 1].
        frame: what to show; the height follows from its aspect.
        width: pixels.
        radius: of a dot, in the units of the points.
        background: (3,), in [0, 1].
        relief: the strength of light, shadow and haze, in [0, 1]; less keeps colours truer.
        flat: whether to draw translucent dots without light, so that dense places are darker.
        supersample: sub-pixels a pixel and axis.

    Returns:
        (height, width, 3) uint8.

    Examples:
        >>> image = render(np.zeros((1, 3)), np.zeros((1, 3)), Frame(np.zeros(3), np.ones(3)), 9,
        ...                radius=0.3, background=np.ones(3), flat=True)
        >>> image.shape, int(image[0, 0, 0]), bool(image[4, 4, 0] < 128)
        ((9, 9, 3), 255, True)
    """
    height = max(1, round(width / frame.aspect))
    canvas = (height * supersample, width * supersample)
    scale = canvas[1] / (2 * frame.half[0])
    spot = max(radius * scale, 0.55 * supersample)
    place = np.empty((len(view), 2), dtype=np.float32)
    place[:, 0] = canvas[1] / 2 + (view[:, 0] - frame.center[0]) * scale
    place[:, 1] = canvas[0] / 2 - (view[:, 1] - frame.center[1]) * scale
    seen = ((place > -spot) & (place < np.array(canvas[::-1]) + spot)).all(1)
    place = place[seen]
    colors = np.asarray(colors[seen], dtype=np.float32)
    ground = background.astype(np.float32)
    if flat:
        image = _flat(place, colors, canvas, spot, ground)
    else:
        depth = ((view[seen, 2] - frame.center[2]) / frame.half[2]).astype(np.float32)
        image = _balls(place, depth, colors, canvas, spot, ground, relief)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for down in range(supersample):
        for across in range(supersample):
            total += image[down::supersample, across::supersample]
    image = total / supersample**2
    return (np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _step(spot: float) -> int:
    return max(1, int(_CHUNK / (2 * spot + 1) ** 2))


def _stamps(place: Array, canvas: tuple[int, int], spot: float) -> tuple[Array, Array]:
    """Return the pixels that dots cover, in the order of the dots: the flat index, and the dot."""
    # Narrow types throughout: this is where the time goes.
    size = int(np.ceil(spot))
    reach = np.arange(-size, size + 1, dtype=np.int32)
    down, across = (grid.ravel() for grid in np.meshgrid(reach, reach, indexing="ij"))
    touched = (np.maximum(abs(across) - 1, 0) ** 2 + np.maximum(abs(down) - 1, 0) ** 2) < spot * spot
    down, across = down[touched], across[touched]
    corner = np.floor(place).astype(np.int32)
    within = corner + np.float32(0.5) - place
    far = (within[:, :1] + across.astype(np.float32)) ** 2 + (within[:, 1:] + down.astype(np.float32)) ** 2
    inside = far <= np.float32(spot * spot)
    border = ((corner < size) | (corner >= np.array(canvas[::-1]) - size)).any(1)
    x, y = corner[border, :1] + across, corner[border, 1:] + down
    inside[border] &= (x >= 0) & (x < canvas[1]) & (y >= 0) & (y < canvas[0])
    first = corner[:, 1] * np.int32(canvas[1]) + corner[:, 0]
    pixels = first[:, None] + (down * np.int32(canvas[1]) + across)
    return pixels[inside], np.repeat(np.arange(len(place), dtype=np.int32), inside.sum(1))


def _balls(
    place: Array, depth: Array, colors: Array, canvas: tuple[int, int], spot: float, ground: Array, relief: float
) -> Array:
    order = np.argsort(depth, kind="stable")
    place, depth, colors = place[order], depth[order], colors[order]
    owner = np.full(canvas[0] * canvas[1], -1, dtype=np.int32)
    step = _step(spot)
    for start in range(0, len(place), step):
        pixels, dots = _stamps(place[start : start + step], canvas, spot)
        # Of several values for one pixel NumPy keeps the last, and the dots come from far to near.
        owner[pixels] = dots + start
    hit = np.flatnonzero(owner >= 0).astype(np.int32)
    dot = owner[hit]
    row, column = np.divmod(hit, np.int32(canvas[1]))
    place = (place - np.float32(0.5)) / np.float32(spot)
    nx = column.astype(np.float32) / np.float32(spot) - place[:, 0][dot]
    ny = place[:, 1][dot] - row.astype(np.float32) / np.float32(spot)
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    light = np.maximum(nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2], 0)
    shade = 1 + relief * (0.55 * light - 0.42 - 0.42 * _shadow(hit, depth[dot], canvas))
    haze = relief * 0.5 * np.clip((0.9 - depth) / 1.9, 0, 1) ** 1.4
    clear = 1 - haze[dot]
    gleam = np.maximum(shade - 1, 0)
    lit = colors[dot] * (np.minimum(shade, 1) * (1 - gleam) * clear)[:, None]
    lit += (gleam * clear)[:, None]
    lit += (haze[:, None] * ground)[dot]
    image = np.broadcast_to(ground, (owner.size, 3)).copy()
    image[hit] = lit
    return image.reshape(*canvas, 3)


def _shadow(hit: Array, depth: Array, canvas: tuple[int, int]) -> Array:
    """Return how deep pixels lie behind their surroundings, in [0, 1]: creases and what is behind gets dark."""
    covered, depths = np.zeros((2, *canvas), dtype=np.float32)
    covered.ravel()[hit] = 1
    depths.ravel()[hit] = depth
    size = max(3, max(canvas) // 96)
    coarse = (depths[::4, ::4], covered[::4, ::4])
    total, weight = (uniform_filter(uniform_filter(part, size, mode="constant"), size) for part in coarse)
    around = np.repeat(np.repeat(total / np.maximum(weight, 1e-3), 4, 0), 4, 1)[: canvas[0], : canvas[1]]
    return np.clip((np.ascontiguousarray(around).ravel()[hit] - depth) * 1.6, 0, 1)


def _flat(place: Array, colors: Array, canvas: tuple[int, int], spot: float, ground: Array) -> Array:
    size = canvas[0] * canvas[1]
    count, tint = np.zeros(size), np.zeros((size, 3))
    step = _step(spot)
    for start in range(0, len(place), step):
        pixels, dots = _stamps(place[start : start + step], canvas, spot)
        count += np.bincount(pixels, minlength=size)
        for channel in range(3):
            tint[:, channel] += np.bincount(pixels, colors[start + dots, channel], size)
    tint /= np.maximum(count, 1)[:, None]
    cover = 1 - 0.35 ** count[:, None]
    return (ground + (tint - ground) * cover).reshape(*canvas, 3)

"""Depth images to points."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_pcflow.ops.reading import check_regular, phrase, printable

__all__ = ["depth_to_points"]

_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def depth_to_points(
    depth: ArrayLike | str | os.PathLike[str],
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    scale: float = 1.0,
    max_depth: float | None = None,
    pose: ArrayLike | None = None,
) -> NDArray[Any]:
    """Turn a depth image of a pinhole camera into points.

    Pixels that are 0, NaN or infinite hold no measurement, and give no point. The pixel of column u and row v, both
    from 0, with depth d along the optical axis becomes ((u - cx) d / fx, (v - cy) d / fy, d).

    Args:
        depth: (H, W), integers or floats; or the path of a PNG or TIFF picture with one channel of 16 bits or more.
        fx: focal length in pixels, along a row.
        fy: focal length in pixels, along a column.
        cx: column of the optical axis, in pixels.
        cy: row of the optical axis.
        scale: what a depth of 1 is; 1e-3 turns millimetres into metres.
        max_depth: leave out what is farther, after `scale`.
        pose: (4, 4), from the camera's frame to that of the points, which it moves as columns: its shift is the last
            column. The points stay in the camera's frame without it.

    Returns:
        (N, 3), row by row; x to the right, y down and z forward. float32 where the depth is float32 or float16, and
        float64 for others.

    Raises:
        ValueError: another shape or type, parameters that are none of a camera, negative depths, a picture that can't
            be read, or no measurement at all.

    Examples:
        >>> depth_to_points([[0, 2000], [1000, 0]], fx=1.0, fy=1.0, cx=0.0, cy=0.0, scale=1e-3).tolist()
        [[2.0, 0.0, 2.0], [0.0, 1.0, 1.0]]
    """
    image = _read_picture(Path(depth)) if isinstance(depth, str | os.PathLike) else _as_image(depth)
    for name, value in {"fx": fx, "fy": fy, "scale": scale, "max_depth": max_depth}.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not (math.isfinite(cx) and math.isfinite(cy)):
        raise ValueError(f"cx and cy must be finite, got {cx} and {cy}")
    single = image.dtype.kind == "f" and image.dtype.itemsize <= 4
    with np.errstate(all="ignore"):
        if (image < 0).any():
            raise ValueError(f"{np.count_nonzero(image < 0)} pixels have a negative depth")
        measured = np.isfinite(image) & (image != 0)
        rows, columns = np.nonzero(measured)
        z = image[measured].astype(np.float64) * scale
    if max_depth is not None:
        near = z <= max_depth
        rows, columns, z = rows[near], columns[near], z[near]
    if not len(z):
        raise ValueError("no pixel holds a depth" + ("" if max_depth is None else f" of at most {max_depth}"))
    points = np.stack([(columns - cx) * z / fx, (rows - cy) * z / fy, z], axis=1)
    if pose is not None:
        matrix = _as_pose(pose)
        points = points @ matrix[:3, :3].T + matrix[:3, 3]
    return points.astype(np.float32) if single else points


def _as_image(depth: ArrayLike) -> NDArray[Any]:
    if isinstance(depth, np.ma.MaskedArray):
        depth = np.asarray(depth.filled(0))
    image = np.asarray(depth)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.dtype.kind not in "fiu":
        raise ValueError(f"a depth image of {image.dtype} instead of real numbers")
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"a depth image is (H, W), got {image.shape}")
    return image


def _read_picture(path: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        check_regular(path)
        with warnings.catch_warnings():
            # A picture of absurd size is no depth image.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG", "TIFF"]) as picture:
                if picture.mode not in _MODES:
                    raise ValueError(f"a picture of mode {picture.mode}, no depth of 16 bits or more in one channel")
                image = np.asarray(picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{printable(path)}: no such file") from error
    except Exception as error:  # parsers of damaged pictures raise anything
        raise ValueError(
            f"{printable(path)}: can't be read ({phrase(error)}); expected a PNG or TIFF of depths"
        ) from error
    return _as_image(image)


def _as_pose(pose: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(pose, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"pose must be a finite (4, 4) matrix, got {matrix.shape}")
    if not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-9):
        raise ValueError("the last row of pose must be 0, 0, 0, 1: its shift is the last column")
    return matrix

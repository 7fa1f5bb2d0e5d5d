"""Raw scans of driving data sets: KITTI's .bin and nuScenes' .pcd.bin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.shapes import PointTable

__all__ = ["read_kitti"]

_COLUMNS = ("x", "y", "z", "intensity")
# No laser sees so far, and no coordinate of a scan is so small unless it is 0: bytes of another kind soon are.
_FARTHEST, _NEAREST = 1e6, 1e-30
_PLAUSIBLE = 0.99
_MOST_RINGS = 256
_ADVICE = "such files say nothing of their columns; convert others to .ply, .npy or .csv"


def read_kitti(path: Path) -> list[PointTable]:
    """Read a scan of bare float32 numbers, little-endian.

    Files of that kind have no header, so the numbers themselves must look like a scan.

    Args:
        path: a `.bin` of KITTI's four columns; or, if its name ends in `.pcd.bin`, of nuScenes' five.

    Returns:
        One table: x, y, z, intensity, and ring in nuScenes' files, all float32.

    Raises:
        ValueError: no whole number of points, or numbers that are not those of a scan.
    """
    columns = (*_COLUMNS, "ring") if path.name.lower().endswith(".pcd.bin") else _COLUMNS
    data = path.read_bytes()
    if not data:
        raise ValueError("the file is empty")
    width = 4 * len(columns)
    if len(data) % width:
        raise ValueError(f"{len(data)} bytes are no whole number of points of {width} bytes each ({_names(columns)})")
    values = np.frombuffer(data, dtype="<f4").reshape(-1, len(columns))
    _check(values, columns)
    if len(columns) == 4 and len(data) % 20 == 0 and _is_ring(values.reshape(-1, 5)[:, 4]):
        raise ValueError("its numbers look like nuScenes' five columns; let its name end in .pcd.bin")
    return [PointTable({name: values[:, index].astype(np.float32) for index, name in enumerate(columns)})]


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(columns)


def _check(values: NDArray[np.float32], columns: tuple[str, ...]) -> None:
    size = np.abs(values[:, :3])
    likely = ((size <= _FARTHEST) & ((size >= _NEAREST) | (size == 0))).all(axis=1)
    if (share := float(likely.mean())) < _PLAUSIBLE:
        raise ValueError(f"only {share:.0%} of its numbers could be the x, y, z of a laser scan; {_ADVICE}")
    intensity = values[likely, 3]
    if not (np.isfinite(intensity) & (intensity >= 0)).all():
        raise ValueError(f"its fourth column is negative or NaN in places, and no intensity; {_ADVICE}")
    if "ring" in columns and not _is_ring(values[:, 4]):
        raise ValueError(f"its fifth column holds other numbers than those of a scanner's rings; {_ADVICE}")


def _is_ring(column: NDArray[np.float32]) -> bool:
    # One number throughout says nothing: four columns of a flat scan could have a 0 in every fifth place.
    with np.errstate(invalid="ignore"):
        return bool(((column >= 0) & (column < _MOST_RINGS) & (column == np.floor(column))).all())

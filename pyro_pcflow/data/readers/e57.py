"""E57, the exchange format of terrestrial laser scanners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.e57_header import check_e57
from pyro_pcflow.data.readers.extras import require
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.ops.array_files import most_unpacked
from pyro_pcflow.ops.reading import phrase

__all__ = ["read_e57"]

_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_INVALID = ("cartesianInvalidState", "sphericalInvalidState")
_NAMES = {
    "colorRed": "red",
    "colorGreen": "green",
    "colorBlue": "blue",
    "rowIndex": "row",
    "columnIndex": "column",
    "timeStamp": "time",
}
_WHOLE = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)
# A rotation written in few digits is still one; a quaternion of another length is damage.
_TOLERANCE = 1e-3


def read_e57(path: Path) -> list[PointTable]:
    """Read all scans of an E57 file, each placed by its pose.

    Points that the scanner flags as invalid get NaN coordinates. Scaled integers are in their scaled values, and
    columns of words are left out.

    Args:
        path: the file.

    Returns:
        One table for each scan that has points: x, y, z, then intensity, red, green, blue, row, column, time, and what
        else there is under its own name. Coordinates are float64, unless they are stored as float32 and not moved.

    Raises:
        ValueError: damaged, of an unknown kind, or pye57 is not installed.
    """
    check_e57(path)
    libe57 = require("pye57.libe57", "e57", "E57 files are")
    limit = most_unpacked(path.stat().st_size)
    try:
        # All pages were compared with their checksums already.
        file = libe57.ImageFile(os.fspath(path), "r", libe57.CHECKSUM_POLICY_NONE)
        try:
            tables = _read_scans(file, libe57, limit)
        finally:
            file.close()
    except libe57.E57Exception as error:
        raise ValueError(f"damaged: {phrase(error)}") from error
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
        # Nodes of another type than the format's, which the bindings notice at the first call.
        raise ValueError(f"its description is not that of scans ({phrase(error)})") from error
    if not tables:
        raise ValueError("no scan with points in it")
    return tables


def _read_scans(file: Any, libe57: Any, limit: int) -> list[PointTable]:
    root = file.root()
    if not root.isDefined("data3D"):
        raise ValueError("no scans in it")
    tables = []
    scans = root["data3D"]
    for index in range(scans.childCount()):
        scan = scans[index]
        if not scan.isDefined("points"):
            raise ValueError(f"scan {index} has no points")
        count = scan["points"].childCount()
        if count < 0:
            raise ValueError(f"a scan of {count} points")
        if count:
            tables.append(_read_scan(file, scan, count, libe57, limit))
            limit -= sum(values.nbytes for values in tables[-1].columns.values())
    return tables


def _read_scan(file: Any, scan: Any, count: int, libe57: Any, limit: int) -> PointTable:
    raw = _read_columns(file, scan["points"], count, libe57, limit)
    coordinates = _coordinates(raw)
    invalid = np.zeros(count, dtype=bool)
    for name in _INVALID:
        invalid |= raw.get(name, np.zeros(1)) != 0
    if scan.isDefined("pose"):
        with np.errstate(all="ignore"):
            coordinates = _place(coordinates, scan["pose"])
    for axis in coordinates:
        axis[invalid] = np.nan
    columns = dict(zip("xyz", coordinates, strict=True))
    used = {*_CARTESIAN, *_SPHERICAL, *_INVALID}
    for name, values in raw.items():
        if name not in used:
            columns[_NAMES.get(name, name)] = values
    if len(columns) != 3 + len(set(raw) - used):
        raise ValueError("two columns of one name")
    named = scan.isDefined("name") and isinstance(scan["name"], libe57.StringNode)
    return PointTable(columns, name=scan["name"].value() or None if named else None)


def _read_columns(file: Any, points: Any, count: int, libe57: Any, limit: int) -> dict[str, NDArray[Any]]:
    prototype = libe57.StructureNode(points.prototype())
    types: dict[str, Any] = {}
    for index in range(prototype.childCount()):
        node = prototype[index]
        if (dtype := _type_of(node, libe57)) is not None:
            types[node.elementName()] = np.dtype(dtype)
    if sum(_buffer_type(dtype).itemsize for dtype in types.values()) * count > limit:
        raise ValueError(f"header promises {count} points, in a far smaller file")
    arrays = {name: np.empty(count, _buffer_type(dtype)) for name, dtype in types.items()}
    buffers = libe57.VectorSourceDestBuffer()
    for name, array in arrays.items():
        # Converted to the type of the array, and scaled integers to their scaled values.
        buffer = libe57.SourceDestBuffer(file, name, array, count, True, True)
        if buffer.stride() != array.itemsize:
            raise ValueError(f"this version of pye57 takes {array.dtype} for a type of {buffer.stride()} bytes")
        buffers.append(buffer)
    if not arrays:
        raise ValueError("a scan without any numbers")
    reader = points.reader(buffers)
    try:
        there = reader.read()
    finally:
        reader.close()
    if there != count:
        raise ValueError(f"header promises {count} points, {there} can be read")
    return {name: array.astype(types[name], copy=False) for name, array in arrays.items()}


def _buffer_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    # The bindings know no integers of four bytes, and take the usual ones of eight for such.
    return np.dtype(np.longlong) if dtype.kind in "iu" and dtype.itemsize > 2 else dtype


def _type_of(node: Any, libe57: Any) -> Any:
    if isinstance(node, libe57.FloatNode):
        return np.float32 if node.precision() == libe57.FloatPrecision.E57_SINGLE else np.float64
    if isinstance(node, libe57.ScaledIntegerNode):
        return np.float64
    if isinstance(node, libe57.IntegerNode):
        low, high = node.minimum(), node.maximum()
        return next(kind for kind in _WHOLE if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return None


def _coordinates(raw: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    if all(name in raw for name in _CARTESIAN):
        axes = [raw[name] for name in _CARTESIAN]
        return [axis if axis.dtype.kind == "f" else axis.astype(np.float64) for axis in axes]
    if all(name in raw for name in _SPHERICAL):
        distance, azimuth, elevation = (raw[name].astype(np.float64) for name in _SPHERICAL)
        with np.errstate(all="ignore"):
            flat = distance * np.cos(elevation)
            return [flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)]
    raise ValueError(f"neither {', '.join(_CARTESIAN)} nor {', '.join(_SPHERICAL)} in a scan")


def _place(coordinates: list[NDArray[Any]], pose: Any) -> list[NDArray[Any]]:
    rotation = _numbers(pose, "rotation", "wxyz", (1.0, 0.0, 0.0, 0.0))
    shift = _numbers(pose, "translation", "xyz", (0.0, 0.0, 0.0))
    length = float(np.linalg.norm(rotation))
    if not np.isfinite(shift).all() or not abs(length - 1) < _TOLERANCE:
        raise ValueError(f"a pose that is none: rotation {rotation}, translation {shift}")
    if rotation[0] == length and not any(shift):
        return coordinates
    w, x, y, z = (value / length for value in rotation)
    matrix = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    points = np.stack([axis.astype(np.float64) for axis in coordinates])
    return list(np.array(matrix) @ points + np.array(shift)[:, None])


def _numbers(pose: Any, name: str, letters: str, default: tuple[float, ...]) -> list[float]:
    if not pose.isDefined(name):
        return list(default)
    node = pose[name]
    return [float(node[letter].value()) if node.isDefined(letter) else 0.0 for letter in letters]

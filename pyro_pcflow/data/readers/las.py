"""LAS and LAZ, the formats of airborne and terrestrial laser scans."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.extras import require
from pyro_pcflow.data.readers.las_guard import LasHeader, check_chunks, check_las
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.ops.reading import phrase

__all__ = ["read_las"]

_WHAT = "LAS and LAZ files are"
_STEP = 1 << 20
# They belong to pulses, not to points, and mean nothing without data that lies elsewhere.
_WAVES = ("wavepacket_index", "wavepacket_offset", "wavepacket_size", "return_point_wave_location", "x_t", "y_t", "z_t")
# The parser's name for extra bytes that the file does not describe.
_UNDESCRIBED = "ExtraBytes"


def read_las(path: Path) -> list[PointTable]:
    """Read a LAS file of version 1.0 to 1.4, or LAZ, with points of format 0 to 10.

    All points are kept, those that are flagged as withheld too: `withheld` is a column. Angles, intensities and
    colours are as stored; extra dimensions with a scale are in their scaled values, and bytes that the file does not
    describe, and waveforms, are left out.

    Args:
        path: the file.

    Returns:
        One table: x, y, z in float64, then the others in the file's order.

    Raises:
        ValueError: damaged, of an unknown kind, or laspy is not installed.
    """
    header = check_las(path)
    laspy = require("laspy", "las", _WHAT)
    backend = None
    if header.compressed:
        lazrs = require("lazrs", "las", _WHAT)
        # The parallel one trusts the table of the chunks, and ends the process where memory does.
        backend = laspy.LazBackend.Lazrs
    try:
        with _quiet(), path.open("rb") as stream:
            if header.compressed:
                check_chunks(stream, header, lazrs)
                stream.seek(0)
            with laspy.open(stream, laz_backend=backend, read_evlrs=False, closefd=False) as reader:
                table = _read_points(reader, header)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"damaged: {phrase(error)}") from error
    except BaseException as error:
        # A parser that fails an assertion of its own raises this, which is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("damaged compressed points") from error
    if header.compressed:
        _check_box(table, header)
    return [PointTable(table)]


@contextmanager
def _quiet() -> Iterator[None]:
    def refuse(record: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in ("laspy.header", "laspy.lasreader", "laspy.vlrs.known")]
    for logger in loggers:
        logger.addFilter(refuse)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(refuse)


def _read_points(reader: Any, header: LasHeader) -> dict[str, NDArray[Any]]:
    las = reader.header
    if las.point_count != header.count or las.point_format.size != header.point_size:
        raise ValueError("a header that can be read in two ways")
    names = [name for name in las.point_format.dimension_names if name not in ("X", "Y", "Z", *_WAVES, _UNDESCRIBED)]
    if len({"x", "y", "z", *names}) != len(names) + 3:
        raise ValueError("two dimensions of one name")
    columns: dict[str, NDArray[Any]] = {}
    done = 0
    while done < header.count:
        points = reader.read_points(min(_STEP, header.count - done))
        if not len(points):
            raise ValueError(f"header promises {header.count} points, {done} can be read")
        for name, values in _columns(points, las, names):
            if name not in columns:
                columns[name] = np.empty(header.count, values.dtype)
            columns[name][done : done + len(points)] = values
        done += len(points)
    return columns


def _columns(points: Any, las: Any, names: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    for axis, name in enumerate("xyz"):
        yield name, points.array[name.upper()] * las.scales[axis] + las.offsets[axis]
    for name in names:
        values = _dimension(points, name)
        if values.ndim == 1:
            yield name, values
        else:
            for index in range(values.shape[1]):
                yield f"{name}_{index}", values[:, index]


def _dimension(points: Any, name: str) -> NDArray[Any]:
    dimension = points.point_format.dimension_by_name(name)
    if dimension.is_standard:
        return np.asarray(points[name])
    # By its key the parser would take some names for older ones of standard dimensions.
    raw = points.array[name]
    return raw * dimension.scales + dimension.offsets if dimension.is_scaled else raw


def _check_box(table: dict[str, NDArray[Any]], header: LasHeader) -> None:
    # Compressed points have no checksum, and damage sends them far away; a header that is a little stale is common.
    lows, highs = np.array(header.lows), np.array(header.highs)
    sizes = highs - lows
    if not (np.isfinite(sizes).all() and (sizes >= 0).all() and sizes.any()):
        return
    margin = sizes.max()
    for axis, name in enumerate("xyz"):
        if table[name].min() < lows[axis] - margin or table[name].max() > highs[axis] + margin:
            raise ValueError("points far outside of the box that the header names: damaged compressed points")

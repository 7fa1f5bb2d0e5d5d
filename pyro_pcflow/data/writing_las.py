"""Writing of points to LAS and LAZ files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.extras import require

__all__ = ["write_las"]

# The finest that holds the extent is taken; the last is a tenth of a millimetre.
_SCALES = tuple(10.0**-digits for digits in range(9, 3, -1))
_MOST_STEPS = 2**31 - 1
_MOST_NAME_BYTES = 32
_MOST_EXTRA = 300
_COLOURS = ("red", "green", "blue")


def write_las(
    target: str | os.PathLike[str] | BinaryIO,
    columns: dict[str, NDArray[Any]],
    scale: float | None = None,
    *,
    compress: bool | None = None,
) -> None:
    """Write points to a LAS file of version 1.4.

    Coordinates become whole multiples of a scale, and are off by half of it at the most. Columns with the name of a
    dimension of LAS, such as `intensity`, go there where it holds their very values. All others become extra
    dimensions of their own type; one whose name is taken gets the name with `_value` behind it.

    Args:
        target: a path, or an open file.
        columns: x, y, z and any others, (N,) each.
        scale: of coordinates; `None` takes the finest power of ten, from 1e-9 to 1e-4, that holds their extent.
        compress: write LAZ; `None` does so where a path ends in `.laz`.

    Raises:
        ValueError: columns that LAS cannot hold, or laspy is not installed.

    Examples:
        >>> import io
        >>> stream = io.BytesIO()
        >>> write_las(stream, {name: np.arange(5.0) for name in "xyz"})
        >>> stream.getvalue()[:4]
        b'LASF'
    """
    count = _check(columns)
    scale, offsets = _choose_scale([columns[name] for name in "xyz"], scale)
    if compress is None:
        compress = not hasattr(target, "write") and Path(os.fspath(target)).suffix.lower() == ".laz"
    laspy = require("laspy", "las", "LAS and LAZ files are written and")
    header = laspy.LasHeader(version="1.4", point_format=_choose_format(columns))
    header.generating_software = "pyro-pcflow"
    header.scales, header.offsets = np.full(3, scale), np.array(offsets)
    standard, extra = _sort_columns(columns, header.point_format, laspy)
    header.add_extra_dims([laspy.ExtraBytesParams(name, values.dtype) for name, values in extra.items()])
    points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    for axis, name in enumerate("xyz"):
        points.array[name.upper()] = _steps(columns[name], scale, offsets[axis])
    if not {"return_number", "number_of_returns"} & set(standard):
        # They count from 1.
        standard |= dict.fromkeys(["return_number", "number_of_returns"], np.ones(count, np.uint8))
    for name, values in standard.items():
        points[name][:] = values
    for name, values in extra.items():
        points.array[name] = values
    data = laspy.LasData(header, points)
    backend = laspy.LazBackend.Lazrs if compress else None
    if compress:
        require("lazrs", "las", "LAZ files are written and")
    if hasattr(target, "write"):
        data.write(target, do_compress=compress, laz_backend=backend)
    else:
        with open(target, "wb") as stream:
            data.write(stream, do_compress=compress, laz_backend=backend)


def _check(columns: dict[str, NDArray[Any]]) -> int:
    if missing := [name for name in "xyz" if name not in columns]:
        raise ValueError(f"LAS needs columns x, y and z, and {', '.join(missing)} is missing")
    count = len(columns["x"])
    if not count:
        raise ValueError("no points to write")
    for name, values in columns.items():
        if values.shape != (count,):
            raise ValueError(f"column {name!r} has shape {values.shape}, expected ({count},)")
        if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
            raise ValueError(f"column {name!r} holds {values.dtype}, and LAS holds numbers only: leave it out")
        if name in ("x", "y", "z") and not np.isfinite(values).all():
            raise ValueError(f"column {name!r} has NaN or infinite values, which LAS cannot hold: drop these points")
    return count


def _choose_scale(axes: list[NDArray[Any]], scale: float | None) -> tuple[float, list[float]]:
    lows = [float(values.min()) for values in axes]
    highs = [float(values.max()) for values in axes]
    # Whole offsets keep coordinates that were rounded to a power of ten before.
    offsets = [float(np.rint(low / 2 + high / 2)) for low, high in zip(lows, highs, strict=True)]
    reach = max(max(high - offset, offset - low) for low, high, offset in zip(lows, highs, offsets, strict=True))
    if scale is not None and not 0 < scale < np.inf:
        raise ValueError(f"scale must be positive, got {scale}")
    for candidate in _SCALES if scale is None else (scale,):
        if reach / candidate < _MOST_STEPS:
            return candidate, offsets
    if scale is None:
        raise ValueError(f"points reach {reach:g} from their middle, too far for LAS at a scale of {_SCALES[-1]:g}")
    raise ValueError(f"points reach {reach:g} from their middle, too far for LAS at a scale of {scale:g}")


def _choose_format(columns: dict[str, NDArray[Any]]) -> int:
    if "nir" in columns:
        return 8
    return 7 if any(name in columns for name in _COLOURS) else 6


def _steps(values: NDArray[Any], scale: float, offset: float) -> NDArray[np.int32]:
    return np.rint((values.astype(np.float64) - offset) / scale).astype(np.int32)


def _sort_columns(
    columns: dict[str, NDArray[Any]], point_format: Any, laspy: Any
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    standard: dict[str, NDArray[Any]] = {}
    extra: dict[str, NDArray[Any]] = {}
    known = {dimension.name: dimension for dimension in point_format.standard_dimensions}
    taken = {*known, *point_format.dtype().names}
    for name, values in columns.items():
        if name in ("x", "y", "z"):
            continue
        dimension = known.get(name)
        if dimension is not None and name not in ("X", "Y", "Z") and _fits(values, dimension):
            # Bits are shifted into their places, and must be whole numbers by then.
            standard[name] = values if name == "gps_time" else values.astype(np.int64)
            continue
        stored = f"{name}_value" if name in taken else name
        if not 1 <= len(stored.encode()) <= _MOST_NAME_BYTES or "\0" in stored:
            raise ValueError(f"column {name!r}: names have 1 to {_MOST_NAME_BYTES} bytes in LAS; rename it")
        if stored in extra or (stored != name and stored in columns):
            raise ValueError(f"two columns would have the name {stored!r}; rename one")
        extra[stored] = values.astype({"?": np.uint8, "e": np.float32}.get(values.dtype.char, values.dtype))
    if len(extra) > _MOST_EXTRA:
        raise ValueError(f"{len(extra)} extra columns, LAS holds up to {_MOST_EXTRA}")
    return standard, extra


def _fits(values: NDArray[Any], dimension: Any) -> bool:
    if dimension.name == "gps_time":
        return bool(values.dtype.kind == "f" or (values.astype(np.float64).astype(values.dtype) == values).all())
    with np.errstate(invalid="ignore"):
        return bool(((values >= dimension.min) & (values <= dimension.max) & (values == np.floor(values))).all())

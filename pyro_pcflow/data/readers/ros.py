"""Messages of ROS: sensor_msgs/PointCloud2, without ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.column_names import unique_names
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.ops.reading import shortened

__all__ = ["from_pointcloud2"]

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_MOST_COLUMNS = 4096


def from_pointcloud2(message: Any) -> PointTable:
    """Take the points of a message of type sensor_msgs/PointCloud2.

    Args:
        message: any object with its attributes `fields`, `height`, `width`, `point_step`, `row_step`, `data` and
            `is_bigendian`, from ROS 1, ROS 2 or a reader of bags. Each field has `name`, `offset`, `datatype` and
            `count`.

    Returns:
        A table of all points, row by row, in the message's types. A field of several values becomes several columns,
        `name:0`, `name:1` and so on; colours packed into `rgb` or `rgba` become r, g and b. Points that are NaN stay.

    Raises:
        ValueError: attributes that are missing, no points, or sizes and offsets that don't fit the data.

    Examples:
        >>> from types import SimpleNamespace as Message
        >>> fields = [Message(name=name, offset=4 * k, datatype=7, count=1) for k, name in enumerate("xyz")]
        >>> data = np.arange(6, dtype="<f4").tobytes()
        >>> sizes = dict(height=1, width=2, point_step=12, row_step=24, is_bigendian=False)
        >>> from_pointcloud2(Message(fields=fields, data=data, **sizes)).columns["z"].tolist()
        [2.0, 5.0]
    """
    height, width, step, row_step = (_size(message, name) for name in ("height", "width", "point_step", "row_step"))
    data = _bytes(_get(message, "data"))
    if not height or not width:
        raise ValueError(f"a message of {height} rows of {width} points: no points")
    if not step:
        raise ValueError("point_step is 0")
    if height == 1:
        row_step = max(row_step, width * step)  # drivers leave it 0 where there is one row
    if row_step < width * step:
        raise ValueError(f"row_step is {row_step}, and {width} points of {step} bytes need {width * step}")
    needed = row_step * (height - 1) + width * step
    if not needed <= len(data) <= row_step * height:
        raise ValueError(f"the sizes promise {row_step * height} bytes of data, there are {len(data)}")
    order = ">" if _get(message, "is_bigendian") else "<"
    columns: list[tuple[str, NDArray[Any]]] = []
    for field in _get(message, "fields"):
        name, kind, offset, count = _field(field, step)
        if not name:
            continue  # PCL's padding
        if len(columns) + count > _MOST_COLUMNS:
            raise ValueError(f"more than {_MOST_COLUMNS} columns")
        for k in range(count):
            item = np.dtype(order + kind)
            at = offset + k * item.itemsize
            view: NDArray[Any] = np.ndarray((height, width), item, data, at, (row_step, step))
            # A copy, whose bytes no driver overwrites.
            values = view.reshape(-1).astype(item.newbyteorder("="), copy=True)
            columns.append((f"{name}:{k}" if count > 1 else name, values))
    if not columns:
        raise ValueError("a message without fields")
    columns = _unpacked(columns)
    return PointTable(
        dict(zip(unique_names(name for name, _ in columns), (values for _, values in columns), strict=True))
    )


def _get(item: Any, name: str) -> Any:
    try:
        return getattr(item, name)
    except AttributeError as error:
        raise ValueError(f"a {type(item).__name__} without `{name}`, no message of PointCloud2") from error


def _size(item: Any, name: str) -> int:
    value = _get(item, name)
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise ValueError(f"{name} is {shortened(value)}, no size")
    return int(value)


def _bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        if isinstance(data, list | tuple):
            return bytes(data)
        return memoryview(data).tobytes()
    except (TypeError, ValueError) as error:
        raise ValueError(f"data is a {type(data).__name__}, no bytes") from error


def _field(field: Any, step: int) -> tuple[str, str, int, int]:
    name = str(_get(field, "name"))
    datatype, offset, count = (_size(field, key) for key in ("datatype", "offset", "count"))
    if datatype not in _TYPES:
        raise ValueError(f"field {shortened(name)} is of datatype {datatype}; known are 1 to 8")
    count = max(count, 1)  # old drivers write 0 for one value
    kind = _TYPES[datatype]
    end = offset + count * int(kind[1])
    if end > step:
        raise ValueError(f"field {shortened(name)} ends at byte {end} of points of {step} bytes")
    return name, kind, offset, count


def _unpacked(columns: list[tuple[str, NDArray[Any]]]) -> list[tuple[str, NDArray[Any]]]:
    """Colours that PCL packs into the bytes of one number, as columns of their own."""
    names = {name for name, _ in columns}
    spread: list[tuple[str, NDArray[Any]]] = []
    for name, values in columns:
        if name in ("rgb", "rgba") and values.dtype.itemsize == 4 and not names & {"r", "g", "b"}:
            packed = values.view(np.uint32)
            shifts = {"r": 16, "g": 8, "b": 0, **({"a": 24} if name == "rgba" else {})}
            spread += [(key, ((packed >> shift) & 255).astype(np.uint8)) for key, shift in shifts.items()]
        else:
            spread.append((name, values))
    return spread

"""Binary PLY files of points."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_ply"]

_TYPES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}
# Rows that are put together at once.
_BLOCK = 1 << 18


def write_ply(stream: BinaryIO, columns: dict[str, NDArray[Any]]) -> None:
    """Write points as a binary PLY file of vertices, each column in its own type, or in one that holds its values.

    Args:
        stream: where to write.
        columns: from names of properties to values, (N,) each.

    Raises:
        ValueError: a name that a PLY file cannot hold, columns of different lengths, or values that no type of
            PLY holds.

    Examples:
        >>> import io
        >>> stream = io.BytesIO()
        >>> write_ply(stream, {"x": np.zeros(2, np.float32), "y": np.ones(2), "scalar_class": np.zeros(2, np.uint8)})
        >>> print(stream.getvalue()[:-26].decode(), end="")
        ply
        format binary_little_endian 1.0
        element vertex 2
        property float x
        property double y
        property uchar scalar_class
        end_header
    """
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or any(column.ndim != 1 for column in columns.values()):
        raise ValueError("columns of one length are written, (N,) each")
    count = lengths.pop()
    columns = {name: _held(name, column) for name, column in columns.items()}
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    for name, column in columns.items():
        if not re.fullmatch("[!-~]+", name):
            raise ValueError(f"{name!r} is no name of a property: PLY takes one word of ASCII")
        head.append(f"property {_TYPES[column.dtype.str[1:]]} {name}")
    stream.write(("\n".join([*head, "end_header"]) + "\n").encode())
    row = np.dtype([(name, column.dtype.newbyteorder("<")) for name, column in columns.items()])
    for start in range(0, count, _BLOCK):
        table = np.empty(min(_BLOCK, count - start), row)
        for name, column in columns.items():
            table[name] = column[start : start + _BLOCK]
        stream.write(table.tobytes())


def _held(name: str, column: NDArray[Any]) -> NDArray[Any]:
    """A column in a type of PLY, which has no whole numbers of 64 bits."""
    if column.dtype.str[1:] in _TYPES:
        return column
    candidates = {"b": ["u1"], "f": ["f4"] if column.dtype.itemsize == 2 else [], "i": ["i4", "f8"], "u": ["u4", "f8"]}
    for kind in candidates.get(column.dtype.kind, []):
        with np.errstate(all="ignore"):
            held = column.astype(kind)
            # Beyond 2^63 the way back would round as well.
            if np.array_equal(held.astype(column.dtype), column, equal_nan=kind == "f4") and _is_exact(held):
                return held
    raise ValueError(f"the column {name!r} of {column.dtype}, whose values no type of PLY holds; convert it first")


def _is_exact(column: NDArray[Any]) -> bool:
    return column.dtype.kind != "f" or column.dtype.itemsize < 8 or not (np.abs(column) > 2**53).any()

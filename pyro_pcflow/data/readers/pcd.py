"""PCD, the format of the Point Cloud Library, with a parser of our own."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.readers.lzf import decompress
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.ops.reading import shortened

__all__ = ["read_pcd"]

_VERSIONS = {".5", ".6", ".7", "0.5", "0.6", "0.7"}
_KEYS = {"VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA"}
_TYPES = {f"{letter}{size}" for letter, sizes in (("F", "48"), ("I", "1248"), ("U", "1248")) for size in sizes}
_MOST_HEADER, _MOST_LINES, _MOST_NUMBERS = 1 << 20, 1000, 1 << 14
# Older versions of PCL fill the file up to the next page of memory.
_MOST_PADDING = 1 << 16
_PADDING = "_"


@dataclass(frozen=True)
class _Field:
    name: str
    dtype: np.dtype[Any]
    count: int

    @property
    def size(self) -> int:
        return self.dtype.itemsize * self.count


@dataclass(frozen=True)
class _Header:
    fields: tuple[_Field, ...]
    points: int
    encoding: str
    start: int

    @property
    def point_size(self) -> int:
        return sum(field.size for field in self.fields)


def read_pcd(path: Path) -> list[PointTable]:
    """Read a PCD file of version 0.5 to 0.7: text, binary or compressed.

    Points stay as they are stored: the viewpoint, which says where the sensor stood, is not applied, as in PCL and
    Open3D. An organised cloud becomes a plain list of points, row after row, with the NaN of its empty places. A field
    of several numbers gives columns NAME_0, NAME_1 and so on, and a packed colour gives red, green, blue (and alpha).

    Args:
        path: the file.

    Returns:
        One table, each column of the type of its field.

    Raises:
        ValueError: damaged, or another amount of data than its header promises.
    """
    data = path.read_bytes()
    header = _read_header(data)
    body = memoryview(data)[header.start :]
    if header.encoding == "ascii":
        raw = _read_text(bytes(body), header)
    elif header.encoding == "binary":
        raw = _read_binary(body, header)
    else:
        raw = _read_compressed(body, header)
    return [PointTable(_columns(raw, header))]


def _read_header(data: bytes) -> _Header:
    entries: dict[str, list[str]] = {}
    start = 0
    for _ in range(_MOST_LINES):
        end = data.find(b"\n", start, start + _MOST_HEADER)
        if end < 0 or "DATA" in entries:
            break
        line, start = data[start:end], end + 1
        words = line.decode("latin-1").split("#", 1)[0].split()
        if not words:
            continue
        key = "FIELDS" if words[0].upper() == "COLUMNS" else words[0].upper()
        if key not in _KEYS:
            raise ValueError(f"no PCD header, or an unknown line in it, {shortened(' '.join(words))}")
        if key in entries:
            raise ValueError(f"two lines {key} in its header")
        entries[key] = words[1:]
        if key == "DATA":
            return _interpret(entries, start)
    raise ValueError("no PCD header, or one without a line DATA")


def _interpret(entries: dict[str, list[str]], start: int) -> _Header:
    version = entries.get("VERSION", [".7"])
    if len(version) != 1 or version[0] not in _VERSIONS:
        raise ValueError(f"PCD version {shortened(' '.join(version))}, known are 0.5 to 0.7")
    encoding = " ".join(entries["DATA"]).lower()
    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"DATA {shortened(encoding)}, known are ascii, binary and binary_compressed")
    fields = _fields(entries)
    size = [_whole(entries, key) for key in ("WIDTH", "HEIGHT") if key in entries]
    if "POINTS" not in entries and "WIDTH" not in entries:
        raise ValueError("its header says neither POINTS nor WIDTH")
    points = _whole(entries, "POINTS") if "POINTS" in entries else prod(size)
    if "WIDTH" in entries and prod(size) != points:
        raise ValueError(f"header promises {points} points, and {' x '.join(map(str, size))}")
    if not points:
        raise ValueError("header promises no points")
    return _Header(fields, points, encoding, start)


def _whole(entries: dict[str, list[str]], key: str) -> int:
    words = entries[key]
    if len(words) != 1 or not re.fullmatch(r"[0-9]{1,18}", words[0]):
        raise ValueError(f"{key} {shortened(' '.join(words))} instead of one whole number")
    return int(words[0])


def _fields(entries: dict[str, list[str]]) -> tuple[_Field, ...]:
    names = entries.get("FIELDS", [])
    if not names:
        raise ValueError("its header names no FIELDS")
    # Version 0.5 knew single numbers of float32 only.
    sizes = entries.get("SIZE", ["4"] * len(names) if "TYPE" not in entries else [])
    types = entries.get("TYPE", ["F"] * len(names) if "SIZE" not in entries else [])
    counts = entries.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise ValueError(f"{len(names)} FIELDS, {len(sizes)} of SIZE, {len(types)} of TYPE and {len(counts)} of COUNT")
    fields = []
    for name, size, kind, count in zip(names, sizes, types, counts, strict=True):
        if (code := f"{kind.upper()}{size}") not in _TYPES:
            raise ValueError(f"field {shortened(name)} has TYPE {shortened(kind)} and SIZE {shortened(size)}")
        if not re.fullmatch(r"[0-9]{1,9}", count) or not int(count):
            raise ValueError(f"field {shortened(name)} has COUNT {shortened(count)}")
        fields.append(_Field(name, np.dtype(f"<{code.lower()}"), int(count)))
    if sum(field.count for field in fields) > _MOST_NUMBERS:
        raise ValueError(f"more than {_MOST_NUMBERS} numbers in each point")
    kept = [field.name for field in fields if field.name != _PADDING]
    if len(set(kept)) != len(kept):
        raise ValueError("two fields of one name")
    if not kept:
        raise ValueError("its FIELDS are padding only")
    return tuple(fields)


def _read_binary(body: memoryview, header: _Header) -> list[NDArray[Any]]:
    size = header.points * header.point_size
    if size > len(body):
        there = len(body) // header.point_size
        raise ValueError(f"header promises {header.points} points, the file has bytes for {there}")
    _check_rest(body[size:])
    layout, offset = [], 0
    for field in header.fields:
        layout.append((field.dtype, (field.count,), offset))
        offset += field.size
    names = [str(index) for index in range(len(layout))]
    formats = [(dtype, shape) for dtype, shape, _ in layout]
    record = np.dtype(
        {"names": names, "formats": formats, "offsets": [at for _, _, at in layout], "itemsize": header.point_size}
    )
    points = np.frombuffer(body, dtype=record, count=header.points)
    return [points[name] for name in names]


def _check_rest(rest: memoryview) -> None:
    # A last line's end does no harm either.
    if len(rest) > _MOST_PADDING or any(bytes(rest).rstrip(b"\r\n")):
        raise ValueError(f"{len(rest)} bytes behind the points that its header promises")


def _read_compressed(body: memoryview, header: _Header) -> list[NDArray[Any]]:
    if len(body) < 8:
        raise ValueError("compressed points that are cut short")
    packed, unpacked = (int.from_bytes(body[at : at + 4], "little") for at in (0, 4))
    if unpacked != header.points * header.point_size:
        promised = header.points * header.point_size
        raise ValueError(f"header promises {promised} bytes of points, they unpack to {unpacked}")
    if packed > len(body) - 8:
        raise ValueError(f"{packed} bytes of compressed points, the file has {len(body) - 8}")
    _check_rest(body[8 + packed :])
    stream = bytes(body[8 : 8 + packed])
    try:
        values = decompress(stream, unpacked)
    except ValueError:
        # Some programs store what compression would not make smaller as it is.
        if packed != unpacked:
            raise
        values = stream
    columns, start = [], 0
    for field in header.fields:
        # All points' numbers of a field lie together.
        column = np.frombuffer(values, dtype=field.dtype, count=header.points * field.count, offset=start)
        columns.append(column.reshape(header.points, field.count))
        start += header.points * field.size
    return columns


def _read_text(body: bytes, header: _Header) -> list[NDArray[Any]]:
    width = sum(field.count for field in header.fields)
    # Each number has a digit and something behind it, but for the very last one.
    if 2 * width * header.points - 1 > len(body):
        raise ValueError(f"header promises {header.points} points, the file is too short for them")
    try:
        lines = [line for raw in body.decode("ascii").split("\n") if (line := raw.strip())]
    except UnicodeDecodeError as error:
        raise ValueError("points in text that has other bytes than those of numbers") from error
    if len(lines) != header.points:
        raise ValueError(f"header promises {header.points} points, the file has {len(lines)} lines of them")
    types = [field.dtype for field in header.fields for _ in range(field.count)]
    record = np.dtype([(str(index), dtype) for index, dtype in enumerate(types)])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Older numpy takes 1.5 for an integer, and warns.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            table = np.loadtxt(lines, dtype=record, comments=None, ndmin=1)
        except DeprecationWarning as error:
            raise ValueError("fractions in a field of whole numbers") from error
    flat = [table[str(index)] for index in range(width)]
    columns, start = [], 0
    for field in header.fields:
        columns.append(np.stack(flat[start : start + field.count], axis=1))
        start += field.count
    return columns


def _columns(raw: list[NDArray[Any]], header: _Header) -> dict[str, NDArray[Any]]:
    pairs: list[tuple[str, NDArray[Any]]] = []
    for field, values in zip(header.fields, raw, strict=True):
        native = field.dtype.newbyteorder("=")
        packed = field.name.lower() in ("rgb", "rgba") and field.size == 4 and field.count == 1
        if field.name == _PADDING:
            continue
        if packed:
            pairs += _unpack_colour(field.name.lower(), values[:, 0], header.encoding == "ascii")
        elif field.count == 1:
            pairs.append((field.name, values[:, 0].astype(native)))
        else:
            pairs += [(f"{field.name}_{index}", values[:, index].astype(native)) for index in range(field.count)]
    columns = dict(pairs)
    if len(columns) != len(pairs):
        raise ValueError("two columns of one name")
    return columns


def _unpack_colour(name: str, values: NDArray[Any], text: bool) -> list[tuple[str, NDArray[Any]]]:
    if text and np.isnan(values).any():
        # In text, all that is NaN looks alike; the bits that held the colour are gone.
        raise ValueError(f"{name} is NaN in text, where no colour is left; write such files binary")
    bits = np.ascontiguousarray(values).view("<u4")
    shifts = {"red": 16, "green": 8, "blue": 0, "alpha": 24}
    names = list(shifts) if name == "rgba" else list(shifts)[:3]
    return [(colour, (bits >> np.uint32(shifts[colour]) & np.uint32(255)).astype(np.uint8)) for colour in names]

"""Checks of a LAS or LAZ file's header against the bytes of the file.

The parsers trust their headers: a wrong count costs gigabytes, an endless loop, or quietly shortens a cloud.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

from pyro_pcflow.ops.array_files import most_unpacked
from pyro_pcflow.ops.reading import shortened

__all__ = ["LasHeader", "check_chunks", "check_las"]

# Bytes of a record by point format, without extra bytes, and of a header by the minor version.
_POINT_SIZES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
_HEADER_SIZES = (227, 227, 227, 235, 375)
_VLR_BYTES, _EXTRA_BYTES = 54, 192
_MOST_VLR_BYTES = 1 << 24
# Bytes of the types of extra dimensions, of one to three numbers each.
_EXTRA_SIZES = (1, 1, 2, 2, 4, 4, 8, 8, 4, 8)
# Compressed items of each point format: their numbers in the laszip record.
_ITEMS = ((6,), (6, 7), (6, 8), (6, 7, 8), (6, 7, 9), (6, 7, 8, 9), (10,), (10, 11), (10, 12), (10, 13), (10, 12, 13))
_ITEM_SIZES = {6: 20, 7: 8, 8: 6, 9: 29, 10: 30, 11: 6, 12: 8, 13: 29}
_ITEM_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_BYTES, _BYTES_14 = 0, 14
_VARIABLE = 0xFFFFFFFF


@dataclass(frozen=True)
class LasHeader:
    """What the header of a LAS or LAZ file says, once it agrees with the file.

    Attributes:
        count: number of points.
        point_format: 0 to 10.
        point_size: bytes of a point's record, unpacked.
        start: of the points, in bytes.
        compressed: whether it is LAZ.
        laszip: the record of the compression; empty without it.
        lows: of x, y, z, as the header says.
        highs: likewise.
    """

    count: int
    point_format: int
    point_size: int
    start: int
    compressed: bool
    laszip: bytes
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def check_las(path: Path) -> LasHeader:
    """Compare the header of a LAS or LAZ file, and the records behind it, with the bytes of the file.

    Args:
        path: the file.

    Returns:
        What the header says.

    Raises:
        ValueError: no such file, or less data or other data than it promises.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEADER_SIZES[-1])
        if head[:4] != b"LASF":
            raise ValueError("no LAS header")
        if len(head) < _HEADER_SIZES[0]:
            raise ValueError("a LAS header that is cut short")
        major, minor = head[24], head[25]
        if major != 1 or minor >= len(_HEADER_SIZES):
            raise ValueError(f"LAS version {major}.{minor}, known are 1.0 to 1.{len(_HEADER_SIZES) - 1}")
        if len(head) < _HEADER_SIZES[minor]:
            raise ValueError("a LAS header that is cut short")
        header_size, start, num_records = struct.unpack_from("<HII", head, 94)
        if header_size < _HEADER_SIZES[minor] or not header_size <= start <= size:
            raise ValueError(f"header of {header_size} bytes and points from byte {start} on, in a file of {size}")
        stream.seek(header_size)
        records = _read_records(stream.read(min(start - header_size, _MOST_VLR_BYTES)), num_records)
    flags, point_size = head[104], struct.unpack_from("<H", head, 105)[0]
    # A compressed file sets the highest bit; the one below was another scheme's, and comes from no known program.
    point_format, compressed = flags & 0x3F, flags & 0xC0 == 0x80
    if flags & 0x40 or point_format >= len(_POINT_SIZES):
        raise ValueError(f"point format {flags}, known are 0 to {len(_POINT_SIZES) - 1}")
    count = _count(head, minor)
    extra = point_size - _POINT_SIZES[point_format]
    if extra < 0:
        raise ValueError(f"points of {point_size} bytes, those of format {point_format} have {point_size - extra}")
    _check_extra(records.get(("LASF_Spec", 4)), extra)
    box = struct.unpack_from("<12d", head, 131)
    if not all(isfinite(value) for value in box[:6]) or min(box[:3]) <= 0:
        raise ValueError(f"scales {box[:3]} and offsets {box[3:6]} of its coordinates")
    laszip = records.get(("laszip encoded", 22204), b"") if compressed else b""
    if compressed:
        _check_laszip(laszip, point_format, extra)
        if count * point_size > most_unpacked(size):
            raise ValueError(f"{count} points of {point_size} bytes would be unpacked from a far smaller file")
    else:
        _check_size(head, minor, size - start, count * point_size, point_size, start)
    return LasHeader(count, point_format, point_size, start, compressed, laszip, box[7::2], box[6::2])


def _read_records(data: bytes, number: int) -> dict[tuple[str, int], bytes]:
    if number * _VLR_BYTES > len(data):
        raise ValueError(f"header promises {number} records, and there is room for {len(data) // _VLR_BYTES}")
    records: dict[tuple[str, int], bytes] = {}
    position = 0
    for _ in range(number):
        head = data[position : position + _VLR_BYTES]
        raw_user, record, length = struct.unpack_from("<2x16sHH", head.ljust(_VLR_BYTES, b"\0"))
        position += _VLR_BYTES + length
        if position > len(data):
            raise ValueError("a record reaches into the points")
        user = raw_user.split(b"\0")[0].decode("latin-1")
        # As a rule, the first of a kind counts.
        records.setdefault((user, record), data[position - length : position])
    return records


def _count(head: bytes, minor: int) -> int:
    legacy = struct.unpack_from("<I", head, 107)[0]
    if minor < 4:
        count = legacy
    else:
        count = struct.unpack_from("<Q", head, 247)[0]
        if legacy and legacy != count:
            raise ValueError(f"header promises {legacy} points in one place, and {count} in another")
    if not count:
        raise ValueError("header promises no points: it is empty, or was not closed by the program that wrote it")
    return int(count)


def _check_extra(record: bytes | None, extra: int) -> None:
    # Without extra bytes, the record that would describe them is not used.
    if record is None or not extra:
        return
    if len(record) % _EXTRA_BYTES:
        raise ValueError(f"a description of extra dimensions of {len(record)} bytes")
    total = 0
    names = set()
    for start in range(0, len(record), _EXTRA_BYTES):
        kind, options = record[start + 2], record[start + 3]
        if kind > 30:
            raise ValueError(f"an extra dimension of unknown type {kind}")
        total += options if kind == 0 else _EXTRA_SIZES[(kind - 1) % 10] * ((kind - 1) // 10 + 1)
        name = record[start + 4 : start + 36].split(b"\0")[0]
        if name in names:
            raise ValueError(f"two extra dimensions of the name {shortened(name.decode('latin-1'))}")
        names.add(name)
    if total > extra:
        raise ValueError(f"extra dimensions of {total} bytes, and {extra} in each point")


def _check_size(head: bytes, minor: int, there: int, needed: int, point_size: int, start: int) -> None:
    if needed > there:
        raise ValueError(f"header promises {needed // point_size} points, the file has bytes for {there // point_size}")
    # Only waveforms and extended records may follow the points, and the header says where they start.
    more = [struct.unpack_from("<Q", head, 227)[0]] if minor >= 3 else []
    if minor >= 4 and struct.unpack_from("<I", head, 243)[0]:
        more.append(struct.unpack_from("<Q", head, 235)[0])
    if any(start < begin < start + needed for begin in more):
        raise ValueError("other records begin amid the points")
    if not any(more) and there - needed >= point_size:
        raise ValueError(f"header promises {needed // point_size} points, the file has bytes for {there // point_size}")


def _check_laszip(record: bytes, point_format: int, extra: int) -> None:
    if len(record) < 34:
        raise ValueError("compressed, and without the record that says how")
    compressor = struct.unpack_from("<H", record)[0]
    if compressor != (3 if point_format >= 6 else 2):
        raise ValueError(f"compressed in a way (number {compressor}) that is not in use for format {point_format}")
    number = struct.unpack_from("<H", record, 32)[0]
    if len(record) < 34 + 6 * number:
        raise ValueError("the record of its compression is cut short")
    items = [struct.unpack_from("<HH", record, 34 + 6 * index) for index in range(number)]
    expected = [(kind, _ITEM_SIZES[kind]) for kind in _ITEMS[point_format]]
    if extra:
        expected.append((_BYTES_14 if point_format >= 6 else _BYTES, extra))
    if items != expected:
        raise ValueError("the record of its compression disagrees with its point format")


def check_chunks(stream: BinaryIO, header: LasHeader, lazrs: Any) -> None:
    """Compare the chunks of a LAZ file, which are unpacked one by one, with the bytes of the file.

    Args:
        stream: the file.
        header: of it, compressed.
        lazrs: the module that reads the table of the chunks.

    Raises:
        ValueError: a table or chunks that disagree with the file.
    """
    begin = header.start + 8
    size = stream.seek(0, 2)
    if begin + 8 > size:
        raise ValueError("compressed points that are cut short")
    table = _number_at(stream, header.start, "<q")
    # A program that can't go back writes it at the very end.
    table = _number_at(stream, size - 8, "<q") if table == -1 else table
    if not begin <= table <= size - 8:
        raise ValueError("the table of its compressed chunks lies outside of the file: it is cut short")
    version, number = _number_at(stream, table, "<I"), _number_at(stream, table + 4, "<I")
    if version or not number or number * header.point_size > table - begin:
        raise ValueError(f"a table of {number} compressed chunks in {table - begin} bytes")
    stream.seek(header.start)
    chunks = lazrs.read_chunk_table(stream, lazrs.LazVlr(header.laszip))
    if len(chunks) != number:
        raise ValueError(f"a table of {number} compressed chunks, of which {len(chunks)} can be read")
    sizes = [int(length) for _, length in chunks]
    if sum(sizes) != table - begin:
        raise ValueError(f"compressed chunks of {sum(sizes)} bytes, and {table - begin} before their table")
    counts = _chunk_counts(header, [int(points) for points, _ in chunks])
    if header.point_format >= 6:
        _check_layers(stream, header, begin, counts, sizes)


def _number_at(stream: BinaryIO, position: int, kind: str) -> int:
    stream.seek(position)
    data = stream.read(struct.calcsize(kind))
    return int(struct.unpack(kind, data)[0])


def _chunk_counts(header: LasHeader, counts: list[int]) -> list[int]:
    chunk_size = struct.unpack_from("<I", header.laszip, 12)[0]
    if chunk_size == _VARIABLE:
        if sum(counts) != header.count:
            raise ValueError(f"header promises {header.count} points, its chunks have {sum(counts)}")
        return counts
    full = len(counts) - 1
    if not full * chunk_size < header.count <= (full + 1) * chunk_size:
        raise ValueError(f"header promises {header.count} points, in {len(counts)} chunks of up to {chunk_size}")
    return [chunk_size] * full + [header.count - full * chunk_size]


def _check_layers(stream: BinaryIO, header: LasHeader, begin: int, counts: list[int], sizes: list[int]) -> None:
    # The parser makes room for each layer before it reads it.
    layers = sum(_ITEM_LAYERS[kind] for kind in _ITEMS[header.point_format])
    layers += header.point_size - _POINT_SIZES[header.point_format]
    width = header.point_size + 4 + 4 * layers
    for count, size in zip(counts, sizes, strict=True):
        stream.seek(begin)
        head = stream.read(width)
        if size < width or len(head) < width:
            raise ValueError("a compressed chunk that is cut short")
        there, *lengths = struct.unpack_from(f"<{1 + layers}I", head, header.point_size)
        whole = width + sum(lengths)
        if there != count or whole != size:
            raise ValueError(f"a compressed chunk of {there} points and {whole} bytes, not {count} and {size}")
        begin += size

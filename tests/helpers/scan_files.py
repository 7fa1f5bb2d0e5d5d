"""Scan files of many kinds, written byte by byte; LAZ and E57 by their libraries."""

from __future__ import annotations

import io
import struct

import numpy as np

# ---- PCD


def lzf(data, most=8192):
    """Compress by greedy matches of three bytes and more."""
    out, literals, seen, at = bytearray(), bytearray(), {}, 0

    def flush():
        for start in range(0, len(literals), 32):
            part = literals[start : start + 32]
            out.append(len(part) - 1)
            out.extend(part)
        literals.clear()

    while at < len(data):
        key = bytes(data[at : at + 3])
        before = seen.get(key, -1)
        seen[key] = at
        if len(key) == 3 and before >= 0 and at - before <= most:
            length = 3
            while length < 264 and at + length < len(data) and data[before + length] == data[at + length]:
                length += 1
            flush()
            distance = at - before - 1
            short = min(length - 2, 7)
            out.append(short << 5 | distance >> 8)
            if short == 7:
                out.append(length - 9)
            out.append(distance & 255)
            at += length
        else:
            literals.append(data[at])
            at += 1
    flush()
    return bytes(out)


def pcd(fields, points, encoding="binary", *, width=None, height=1, version="0.7", end="\n", drop=(), count=None):
    """A PCD file.

    Args:
        fields: (name, type letter, size, count) each.
        points: for each field an array, (N,) or (N, count).
        encoding: ascii, binary, binary_compressed; or stored, as the last one without compression.
        width: other than the number of points over the height.
        height: rows.
        version: as written.
        end: of the header's lines.
        drop: keys of lines to leave out.
        count: number of points in the header.
    """
    number = len(points[0]) if count is None else count
    rows = {
        "VERSION": version,
        "FIELDS": " ".join(name for name, *_ in fields),
        "SIZE": " ".join(str(size) for _, _, size, _ in fields),
        "TYPE": " ".join(letter for _, letter, _, _ in fields),
        "COUNT": " ".join(str(times) for *_, times in fields),
        "WIDTH": str(number // height if width is None else width),
        "HEIGHT": str(height),
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(number),
        "DATA": "binary_compressed" if encoding == "stored" else encoding,
    }
    lines = ["# .PCD v0.7 - Point Cloud Data file format"]
    lines += [f"{key} {value}" for key, value in rows.items() if key not in drop]
    head = "".join(line + end for line in lines).encode()
    arrays = [
        np.asarray(values).reshape(len(points[0]), -1).astype(f"<{letter.lower()}{size}")
        for (_, letter, size, _), values in zip(fields, points, strict=True)
    ]
    if encoding == "ascii":
        every = range(len(arrays[0]))
        text = [" ".join(str(value) for values in arrays for value in values[index].tolist()) for index in every]
        return head + "".join(row + "\n" for row in text).encode()
    if encoding == "binary":
        return head + b"".join(values[index].tobytes() for index in range(len(arrays[0])) for values in arrays)
    body = b"".join(values.tobytes() for values in arrays)
    packed = body if encoding == "stored" else lzf(body)
    return head + struct.pack("<II", len(packed), len(body)) + packed


XYZ = [("x", "F", 4, 1), ("y", "F", 4, 1), ("z", "F", 4, 1)]

# ---- LAS

LAS_SIZES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
LAS_SCALES, LAS_OFFSETS = (0.01, 0.001, 0.25), (500000.0, -4.0, 0.5)
LAS_HEADERS = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375}


def las_record(point_format, values, extra=b""):
    """One point record by the tables of the specification."""
    names = "intensity returns number class flags user angle source time red green blue nir channel direction edge"
    value = dict.fromkeys(names.split(), 0) | values
    data = struct.pack("<iiiH", *value["XYZ"], value["intensity"])
    if point_format < 6:
        bits = value["returns"] | value["number"] << 3 | value["direction"] << 6 | value["edge"] << 7
        kind = value["class"] | value["flags"] << 5
        data += struct.pack("<BBbBH", bits, kind, value["angle"], value["user"], value["source"])
        has_time = point_format in (1, 3, 4, 5)
    else:
        bits = value["returns"] | value["number"] << 4
        flags = value["flags"] | value["channel"] << 4 | value["direction"] << 6 | value["edge"] << 7
        data += struct.pack("<BBBBhH", bits, flags, value["class"], value["user"], value["angle"], value["source"])
        has_time = True
    if has_time:
        data += struct.pack("<d", value["time"])
    if point_format in (2, 3, 5, 7, 8, 10):
        data += struct.pack("<HHH", value["red"], value["green"], value["blue"])
    if point_format in (8, 10):
        data += struct.pack("<H", value["nir"])
    if point_format in (4, 5, 9, 10):
        data += struct.pack("<BQIffff", 1, 2, 3, 4.0, 5.0, 6.0, 7.0)
    assert len(data) == LAS_SIZES[point_format]
    return data + extra


def las_vlr(user, record, data, description=b""):
    """A variable length record."""
    return struct.pack("<H16sHH32s", 0, user, record, len(data), description) + data


def extra_bytes(name, kind, *, options=0, scale=(0.0, 0.0, 0.0), offset=(0.0, 0.0, 0.0), no_data=bytes(24)):
    """The description of one extra dimension."""
    return struct.pack("<2xBB32s4x24s48x3d3d32s", kind, options, name, no_data, *scale, *offset, b"")


def las(records, minor, point_format, *, scales, offsets, vlrs=(), count=None, legacy=None, tail=b"", flags=0, gap=b""):
    """A LAS file."""
    vlr_data = b"".join(vlrs)
    header_size = LAS_HEADERS[minor]
    start = header_size + len(vlr_data) + len(gap)
    number = len(records) if count is None else count
    if legacy is None:
        legacy = number if minor < 4 or point_format < 6 else 0
    size = len(records[0]) if records else LAS_SIZES[point_format]
    head = struct.pack("<4sHHIHH8sBB", b"LASF", 0, 0, 0, 0, 0, b"", 1, minor)
    head += struct.pack("<32s32sHHH", b"by hand", b"by hand", 1, 2020, header_size)
    head += struct.pack("<IIBHI5I", start, len(vlrs), point_format | flags, size, legacy, *[0] * 5)
    head += struct.pack("<3d3d6d", *scales, *offsets, *[0.0] * 6)
    if minor >= 3:
        head += struct.pack("<Q", 0)
    if minor >= 4:
        head += struct.pack("<QIQ15Q", 0, 0, number, *[0] * 15)
    assert len(head) == header_size
    return head + vlr_data + gap + b"".join(records) + tail


def laz(number=300, point_format=6, extra=True, minor=4):
    """Points of random numbers, and a LAZ file of them."""
    import laspy

    header = laspy.LasHeader(version=f"1.{minor}", point_format=point_format)
    header.scales, header.offsets = np.array(LAS_SCALES), np.array(LAS_OFFSETS)
    if extra:
        header.add_extra_dim(laspy.ExtraBytesParams("quality", np.float32))
    points = laspy.ScaleAwarePointRecord.zeros(number, header=header)
    rng = np.random.default_rng(number)
    for name in points.array.dtype.names:
        column = points.array[name]
        if column.dtype.kind == "f":
            column[:] = rng.normal(size=number)
        else:
            column[:] = rng.integers(0, 100, number)
    stream = io.BytesIO()
    laspy.LasData(header, points).write(stream, do_compress=True, laz_backend=laspy.LazBackend.Lazrs)
    return points, stream.getvalue()


def change(data, position, kind, *numbers):
    """The same bytes with other numbers at a place."""
    data = bytearray(data)
    struct.pack_into(kind, data, position, *numbers)
    return bytes(data)


# ---- E57


def write_e57(path, scans):
    """An E57 file through its library.

    Args:
        path: of the file.
        scans: for each a dict of `fields` (name to (node kind, its arguments), values), and perhaps name, pose.
    """
    from pye57 import libe57

    file = libe57.ImageFile(str(path), "w")
    file.extensionsAdd("", libe57.E57_V1_0_URI)
    root = file.root()
    root.set("formatName", libe57.StringNode(file, "ASTM E57 3D Imaging Data File"))
    root.set("guid", libe57.StringNode(file, "{00000000-0000-0000-0000-000000000000}"))
    root.set("versionMajor", libe57.IntegerNode(file, 1))
    root.set("versionMinor", libe57.IntegerNode(file, 0))
    data = libe57.VectorNode(file, True)
    root.set("data3D", data)
    root.set("images2D", libe57.VectorNode(file, True))
    for index, scan in enumerate(scans):
        node = libe57.StructureNode(file)
        node.set("guid", libe57.StringNode(file, f"{{{index}}}"))
        if "name" in scan:
            node.set("name", libe57.StringNode(file, scan["name"]))
        if "pose" in scan:
            pose = libe57.StructureNode(file)
            node.set("pose", pose)
            for name, letters, values in zip(("rotation", "translation"), ("wxyz", "xyz"), scan["pose"], strict=True):
                if values is None:
                    continue
                part = libe57.StructureNode(file)
                pose.set(name, part)
                for letter, value in zip(letters, values, strict=True):
                    part.set(letter, libe57.FloatNode(file, value))
        prototype = libe57.StructureNode(file)
        buffers = libe57.VectorSourceDestBuffer()
        arrays = []
        for name, (make, values) in scan["fields"].items():
            prototype.set(name, make(libe57, file))
            scaled = values.dtype.kind == "f"
            # The bindings know integers of eight bytes by the name of "long long" only.
            array = np.ascontiguousarray(values, np.longlong if values.dtype.kind == "i" else values.dtype)
            arrays.append(array)
            buffers.append(libe57.SourceDestBuffer(file, name, array, max(len(array), 1), True, scaled))
        points = libe57.CompressedVectorNode(file, prototype, libe57.VectorNode(file, True))
        node.set("points", points)
        data.append(node)
        writer = points.writer(buffers)
        if len(arrays[0]):
            writer.write(len(arrays[0]))
        writer.close()
    file.close()


def double(libe57, file):
    """A node of float64."""
    return libe57.FloatNode(file, 0.0, libe57.FloatPrecision.E57_DOUBLE)


def single(libe57, file):
    """A node of float32."""
    return libe57.FloatNode(file, 0.0, libe57.FloatPrecision.E57_SINGLE)


def whole(low, high):
    """A node of integers from low to high."""
    return lambda libe57, file: libe57.IntegerNode(file, low, low, high)


def scaled(low, high, scale, offset):
    """A node of scaled integers."""
    return lambda libe57, file: libe57.ScaledIntegerNode(file, low, low, high, scale, offset)


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data):
    """CRC-32C, byte by byte."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 255] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def to_pages(logical):
    """Cut bytes into pages with checksums."""
    parts = [logical[at : at + 1020].ljust(1020, b"\0") for at in range(0, len(logical), 1020)]
    return b"".join(part + struct.pack(">I", crc32c(part)) for part in parts)


def from_pages(data):
    """Bytes without the checksums of their pages."""
    return b"".join(data[at : at + 1020] for at in range(0, len(data), 1024))


# ---- damage


def damaged(data, rng, number_of_changes=4):
    """A file with some bytes changed, numbers swapped, cut short, or parts of it repeated or left out."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, number_of_changes + 1))):
        kind = rng.integers(6)
        at, to = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
        if kind == 0 and at < len(data):
            data[at] = int(rng.integers(256))
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            value = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 255, 10**9]))
            piece = struct.pack("<Q", value)[: int(rng.choice([1, 2, 4, 8]))]
            data[at : at + len(piece)] = piece
        elif kind == 3:
            del data[at : len(data) if rng.random() < 0.3 else min(to, at + 40)]
        elif kind == 4:
            data[at:at] = data[at : min(to, at + 40)]
        else:
            digits = [place for place in range(min(len(data), 600)) if 48 <= data[place] <= 57]
            if digits:
                data[digits[int(rng.integers(len(digits)))]] = 48 + int(rng.integers(10))
        if not data:
            break
    return bytes(data)

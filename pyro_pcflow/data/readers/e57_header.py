"""Checks of an E57 file before a parser sees it: its header, the checksum of each page, and its XML."""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_e57", "page_checksums"]

_PAGE, _PAYLOAD = 1024, 1020
_HEADER = struct.Struct("<8sIIQQQQ")
# The polynomial of Castagnoli, bits reversed.
_POLYNOMIAL = 0x82F63B78
_BLOCK = 4096
# The parser makes a node of each element, looks among its siblings for one of its name, and descends into children by
# calls. A scan has some sixty elements.
_MOST_XML, _MOST_ELEMENTS, _MOST_CHILDREN, _MOST_DEPTH = 1 << 25, 200_000, 5_000, 32


def check_e57(path: Path) -> None:
    """Refuse an E57 file that is damaged anywhere, or whose XML a parser would not come to an end with.

    Args:
        path: the file.

    Raises:
        ValueError: no E57 file, cut short, or with a wrong checksum; or hostile XML.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start, length = _check_header(stream.read(_HEADER.size), size)
        _check_pages(stream, size)
        _check_xml(_read_logical(stream, start, length))


def _check_header(head: bytes, size: int) -> tuple[int, int]:
    if head[:8] != b"ASTM-E57" or len(head) < _HEADER.size:
        raise ValueError("no E57 header")
    _, major, minor, length, start, xml_length, page = _HEADER.unpack(head)
    if (major, minor) != (1, 0):
        raise ValueError(f"E57 version {major}.{minor}, known is 1.0")
    if page != _PAGE:
        raise ValueError(f"pages of {page} bytes, expected {_PAGE}")
    if length != size or size % _PAGE:
        raise ValueError(f"header promises {length} bytes, the file has {size}")
    if not 0 < xml_length <= _MOST_XML:
        raise ValueError(f"a description of {xml_length} bytes")
    if start % _PAGE >= _PAYLOAD or _to_logical(start) + xml_length > size // _PAGE * _PAYLOAD:
        raise ValueError("its description lies outside of the file")
    return start, xml_length


def _to_logical(position: int) -> int:
    return position // _PAGE * _PAYLOAD + position % _PAGE


def _read_logical(stream: BinaryIO, start: int, length: int) -> bytes:
    first, last = start // _PAGE, (_to_logical(start) + length - 1) // _PAYLOAD
    stream.seek(first * _PAGE)
    pages = stream.read((last - first + 1) * _PAGE)
    logical = b"".join(pages[index : index + _PAYLOAD] for index in range(0, len(pages), _PAGE))
    return logical[start % _PAGE :][:length]


def _check_pages(stream: BinaryIO, size: int) -> None:
    stream.seek(0, os.SEEK_SET)
    for first in range(0, size // _PAGE, _BLOCK):
        data = stream.read(_BLOCK * _PAGE)
        pages = np.frombuffer(data, dtype=np.uint8, count=len(data) // _PAGE * _PAGE).reshape(-1, _PAGE)
        stored = np.ascontiguousarray(pages[:, _PAYLOAD:]).view(">u4")[:, 0]
        wrong = np.flatnonzero(page_checksums(pages[:, :_PAYLOAD]) != stored)
        if wrong.size:
            raise ValueError(f"the checksum of page {first + wrong[0]} is wrong: the file is damaged")


def page_checksums(pages: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC-32C of many strings of bytes at once.

    Args:
        pages: (P, B), with B a multiple of 4.

    Returns:
        (P,) checksums.

    Examples:
        >>> hex(page_checksums(np.frombuffer(b"12345678" * 2, np.uint8).reshape(2, 8))[0])
        '0x6087809a'
    """
    low, high = _tables()
    checksums = np.full(len(pages), 0xFFFFFFFF, np.uint32)
    # Words of four bytes, one after another, each of all pages at once.
    for word in np.ascontiguousarray(np.ascontiguousarray(pages).view("<u4").T):
        checksums ^= word
        checksums = low[checksums & 0xFFFF] ^ high[checksums >> 16]
    return checksums ^ np.uint32(0xFFFFFFFF)


@cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    # What two bytes leave behind once they, and none or two more of zeros, are shifted out.
    high = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        high = _shift(high)
    low = high
    for _ in range(16):
        low = _shift(low)
    return low, high


def _shift(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (values >> np.uint32(1)) ^ np.where(values & 1, np.uint32(_POLYNOMIAL), np.uint32(0))


def _check_xml(data: bytes) -> None:
    counter = _Counter()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = counter.refuse_types
    parser.StartElementHandler = counter.enter
    parser.EndElementHandler = counter.leave
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError) as error:  # the second for an unknown encoding
        raise ValueError(f"its description is damaged XML ({error})") from error


class _Counter:
    def __init__(self) -> None:
        self.children = [0]
        self.total = 0

    def enter(self, name: str, attributes: dict[str, str]) -> None:
        self.total += 1
        self.children[-1] += 1
        self.children.append(0)
        if self.total > _MOST_ELEMENTS or self.children[-2] > _MOST_CHILDREN or len(self.children) > _MOST_DEPTH:
            raise ValueError("its description has too many elements, or too deep ones")

    def leave(self, name: str) -> None:
        self.children.pop()

    def refuse_types(self, *declared: object) -> None:
        raise ValueError("its description declares a document type, which may lead into other files")

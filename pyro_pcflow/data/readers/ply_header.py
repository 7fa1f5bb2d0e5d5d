"""The header of a PLY file: which elements follow, how many of them, and of which properties."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pyro_pcflow.ops.reading import shortened

__all__ = ["Element", "Header", "Property", "read_header"]

_TYPES = {
    **dict.fromkeys(["char", "int8"], "i1"),
    **dict.fromkeys(["uchar", "uint8"], "u1"),
    **dict.fromkeys(["short", "int16"], "i2"),
    **dict.fromkeys(["ushort", "uint16"], "u2"),
    **dict.fromkeys(["int", "int32"], "i4"),
    **dict.fromkeys(["uint", "uint32"], "u4"),
    **dict.fromkeys(["long", "int64"], "i8"),
    **dict.fromkeys(["ulong", "uint64"], "u8"),
    **dict.fromkeys(["float", "float32"], "f4"),
    **dict.fromkeys(["double", "float64"], "f8"),
}
_ORDERS: dict[str, Literal["=", "<", ">"]] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST = 1 << 20
_MOST_PROPERTIES = 10_000
# A line of a comment may end in this word as well.
_END = re.compile(rb"(?:(?<=\n)|(?<=\r))[ \t]*end_header[ \t]*(\r\n|\r|\n|$)")


@dataclass(frozen=True)
class Property:
    """A property of an element: one value, or a list of them where `count_type` is given."""

    name: str
    type: np.dtype
    count_type: np.dtype | None = None


@dataclass
class Element:
    """An element of the file: `count` rows of properties."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)

    @property
    def least_bytes(self) -> int:
        """Bytes of a row whose lists are all empty."""
        return sum((entry.count_type or entry.type).itemsize for entry in self.properties)


@dataclass(frozen=True)
class Header:
    """What a header says; `start` is the first byte behind it, and `lines` are its lines."""

    ascii: bool
    elements: list[Element]
    start: int
    lines: int

    def element(self, name: str) -> Element | None:
        return next((element for element in self.elements if element.name == name), None)


def read_header(data: bytes) -> Header:
    """Read the header of a PLY file.

    Args:
        data: the bytes of the file, or its first ones.

    Raises:
        ValueError: no header, or one with lines that no reader could follow.

    Examples:
        >>> header = read_header(b"ply\\nformat ascii 1.0\\nelement vertex 1\\nproperty float x\\nend_header\\n5\\n")
        >>> header.elements[0].count, header.elements[0].properties[0].type, header.start
        (1, dtype('float32'), 66)
    """
    begin = re.match(rb"(?:\xef\xbb\xbf)?ply[ \t]*(\r\n|\r|\n)", data)
    if begin is None:
        raise ValueError("no PLY header")
    end = _END.search(data, 0, _LONGEST)
    if end is None:
        raise ValueError("no line 'end_header' of a PLY header")
    stop = end.end()
    if begin[1] == b"\r" and end[1] == b"\r\n":
        # Its lines end in a carriage return alone, and the line feed is the first byte of the data.
        stop -= 1
    lines = data[begin.end() : end.start()].decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    order: Literal["=", "<", ">"] | None = None
    elements: list[Element] = []
    for line in lines:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and order is None and len(words) == 3 and words[1] in _ORDERS:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3:
            elements.append(_element(words[1], words[2], elements))
        elif words[0] == "property" and elements:
            elements[-1].properties.append(_property(words[1:]))
        else:
            raise ValueError(f"{shortened(line)} in a PLY header")
    if order is None:
        raise ValueError("no line 'format' in the PLY header")
    _check_names(elements)
    ordered = [Element(e.name, e.count, [_ordered(p, order) for p in e.properties]) for e in elements]
    lines_before = len(re.findall(rb"\r\n|\r|\n", data[:stop]))
    return Header(order == "=", ordered, stop, lines_before)


def _element(name: str, count: str, before: list[Element]) -> Element:
    if any(element.name == name for element in before):
        raise ValueError(f"element {shortened(name)} is declared twice")
    if re.fullmatch("-[0-9]+", count):
        raise ValueError("header promises a negative number of elements")
    if not re.fullmatch("[0-9]{1,18}", count):
        raise ValueError(f"{shortened(count)} stands where a number of elements belongs")
    return Element(name, int(count))


def _property(words: list[str]) -> Property:
    for word in words[:-1]:
        if word != "list" and word not in _TYPES:
            raise ValueError(f"unknown type {shortened(word)} of a property")
    if len(words) == 2 and words[0] != "list":
        return Property(words[1], np.dtype(_TYPES[words[0]]))
    if len(words) != 4 or words[0] != "list" or "list" in words[1:3]:
        raise ValueError(f"{shortened(' '.join(['property', *words]))} in a PLY header")
    if np.dtype(_TYPES[words[1]]).kind == "f":
        raise ValueError("lists whose length is no whole number")
    return Property(words[3], np.dtype(_TYPES[words[2]]), np.dtype(_TYPES[words[1]]))


def _check_names(elements: list[Element]) -> None:
    if sum(len(element.properties) for element in elements) > _MOST_PROPERTIES:
        raise ValueError(f"more than {_MOST_PROPERTIES} properties")
    for element in elements:
        names = [entry.name for entry in element.properties]
        if len({*names}) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise ValueError(f"property {shortened(twice)} is declared twice")


def _ordered(entry: Property, order: Literal["=", "<", ">"]) -> Property:
    count_type = None if entry.count_type is None else entry.count_type.newbyteorder(order)
    return Property(entry.name, entry.type.newbyteorder(order), count_type)

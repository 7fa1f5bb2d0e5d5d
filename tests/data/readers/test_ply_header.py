"""Headers of PLY files: what they may hold, and where the data begin."""

from __future__ import annotations

import pytest

from pyro_pcflow.data.readers.ply_header import read_header

HEAD = b"ply\nformat binary_big_endian 1.0\nelement vertex 2\nproperty float x\nend_header\n"
DATA = b"\n\r\n12345"

GOOD = {
    "plain": HEAD,
    "comment": HEAD.replace(b"element", b"comment by hand\nelement"),
    "comment before the format": HEAD.replace(b"format", b"comment by hand\nformat"),
    "comment that looks like a format": HEAD.replace(b"format", b"comment format ascii 1.0\nformat"),
    "comment of no words": HEAD.replace(b"format", b"comment\nformat"),
    "comment that ends the header": HEAD.replace(b"element", b"comment end_header\nelement"),
    "obj_info": HEAD.replace(b"element", b"obj_info num_cols 5\nobj_info end_header \nelement"),
    "empty lines": HEAD.replace(b"\n", b"\n\n").replace(b"end_header\n\n", b"end_header\n"),
    "trailing blanks": HEAD.replace(b"\n", b"  \t\n"),
    "crlf": HEAD.replace(b"\n", b"\r\n"),
    "cr": HEAD.replace(b"\n", b"\r"),
    "indented": HEAD.replace(b"\nprop", b"\n  prop"),
    "tabs": HEAD.replace(b" ", b"\t"),
    "latin-1": HEAD.replace(b"element", b"comment cr\xe9\xe9\nelement"),
    "byte order mark": b"\xef\xbb\xbf" + HEAD,
}


@pytest.mark.parametrize("name", GOOD)
def test_headers(name):
    header = read_header(GOOD[name] + DATA)
    assert not header.ascii
    (element,) = header.elements
    assert (element.name, element.count) == ("vertex", 2)
    assert [(entry.name, entry.type.str) for entry in element.properties] == [("x", ">f4")]
    # Data may begin with bytes that look like the end of a line.
    assert (GOOD[name] + DATA)[header.start :] == DATA


def test_line_feed_at_the_end_of_carriage_returns():
    # Behind a lone carriage return, a line feed is data.
    head = HEAD.replace(b"\n", b"\r")
    assert read_header(head + b"\n123").start == len(head)


BAD = {
    "words": (b"hello\n", "no PLY header"),
    "glued": (HEAD.replace(b"ply\n", b"plyx\n"), "no PLY header"),
    "no end": (HEAD[:-11], "no line 'end_header'"),
    "no format": (HEAD.replace(b"format binary_big_endian 1.0\n", b""), "no line 'format'"),
    "other format": (HEAD.replace(b"big", b"middle"), "'format binary_middle_endian 1.0' in a PLY header"),
    "two formats": (HEAD.replace(b"element", b"format ascii 1.0\nelement"), "'format ascii 1.0' in"),
    "type": (HEAD.replace(b"float", b"flot"), "unknown type 'flot'"),
    "no name": (HEAD.replace(b"float x", b"float"), "'property float' in a PLY header"),
    "no count": (HEAD.replace(b"vertex 2", b"vertex"), "'element vertex' in a PLY header"),
    "word for a count": (HEAD.replace(b"vertex 2", b"vertex two"), "'two' stands where a number of elements"),
    "long count": (HEAD.replace(b"vertex 2", b"vertex " + b"9" * 5000), "stands where a number of elements"),
    "real count": (HEAD.replace(b"vertex 2", b"vertex 2.0"), r"'2\.0' stands where"),
    "negative": (HEAD.replace(b"vertex 2", b"vertex -2"), "a negative number of elements"),
    "twice": (HEAD.replace(b"end_h", b"element vertex 2\nend_h"), "element 'vertex' is declared twice"),
    "property twice": (HEAD.replace(b"end_h", b"property int x\nend_h"), "property 'x' is declared twice"),
    "property of nothing": (HEAD.replace(b"element vertex 2\n", b""), "'property float x' in a PLY header"),
    "short list": (HEAD.replace(b"float x", b"list uchar x"), "'property list uchar x' in a PLY header"),
    "list of lists": (HEAD.replace(b"float x", b"list list int x"), "in a PLY header"),
    "real list": (HEAD.replace(b"float x", b"list float int x"), "lists whose length is no whole number"),
    "other line": (HEAD.replace(b"element", b"elemental\nelement"), "'elemental' in a PLY header"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_headers(name):
    data, found = BAD[name]
    with pytest.raises(ValueError, match=found):
        read_header(data)


def test_lines_and_lists():
    head = b"ply\nformat ascii 1.0\n\ncomment a\nelement face 3\nproperty list uint8 int32 vertex_indices\nend_header\n"
    header = read_header(head)
    assert header.ascii
    assert header.lines == 7
    entry = header.element("face").properties[0]
    assert (entry.count_type, entry.type) == ("u1", "i4")
    assert header.element("face").least_bytes == 1
    assert header.element("edge") is None

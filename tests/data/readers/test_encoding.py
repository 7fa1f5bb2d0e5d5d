"""Encodings of text, by their marks."""

from __future__ import annotations

import pytest

from helpers.text_files import ENCODINGS
from pyro_pcflow.data.readers.encoding import decode, plain_lines

TEXT = "x y\n1 2\nH\u00f6he \u4e2d \U0001f600\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_marked(encoding):
    assert decode(ENCODINGS[encoding](TEXT)) == TEXT


def test_latin_1_where_it_is_no_utf_8():
    assert decode("# H\u00f6he\n1 2".encode("latin-1")) == "# H\u00f6he\n1 2"


def test_empty():
    assert decode(b"") == ""
    assert plain_lines(b"") == b"\n"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"1 2\0 3", "zero bytes"),
        ("1 2".encode("utf-16-le"), "zero bytes"),
        (b"\xff\xfe1\0 ", "marked as utf-16-le, and broken at byte 4"),
        (b"\xfe\xff\0001\xd8\0", "marked as utf-16-be, and broken"),
        (b"\xff\xfe\0\0\xff\xff\xff\xff", "marked as utf-32-le, and broken at byte 4"),
        (b"\xff\xfe1\0\0\0", "zero bytes"),
        (b"\xef\xbb\xbf\xff", "marked as utf-8, and broken at byte 3"),
    ],
)
def test_broken(data, found):
    with pytest.raises(ValueError, match=found):
        decode(data)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lines(encoding, end):
    data = ENCODINGS[encoding](f"1 2{end}{end}3 \u00e4")
    assert plain_lines(data) == "1 2\n\n3 \u00e4\n".encode()


@pytest.mark.parametrize("code", [0, 1, 8, 14, 27, 31, 127])
def test_control_characters(code):
    with pytest.raises(ValueError, match="binary file"):
        plain_lines(b"1 2" + bytes([code]))


def test_end_of_file_of_dos():
    assert plain_lines(b"1 2\r\n\x1a") == b"1 2\n"

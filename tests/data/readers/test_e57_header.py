"""Headers, checksums and descriptions of E57 files that are written by hand, before a parser sees them."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest

from helpers.scan_files import crc32c, from_pages, to_pages
from pyro_pcflow.data.readers.e57_header import check_e57, page_checksums

XML = b"<?xml version='1.0' encoding='UTF-8'?><e57Root type='Structure'>" + b"<a type='Integer'/>" * 80 + b"</e57Root>"


def e57(xml, before=0):
    """A header, other bytes, and a description."""
    start = 48 + before
    pages = -(-(start + len(xml)) // 1020)
    position = start // 1020 * 1024 + start % 1020
    head = struct.pack("<8sIIQQQQ", b"ASTM-E57", 1, 0, pages * 1024, position, len(xml), 1024)
    return to_pages(head + bytes(range(256)) * (before // 256) + bytes(before % 256) + xml)


def check(tmp_path, data):
    path = tmp_path / "a.e57"
    path.write_bytes(data)
    check_e57(path)


def refuse(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        check(tmp_path, data)


@pytest.mark.parametrize("before", [0, 900, 971, 972, 5000])
def test_whole_files_pass(tmp_path, before):
    check(tmp_path, e57(XML, before))


def test_checksums_are_those_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    rng = np.random.default_rng(0)
    for width in (4, 8, 1020):
        pages = rng.integers(0, 256, (7, width)).astype(np.uint8)
        assert page_checksums(pages).tolist() == [crc32c(page.tobytes()) for page in pages]


def test_every_changed_bit_is_seen(tmp_path):
    data = e57(XML, before=2000)
    rng = np.random.default_rng(0)
    for at in rng.integers(48, len(data), 60):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        refuse(tmp_path, bytes(changed), f"checksum of page {at // 1024} is wrong")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: b"", "no E57 header"),
        (lambda data: data[:40], "no E57 header"),
        (lambda data: b"ASTM-E58" + data[8:], "no E57 header"),
        (lambda data: data[:-1], "promises"),
        (lambda data: data[:-1024], "promises"),
        (lambda data: data + bytes(1024), "promises"),
        (lambda data: with_header(data, major=2), "version 2.0"),
        (lambda data: with_header(data, page=2048), "pages of 2048"),
        (lambda data: with_header(data, start=10**12), "outside of the file"),
        (lambda data: with_header(data, start=1022), "outside of the file"),
        (lambda data: with_header(data, xml=0), "description of 0 bytes"),
        (lambda data: with_header(data, xml=2**62), "a description of"),
        (lambda data: with_header(data, xml=10**6), "outside of the file"),
        (lambda data: with_header(data, xml=100), "damaged XML"),
        (lambda data: with_header(data, start=52), "damaged XML"),
    ],
)
def test_headers_that_are_refused(tmp_path, make, message):
    refuse(tmp_path, make(e57(XML)), message)


def with_header(data, **new):
    logical = bytearray(from_pages(data))
    names = ("magic", "major", "minor", "size", "start", "xml", "page")
    values = dict(zip(names, struct.unpack_from("<8sIIQQQQ", logical), strict=True)) | new
    struct.pack_into("<8sIIQQQQ", logical, 0, *values.values())
    return to_pages(bytes(logical))


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (b"<!DOCTYPE e57Root SYSTEM 'file:///etc/passwd'>" + b"<e57Root/>", "document type"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><e57Root/>", "document type"),
        (b"<a>" * 100 + b"</a>" * 100, "too many elements, or too deep"),
        (b"<a>" + b"<b/>" * 6000 + b"</a>", "too many elements"),
        (XML.replace(b"</e57Root>", b""), "damaged XML"),
        (XML.replace(b"UTF-8", b"UTF-9"), "damaged XML"),
        (b"\0" * 40, "damaged XML"),
    ],
)
def test_descriptions_that_are_refused(tmp_path, xml, message):
    refuse(tmp_path, e57(xml), message)


def test_a_large_file_is_checked_soon():
    pages = np.random.default_rng(0).integers(0, 256, (4096 * 8, 1020), dtype=np.uint8)
    start = time.process_time()
    for first in range(0, len(pages), 4096):
        page_checksums(pages[first : first + 4096])
    assert time.process_time() - start < 4

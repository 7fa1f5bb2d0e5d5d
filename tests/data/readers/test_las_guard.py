"""Headers of LAS and LAZ files against the bytes of the file, before a parser sees it."""

from __future__ import annotations

import struct

import pytest

from helpers.scan_files import LAS_OFFSETS, LAS_SCALES, change, extra_bytes, las, las_record, las_vlr, laz
from pyro_pcflow.data.readers.las_guard import check_chunks, check_las


def build(number, extra=b"", **options):
    records = [las_record(6, {"XYZ": (index, 2 * index, 3)}, extra) for index in range(number)]
    return las(records, 4, 6, scales=LAS_SCALES, offsets=LAS_OFFSETS, **options)


def check(tmp_path, data):
    path = tmp_path / "a.las"
    path.write_bytes(data)
    header = check_las(path)
    if header.compressed:
        with path.open("rb") as stream:
            check_chunks(stream, header, pytest.importorskip("lazrs", reason="lazrs is not installed"))
    return header


def refuse(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        check(tmp_path, data)


def test_what_a_header_says(tmp_path):
    box = [float(value) for value in range(6)]
    header = check(tmp_path, change(build(5, b"abc", gap=b"xy"), 179, "<6d", *box))
    assert (header.count, header.point_format, header.point_size, header.start) == (5, 6, 33, 377)
    assert (header.compressed, header.laszip) == (False, b"")
    assert (header.lows, header.highs) == ((1, 3, 5), (0, 2, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: b"", "no LAS header"),
        (lambda data: b"LASF", "cut short"),
        (lambda data: b"PLYF" + data[4:], "no LAS header"),
        (lambda data: data[:300], "cut short"),
        (lambda data: data[:-1], "promises 5 points, the file has bytes for 4"),
        (lambda data: data + bytes(30), "promises 5 points, the file has bytes for 6"),
        (lambda data: change(data, 24, "<B", 2), "version 2.4"),
        (lambda data: change(data, 25, "<B", 6), "version 1.6"),
        (lambda data: change(data, 94, "<H", 227), "header of 227 bytes"),
        (lambda data: change(data, 96, "<I", 2**32 - 1), "points from byte 4294967295"),
        (lambda data: change(data, 96, "<I", 100), "points from byte 100"),
        (lambda data: change(data, 100, "<I", 2**32 - 1), "promises 4294967295 records"),
        (lambda data: change(data, 100, "<I", 1), "promises 1 records"),
        (lambda data: change(data, 104, "<B", 11), "point format 11"),
        (lambda data: change(data, 104, "<B", 64 + 6), "point format 70"),
        (lambda data: change(data, 104, "<B", 128 + 6), "without the record that says how"),
        (lambda data: change(data, 105, "<H", 29), "points of 29 bytes, those of format 6 have 30"),
        (lambda data: change(data, 105, "<H", 0), "points of 0 bytes"),
        (lambda data: change(data, 107, "<I", 4), "4 points in one place, and 5 in another"),
        (lambda data: change(data, 247, "<Q", 0), "promises no points"),
        (lambda data: change(data, 247, "<Q", 4), "promises 4 points, the file has bytes for 5"),
        (lambda data: change(data, 247, "<Q", 2**63), "promises 9223372036854775808 points"),
        (lambda data: change(data, 131, "<d", 0.0), "scales"),
        (lambda data: change(data, 131, "<d", -0.1), "scales"),
        (lambda data: change(data, 139, "<d", float("nan")), "scales"),
        (lambda data: change(data, 155, "<d", float("inf")), "offsets"),
        (lambda data: change(data, 235, "<QI", 400, 1), "amid the points"),
        (lambda data: change(data, 227, "<Q", 400), "amid the points"),
    ],
)
def test_headers_that_disagree_with_the_file(tmp_path, make, message):
    refuse(tmp_path, make(build(5)), message)


@pytest.mark.parametrize(
    ("vlr", "extra", "message"),
    [
        (las_vlr(b"LASF_Spec", 4, bytes(191)), b"\0", "191 bytes"),
        (las_vlr(b"LASF_Spec", 4, extra_bytes(b"a", 31)), b"\0", "unknown type 31"),
        (las_vlr(b"LASF_Spec", 4, extra_bytes(b"a", 10)), b"\0", "8 bytes, and 1 in each point"),
        (las_vlr(b"LASF_Spec", 4, extra_bytes(b"a", 1) * 2), b"\0\0", "two extra dimensions of the name 'a'"),
        (struct.pack("<H16sHH32s", 0, b"a", 4, 60000, b""), b"", "reaches into the points"),
    ],
)
def test_records_that_are_refused(tmp_path, vlr, extra, message):
    refuse(tmp_path, build(1, extra, vlrs=[vlr]), message)


def test_waveforms_and_later_records_may_follow(tmp_path):
    data = build(5, tail=bytes(200))
    assert check(tmp_path, change(data, 235, "<QI", len(data) - 200, 1)).count == 5
    assert check(tmp_path, change(data, 227, "<Q", len(data) - 200)).count == 5


def test_layers_that_promise_more_than_their_chunk(tmp_path):
    pytest.importorskip("laspy", reason="laspy is not installed")
    pytest.importorskip("lazrs", reason="lazrs is not installed")
    _, data = laz(300, 6)
    layers = struct.unpack_from("<I", data, 96)[0] + 8 + 34
    assert struct.unpack_from("<I", data, layers)[0] == 300
    refuse(tmp_path, change(data, layers + 4, "<I", 2**32 - 1), "a compressed chunk of 300 points")
    refuse(tmp_path, change(data, layers, "<I", 301), "a compressed chunk of 301 points")

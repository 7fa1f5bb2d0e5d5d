"""LZF streams against a decompressor that takes one byte at a time."""

import numpy as np
import pytest

from helpers.scan_files import lzf
from pyro_pcflow.data.readers.lzf import decompress


def by_bytes(data):
    out, at = [], 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length, back = (control >> 5) + 2, (control & 31) * 256
        if length == 9:
            length += data[at]
            at += 1
        back += data[at] + 1
        at += 1
        for _ in range(length):
            out.append(out[-back])
    return bytes(out)


@pytest.mark.parametrize("seed", range(30))
def test_packed_bytes_come_back(seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, rng.choice([2, 4, 256]), rng.integers(1, 3000)).astype(np.uint8).tobytes()
    data += data[: rng.integers(0, 200)] + bytes(rng.integers(0, 700))
    packed = lzf(data)
    assert by_bytes(packed) == data
    assert decompress(packed, len(data)) == data


@pytest.mark.parametrize(
    ("packed", "data"),
    [
        (b"", b""),
        (b"\x00a", b"a"),
        (b"\x1f" + bytes(range(32)), bytes(range(32))),
        (b"\x00a\x20\x00", b"aaaa"),
        (b"\x01ab\x40\x01", b"ababab"),
        (b"\x00a\xe0\x00\x00", b"a" * 10),
        (b"\x00a\xe0\xff\x00", b"a" * 265),
        (b"\x02abc\xc0\x02\x00d", b"abcabcabcabd"[:11] + b"d"),
    ],
)
def test_streams_by_hand(packed, data):
    assert decompress(packed, len(data)) == data


def test_the_farthest_reference():
    data = bytes(np.random.default_rng(0).integers(0, 256, 8192).astype(np.uint8))
    literals = b"".join(b"\x1f" + data[at : at + 32] for at in range(0, 8192, 32))
    assert decompress(literals + b"\x3f\xff", 8195) == data + data[:3]
    with pytest.raises(ValueError, match="before the start"):
        decompress(literals[33:] + b"\x3f\xff", 8163)


@pytest.mark.parametrize(
    ("packed", "size", "message"),
    [
        (b"\x02ab", 3, "cut short"),
        (b"\x02ab", 2, "cut short"),
        (b"\x00a\x20", 4, "cut short"),
        (b"\x00a\xe0\x01", 11, "cut short"),
        (b"\x00a\x20\x01", 4, "before the start"),
        (b"\x20\x00", 3, "before the start"),
        (b"\x00a", 2, "2 bytes were promised, and 1 unpacked"),
        (b"\x00a\x20\x00", 3, "3 bytes were promised, and 4 unpacked"),
        (b"\x00a" + b"\xe0\xff\x00" * 1000, 5, "5 bytes were promised, and 529 or more unpacked"),
        (b"\x00a", 10**12, "cannot unpack"),
    ],
)
def test_bad_streams_are_refused(packed, size, message):
    with pytest.raises(ValueError, match=message):
        decompress(packed, size)

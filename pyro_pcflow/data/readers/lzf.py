"""Decompression of LZF, the format of Marc Lehmann's liblzf, which compressed PCD files use."""

from __future__ import annotations

__all__ = ["decompress"]

# Three bytes of a back reference give at most so many bytes.
_MOST_COPIED = 264


def decompress(data: bytes, size: int) -> bytes:
    """Unpack one LZF stream.

    A control byte below 32 precedes that many bytes and one more to be taken as they are. Any other copies bytes that
    are there already: its upper three bits are their number less two (seven: add the next byte), its lower five and
    the next byte are how far back they start, less one.

    Args:
        data: the whole stream.
        size: how many bytes it unpacks to.

    Returns:
        Exactly `size` bytes.

    Raises:
        ValueError: another size, a reference to before the start, or a stream that is cut short.

    Examples:
        >>> decompress(b"\\x02abc\\x80\\x02", 9)
        b'abcabcabc'
    """
    if size > _MOST_COPIED * len(data):
        raise ValueError(f"{len(data)} compressed bytes cannot unpack to {size}")
    out = bytearray()
    position, end = 0, len(data)
    try:
        # Where a token starts depends on all before it, so that arrays are no faster than this loop over slices.
        while position < end:
            control = data[position]
            position += 1
            if control < 32:
                after = position + control + 1
                out += data[position:after]
                position = after
                continue
            length = (control >> 5) + 2
            if length == 9:
                length += data[position]
                position += 1
            distance = ((control & 31) << 8) + data[position] + 1
            position += 1
            there = len(out)
            start = there - distance
            if start < 0:
                raise ValueError("a reference to before the start of a compressed stream")
            if length <= distance:
                out += out[start : start + length]
            else:  # bytes that it copies itself, again and again
                out += (out[start:] * (length // distance + 1))[:length]
            if there > size:
                break
    except IndexError:
        raise ValueError("a compressed stream that is cut short") from None
    if position > end:
        raise ValueError("a compressed stream that is cut short")
    if len(out) != size:
        more = " or more" * (position < end)
        raise ValueError(f"{size} bytes were promised, and {len(out)}{more} unpacked")
    return bytes(out)

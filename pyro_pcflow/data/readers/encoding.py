"""Text of files as people's programs write it: UTF-8, UTF-16 or UTF-32 by their marks, and else Latin-1."""

from __future__ import annotations

import codecs

__all__ = ["decode", "plain_lines"]

# The mark of UTF-32 begins with that of UTF-16, and is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1a") + b"\x7f"


def decode(data: bytes) -> str:
    """Decode a file of text.

    Args:
        data: its bytes.

    Returns:
        The text without a mark. Bytes that are no UTF-8 are taken for Latin-1: old programs write names so.

    Raises:
        ValueError: broken UTF-16 or UTF-32, or zero bytes: a binary file.

    Examples:
        >>> decode("1 2".encode("utf-16")), decode(b"H\\xf6he")
        ('1 2', 'Höhe')
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                text = data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise ValueError(f"marked as {encoding}, and broken at byte {error.start + len(mark)}") from error
            break
    else:
        if b"\0" in data:
            raise ValueError("zero bytes: a binary file, no text")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError("zero bytes: a binary file, no text")
    return text


def plain_lines(data: bytes) -> bytes:
    """Bring a file of text to UTF-8 without a mark, with lines that end in a line feed, the last one too.

    Args:
        data: its bytes.

    Raises:
        ValueError: as `decode`, or control characters: a binary file.

    Examples:
        >>> plain_lines(b"1 2\\r\\n3 4\\r5")
        b'1 2\\n3 4\\n5\\n'
    """
    if not data.isascii():
        data = decode(data).encode("utf-8")
    # What DOS wrote behind the last line.
    data = data.rstrip(b"\x1a")
    if len(data.translate(None, _CONTROLS)) != len(data):
        raise ValueError("control characters: a binary file, no text")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data if data.endswith(b"\n") else data + b"\n"

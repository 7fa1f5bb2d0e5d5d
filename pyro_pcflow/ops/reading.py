"""Files from untrusted sources: what may be opened, and how it is named in an error."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["check_regular", "phrase", "printable", "read_small_text", "shortened"]


def printable(path: str | os.PathLike[str]) -> str:
    """Write a path so that every terminal and every file of text takes it.

    The system allows any bytes as a name; those that are no UTF-8 appear as escapes.

    Args:
        path: a path.

    Examples:
        >>> printable(os.fsdecode(b"a\\xffb.npy"))
        'a\\\\xffb.npy'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def phrase(error: BaseException) -> str:
    """Say in one line what a parser or the system complained about.

    Args:
        error: what was raised.

    Returns:
        At most some 200 characters.

    Examples:
        >>> phrase(KeyError(7))
        'KeyError: 7'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())[:200]
    # A bare "KeyError: 7" says little, but our own sentences need no type in front.
    return text if type(error) is ValueError and text else f"{type(error).__name__}: {text}"


def shortened(value: Any) -> str:
    """Show a value of a file in an error, whatever its size and depth.

    Args:
        value: what was found.

    Examples:
        >>> shortened("1"), shortened(7), shortened([[[1]]])
        ("'1'", '7', 'a list')
    """
    if isinstance(value, bool | float | None):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a huge number"
    if isinstance(value, str):
        return ascii(value[:60])
    return f"a {type(value).__name__}"


def check_regular(path: Path) -> None:
    """See that a path may be opened: opening a pipe would wait for a writer.

    Args:
        path: where something is.

    Raises:
        ValueError: a folder, a pipe, a socket or a device; or no name of a file at all.
        OSError: nothing is there.

    Examples:
        >>> check_regular(Path(__file__))
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("neither a file nor a folder")


def read_small_text(path: Path, most_bytes: int) -> str:
    """Read a file of text whose kind is never large.

    Args:
        path: the file.
        most_bytes: the largest size.

    Raises:
        ValueError: larger, not UTF-8, or no file of data.
        OSError: it can't be read.

    Examples:
        >>> read_small_text(Path(__file__), 100)
        Traceback (most recent call last):
        ValueError: more than 100 bytes
    """
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"more than {most_bytes} bytes")
    return data.decode("utf-8")

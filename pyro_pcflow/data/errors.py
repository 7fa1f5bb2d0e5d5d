"""The one error of the data room, and how it is phrased."""

from __future__ import annotations

import stat
from pathlib import Path


class CloudError(ValueError):
    """A file or folder that can't be turned into clouds.

    The message names the file, what was found in it, and what was expected.

    Examples:
        >>> from pyro_pcflow.data import CloudError
        >>> issubclass(CloudError, ValueError)
        True
    """


def cloud_error(path: Path, found: str, expected: str) -> CloudError:
    """Phrase a `CloudError` the way that all of them read.

    Args:
        path: the file or folder at fault.
        found: what was found there.
        expected: what was expected, or what to do about it.

    Returns:
        The error, to be raised by the caller.

    Examples:
        >>> str(cloud_error(Path("a.npy"), "holds nothing", "expected (N, D)"))
        'a.npy: holds nothing; expected (N, D)'
    """
    return CloudError(f"{path}: {found}; {expected}")


def phrase(error: Exception) -> str:
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
    text = " ".join(str(error).split())[:200]
    # A bare "KeyError: 7" says little, but our own sentences need no type in front.
    return text if type(error) is ValueError and text else f"{type(error).__name__}: {text}"


def check_regular(path: Path) -> None:
    """See that a path may be opened: opening a pipe would wait for a writer.

    Args:
        path: where something is.

    Raises:
        ValueError: a pipe, a socket or a device.
        OSError: nothing is there.

    Examples:
        >>> check_regular(Path(__file__))
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("neither a file nor a folder")

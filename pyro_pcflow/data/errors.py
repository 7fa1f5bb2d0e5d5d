"""CloudError, the error for files that hold no clouds, and its wording."""

from __future__ import annotations

from pathlib import Path

from pyro_pcflow.ops.reading import printable


class CloudError(ValueError):
    """A file or folder that cannot be read as clouds.

    The message names the file, what was found in it, and what was expected.

    Examples:
        >>> from pyro_pcflow.data import CloudError
        >>> issubclass(CloudError, ValueError)
        True
    """


def cloud_error(path: Path, found: str, expected: str) -> CloudError:
    """A `CloudError` in the common wording.

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
    return CloudError(f"{printable(path)}: {found}; {expected}")

"""Array and text formats: npy, npz, and tables of numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pyro_pcflow.data.meshes import decode
from pyro_pcflow.data.sampling import CloudArray
from pyro_pcflow.ops.array_files import enumerate_words, most_unpacked, read_member, read_npy_header

# Room for points of hundreds of coordinates in full digits.
_MAX_LINE = 1 << 16


def read_text(path: Path) -> CloudArray:
    """Read a table of numbers, one point per line, separated by white space or by commas.

    Text after `#` is a comment. A first line without any number is taken for column names.

    Args:
        path: the file.

    Returns:
        One cloud, (1, N, D).

    Raises:
        ValueError: no numbers, or rows of different lengths.
    """
    lines = [line for raw in decode(path.read_bytes()).splitlines() if (line := raw.split("#", 1)[0].strip())]
    if lines and max(map(len, lines)) > _MAX_LINE:
        raise ValueError(f"a line of more than {_MAX_LINE} characters")
    if lines and not any(_is_number(word) for word in lines[0].split(_delimiter(lines[0]))):
        lines = lines[1:]
    if not lines:
        raise ValueError("no numbers in it")
    return as_stack(np.loadtxt(lines, delimiter=_delimiter(lines[0]), comments=None, ndmin=2))


def _delimiter(line: str) -> str | None:
    return "," if "," in line else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_npy(path: Path) -> CloudArray:
    """Map a npy file, without reading it yet.

    Args:
        path: the file.

    Returns:
        Its clouds, (S, N, D): one where the array is (N, D).

    Raises:
        ValueError: not an npy file, pickled objects, a truncated file, or another shape.
    """
    with path.open("rb") as stream:
        read_npy_header(stream, path.stat().st_size)
    return as_stack(np.load(path, mmap_mode="r", allow_pickle=False))


def read_npz(path: Path, split: str | None, folder_split: str | None) -> CloudArray:
    """Read the array `points` of a npz file.

    Args:
        path: the file.
        split: keep the clouds whose entry of the array `split` (S,) is this; `None` keeps all.
        folder_split: the split of all clouds where there is no such array.

    Returns:
        Its clouds, (S, N, D): one where the array is (N, D); with their splits where there is such an array.

    Raises:
        ValueError: not a zip file, no such arrays, a zip bomb, or another shape.
    """
    limit = most_unpacked(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        stack = as_stack(read_member(archive, "points", limit))
        if "split.npy" not in archive.namelist() and split in (None, folder_split):
            return stack
        labels = read_member(archive, "split", limit)
    if labels.shape != stack.points.shape[:1] or labels.dtype.kind != "U":
        if split is None:  # an array of that name about something else
            return stack
        raise ValueError(f"its `split` is {labels.dtype} {labels.shape}, not a word for each of its clouds")
    if split is None:
        return CloudArray(stack.points, labels)
    chosen = labels == split
    if not chosen.any():
        raise ValueError(f"no cloud with split {split!r}, only {enumerate_words(labels)}")
    return CloudArray(stack.points[chosen], labels[chosen])


def read_splits(path: Path) -> np.ndarray | None:
    """Read the array `split` of a npz file, and no other.

    Args:
        path: the file.

    Returns:
        Words, (S,), or None where there is no such array of words.

    Raises:
        ValueError: not a zip file, or a zip bomb.
    """
    with zipfile.ZipFile(path) as archive:
        if "split.npy" not in archive.namelist():
            return None
        labels = read_member(archive, "split", most_unpacked(path.stat().st_size))
    return labels if labels.ndim == 1 and labels.dtype.kind == "U" else None


def as_stack(array: np.ndarray) -> CloudArray:
    """See that an array holds clouds.

    Args:
        array: (N, D) or (S, N, D), of integers or floats, with D at least 2.

    Returns:
        The same numbers, (S, N, D).

    Raises:
        ValueError: another shape or type.

    Examples:
        >>> as_stack(np.zeros((5, 2))).points.shape
        (1, 5, 2)
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array of {array.dtype} instead of real numbers")
    if array.ndim not in (2, 3) or array.shape[-1] < 2 or 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape}")
    return CloudArray(array if array.ndim == 3 else array[None])

"""Array and text formats: npy, npz, and tables of numbers."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from .meshes import decode
from .sampling import Stack

# Coordinates barely compress; a member that unpacks to far more than its file is an attack or a mistake.
_MAX_RATIO = 100
_FREE_BYTES = 1 << 26


def read_text(path: Path) -> Stack:
    """Read a table of numbers, one point a line, separated by white space or by commas.

    Text after `#` is a comment. A first line without any number is taken for column names.

    Args:
        path: the file.

    Returns:
        One cloud, (1, N, D).

    Raises:
        ValueError: no numbers, or rows of different lengths.
    """
    lines = [line for raw in decode(path.read_bytes()).splitlines() if (line := raw.split("#", 1)[0].strip())]
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


def read_npy(path: Path) -> Stack:
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


def read_npz(path: Path, split: str | None, folder_split: str | None) -> Stack:
    """Read the array `points` of a npz file.

    Args:
        path: the file.
        split: keep the clouds whose entry of the array `split` (S,) is this; `None` keeps all.
        folder_split: the split of all clouds where there is no such array.

    Returns:
        Its clouds, (S, N, D): one where the array is (N, D).

    Raises:
        ValueError: not a zip file, no such arrays, a zip bomb, or another shape.
    """
    limit = max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        stack = as_stack(_read_member(archive, "points", limit))
        if split is None or (split == folder_split and "split.npy" not in archive.namelist()):
            return stack
        labels = _read_member(archive, "split", limit)
    if labels.shape != stack.points.shape[:1] or labels.dtype.kind != "U":
        raise ValueError(f"its `split` is {labels.dtype} {labels.shape}, not a word for each of its clouds")
    chosen = labels == split
    if not chosen.any():
        raise ValueError(f"no cloud with split {split!r}, only {_enumerate(labels)}")
    return Stack(stack.points[chosen])


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    if f"{name}.npy" not in archive.namelist():
        arrays = [member.removesuffix(".npy") for member in archive.namelist()]
        raise ValueError(f"no array `{name}`, only {_enumerate(arrays)}")
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > limit:
        raise ValueError(f"`{name}` would unpack to {info.file_size} bytes from a far smaller file")
    with archive.open(info) as stream:
        read_npy_header(stream, info.file_size)
    with archive.open(info) as stream:
        # `read` also compares the checksum, which a reader of the array alone never reaches.
        return np.load(io.BytesIO(stream.read()), allow_pickle=False)


def _enumerate(words: list[str] | np.ndarray) -> str:
    unique = sorted({str(word) for word in words})
    return (", ".join(unique[:8]) + (", ..." if len(unique) > 8 else "")) or "nothing"


@dataclass(frozen=True)
class NpyHeader:
    """What a npy file says of itself, and the `offset` in bytes at which its numbers start."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int


def read_npy_header(stream: IO[bytes], size: int) -> NpyHeader:
    """Read the header of a npy file, and compare what it promises with the bytes that follow.

    Args:
        stream: the file, at its start; afterwards at its numbers.
        size: length of the file in bytes.

    Returns:
        The header.

    Raises:
        ValueError: not an npy file, pickled objects, or a truncated file. Damaged headers raise others too.

    Examples:
        >>> stream = io.BytesIO()
        >>> np.save(stream, np.zeros((5, 2)))
        >>> size = stream.tell()
        >>> read_npy_header(stream, stream.seek(0) + size).shape
        (5, 2)
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy format {version}, which only arrays with named fields use")
    if dtype.hasobject:
        raise ValueError("pickled Python objects, which are never loaded")
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    promised, there = prod(shape) * dtype.itemsize, size - stream.tell()
    if promised != there:
        raise ValueError(f"header promises {promised} bytes of data, the file has {there}")
    return NpyHeader(shape, fortran_order, dtype, stream.tell())


def as_stack(array: np.ndarray) -> Stack:
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
    return Stack(array if array.ndim == 3 else array[None])

"""Reading npy and npz files from untrusted sources, in bounded time and memory."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_pcflow.ops.reading import check_regular, phrase, printable

__all__ = ["NpyHeader", "enumerate_words", "most_unpacked", "read_array", "read_member", "read_npy_header"]

# Coordinates barely compress; a member that unpacks to far more than its file is an attack or a mistake.
_MAX_RATIO = 100
_FREE_BYTES = 1 << 26
# Versions of the npy format, and bytes of the number that says how long its header is.
_LENGTHS = {(1, 0): 2, (2, 0): 4}


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array of any numbers, which may be NaN: that of a npy file, and `points` or the only one of a npz file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it holds something else, is damaged, or would unpack to far more than its size.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", samples=np.zeros((4, 5, 3)))
        ...     read_array(Path(folder, "a.npz")).shape
        (4, 5, 3)
    """
    path = Path(path)
    try:
        check_regular(path)
        size = path.stat().st_size
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                stream.seek(0)
                read_npy_header(stream, size)
                stream.seek(0)
                return np.load(stream, allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "points" not in names and len(names) != 1:
                raise ValueError(f"expected an array `points`, or a single one, got {enumerate_words(names)}")
            name = "points" if "points" in names else names[0]
            return read_member(archive, name, most_unpacked(size))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{printable(path)}: no such file") from error
    except Exception as error:  # parsers of damaged files raise anything
        raise ValueError(
            f"{printable(path)}: can't be read ({phrase(error)}); expected a whole, unpickled array of numbers "
            "in a npy or npz file"
        ) from error


def most_unpacked(size: int) -> int:
    """How many bytes an array in a compressed file of a size may have.

    Examples:
        >>> most_unpacked(10**6)
        100000000
    """
    return max(_FREE_BYTES, _MAX_RATIO * size)


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """Read an array of a npz file.

    Args:
        archive: the file.
        name: of the array.
        limit: how many bytes it may unpack to.

    Raises:
        ValueError: no such array, a zip bomb, pickled objects or a truncated array. Damaged ones raise others too.
    """
    if f"{name}.npy" not in archive.namelist():
        arrays = [member.removesuffix(".npy") for member in archive.namelist()]
        raise ValueError(f"no array `{name}`, only {enumerate_words(arrays)}")
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > limit:
        raise ValueError(f"`{name}` would unpack to {info.file_size} bytes from a far smaller file")
    with archive.open(info) as stream:
        read_npy_header(stream, info.file_size)
    with archive.open(info) as stream:
        # `read` also compares the checksum, which a reader of the array alone never reaches.
        return np.load(io.BytesIO(stream.read()), allow_pickle=False)


def enumerate_words(words: list[str] | np.ndarray) -> str:
    """List a few of the words that are there.

    Examples:
        >>> enumerate_words(["b", "a", "a"])
        'a, b'
    """
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
    if version not in _LENGTHS:
        raise ValueError(f"npy format {version}, which only arrays with named fields use")
    start = stream.tell()
    length = int.from_bytes(stream.read(_LENGTHS[version]), "little")
    if length > size:
        raise ValueError(f"header of {length} bytes in a file of {size}")
    stream.seek(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read(stream)
    except MemoryError as error:  # what Python's own parser says of an expression that is too deep
        raise ValueError("a header that is too deep") from error
    if dtype.hasobject:
        raise ValueError("pickled Python objects, which are never loaded")
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    promised, there = prod(shape) * dtype.itemsize, size - stream.tell()
    if promised != there:
        raise ValueError(f"header promises {promised} bytes of data, the file has {there}")
    return NpyHeader(shape, fortran_order, dtype, stream.tell())

"""Clouds that stay in their file, for data sets larger than memory."""

from __future__ import annotations

import hashlib
import mmap
import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pyro_pcflow.data.drawing import narrowed
from pyro_pcflow.data.errors import cloud_error
from pyro_pcflow.ops.array_files import NpyHeader, read_npy_header
from pyro_pcflow.ops.reading import check_regular, phrase, printable

_EXPECTED = "expected a npy file of clouds (S, N, D), D >= 2, of float32, float64 or float16, as convert_clouds writes"
# Where a page is missing, Linux reads this much around it anyway.
_READ_AHEAD = 1 << 17
# A fingerprint reads this many pieces of this many bytes: 4 MiB.
_NUM_PIECES, _PIECE = 256, 1 << 14
# A search for numbers that are not finite reads this much at a time.
_CHUNK = 1 << 22
# Whether float32 holds a file of float64 is seen from so many clouds, and so many points of each.
_CLOUDS_FOR_DTYPE, _POINTS_FOR_DTYPE = 8, 1 << 16


class MappedClouds(Dataset[Tensor]):
    """Clouds in a npy file, of which only the requested ones are read.

    The file is mapped into memory at the first read, once in each process. A pickle holds the path
    and no data, so that the workers of a `DataLoader` open the file themselves. Floats of either
    byte order are read; Fortran order is refused, as it scatters each cloud over the file.

    The file must not change while it is in use: the system ends a process that reads from a mapped
    file past its new end. Opening it does not read its values, so NaN or infinity show only when
    they are read, or when `check_finite` looks for them, as `fit` does before its first step.

    Args:
        path: a npy file of clouds (S, N, D), of float32, float64 or float16. `convert_clouds` writes
            one from anything that `load_clouds` takes.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CloudError: what is there cannot be used; the message names the file and what was expected.

    Examples:
        >>> import tempfile
        >>> from pyro_pcflow.data import save_clouds
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clouds = MappedClouds(save_clouds(torch.randn(5, 100, 3), f"{folder}/five.npy"))
        ...     clouds[2].shape, clouds.read(torch.tensor([4, 0]), torch.randint(100, (2, 7))).shape
        (torch.Size([100, 3]), torch.Size([2, 7, 3]))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A worker, or a later first read, may run in another working directory.
        self.path = Path(path).expanduser().absolute()
        self._header, self._size = _inspect(self.path)
        self._opened: tuple[int, mmap.mmap] | None = None
        # Size and time of change of the file that `check_finite` has been through.
        self._checked: tuple[int, int] | None = None
        self._dtype: np.dtype[Any] | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of all clouds, (S, N, D)."""
        return torch.Size(self._header.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read: float32, or float64 where a few clouds of the file would lose digits in float32."""
        return torch.float32 if self._values_dtype() == np.float32 else torch.float64

    def _values_dtype(self) -> np.dtype[Any]:
        if self._header.dtype.itemsize < 8:
            return np.dtype(np.float32)
        if self._dtype is None:
            rows = np.linspace(0, len(self) - 1, min(len(self), _CLOUDS_FOR_DTYPE)).round().astype(np.int64)
            some = self._gather(rows, None).view(self._header.dtype).reshape(len(rows), *self.shape[1:])
            some = some[np.isfinite(some).all(axis=(1, 2))]
            needed = any(narrowed(cloud[:_POINTS_FOR_DTYPE]).dtype == np.float64 for cloud in some)
            self._dtype = np.dtype(np.float64 if needed else np.float32)
        return self._dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        """Read one cloud.

        Args:
            index: its position, from the end if negative.

        Returns:
            (N, D), of the type `dtype`.

        Raises:
            IndexError: no such cloud.
            CloudError: it holds NaN or infinity.
        """
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"{printable(self.path)}: no cloud {position}, it has {len(self)}")
        return self.read(torch.tensor([position % len(self)]))[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({printable(self.path)!r}, shape={tuple(self.shape)}, dtype={self._header.dtype})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        """Read some clouds, or some points of them, in the requested order.

        Args:
            clouds: positions of clouds, (B,), integers from 0; repeats are allowed.
            points: for each of them positions of points, (B, M), integers from 0; `None` reads all.

        Returns:
            (B, M, D) or (B, N, D), of the type `dtype`, on the CPU, in memory of its own.

        Raises:
            TypeError: positions that are no integers.
            ValueError: positions of another shape.
            IndexError: no such cloud or point.
            CloudError: NaN or infinity among what was read, or numbers beyond float32; or the file has changed.
        """
        num_clouds, num_points, dim = self.shape
        if clouds.dim() != 1:
            raise ValueError(f"expected positions of clouds of shape (B,), got {tuple(clouds.shape)}")
        rows = _positions(clouds, num_clouds, f"{printable(self.path)}: clouds")
        columns = None
        if points is not None:
            if points.dim() != 2 or len(points) != len(rows):
                expected = f"({len(rows)}, M), a row for each cloud"
                raise ValueError(f"expected positions of points of shape {expected}, got {tuple(points.shape)}")
            columns = _positions(points, num_points, f"{printable(self.path)}: points")
        raw = self._gather(rows, columns)
        with np.errstate(all="ignore"):
            values = raw.view(self._header.dtype).astype(self._values_dtype(), copy=False)
            values = values.reshape(len(rows), num_points if columns is None else columns.shape[1], dim)
            finite = np.isfinite(values.astype(np.float32, copy=False))
        if not finite.all():
            worst = int(finite.all(axis=(1, 2)).argmin())
            count = np.count_nonzero(~finite[worst].all(axis=1))
            found = f"cloud {rows[worst]} has NaN, infinity or numbers beyond float32 in {count} of the points read"
            raise cloud_error(self.path, found, "remove them")
        return torch.from_numpy(values)

    def check_finite(self) -> None:
        """Read the whole file once, and see that each number is finite in float32.

        A second call looks again only if the file has changed meanwhile. It takes about as long as reading the file.

        Raises:
            FileNotFoundError: the file is gone.
            CloudError: NaN, infinity or a number beyond float32; the message names the first such cloud and point.
        """
        self._check_unchanged()
        state = self.path.stat()
        if self._checked == (state.st_size, state.st_mtime_ns):
            return
        _, num_points, dim = self.shape
        dtype, start = self._header.dtype, 0
        with self.path.open("rb") as stream, np.errstate(all="ignore"):
            stream.seek(self._header.offset)
            while raw := stream.read(_CHUNK):
                values = np.frombuffer(raw, dtype).astype(np.float32, copy=False)
                finite = np.isfinite(values)
                if not finite.all():
                    cloud, point = divmod((start + int(finite.argmin())) // dim, num_points)
                    found = f"point {point} of cloud {cloud} is NaN, infinite or beyond float32"
                    raise cloud_error(self.path, found, "remove it")
                start += len(values)
        self._checked = state.st_size, state.st_mtime_ns

    def fingerprint(self) -> str:
        """A checksum by which to recognise the file, wherever it lies.

        It is the sha256 of the shape, the data type, the size of the file, and a sample of its
        data: all of up to 4 MiB, of larger files 256 evenly spaced pieces of 16 KiB, the first
        and the last bytes among them. A change between the pieces goes unnoticed.

        Returns:
            64 hexadecimal digits.

        Raises:
            FileNotFoundError: the file is gone.
            CloudError: the file has changed.
        """
        self._check_unchanged()
        header = self._header
        digest = hashlib.sha256(f"{tuple(header.shape)} {header.dtype.str} {self._size}".encode())
        length = self._size - header.offset
        with self.path.open("rb") as stream:
            if length <= _NUM_PIECES * _PIECE:
                stream.seek(header.offset)
                digest.update(stream.read())
            else:
                for number in range(_NUM_PIECES):
                    stream.seek(header.offset + number * (length - _PIECE) // (_NUM_PIECES - 1))
                    digest.update(stream.read(_PIECE))
        return digest.hexdigest()

    def _gather(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        """Copy bytes of clouds, (B, bytes of a cloud), or of points, (B, M, bytes of a point)."""
        num_clouds, num_points, dim = self.shape
        mapped = self._map()
        width = dim * self._header.dtype.itemsize
        self._prefetch(mapped, rows, None if columns is None else columns.shape[1])
        # As bytes: numpy would first copy all of an array whose numbers are swapped or start at an odd address.
        data = np.frombuffer(mapped, np.uint8, offset=self._header.offset)
        if columns is None:
            return data.reshape(num_clouds, num_points * width).take(rows, axis=0)
        return data.reshape(num_clouds * num_points, width).take(rows[:, None] * num_points + columns, axis=0)

    def _prefetch(self, mapped: mmap.mmap, rows: NDArray[np.int64], num_points: int | None) -> None:
        """Ask for all clouds at once: page by page, a disk would answer some fifty times slower."""
        length = (self._size - self._header.offset) // len(self)
        # Not for a few points of huge clouds, of which a whole is far more than what is needed.
        if not hasattr(mmap, "MADV_WILLNEED") or (num_points is not None and length > num_points * _READ_AHEAD):
            return
        for row in np.unique(rows).tolist():
            start = self._header.offset + row * length
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + length - page)

    def _map(self) -> mmap.mmap:
        # A forked process has its parent's mapping, and a number of its own.
        if self._opened is None or self._opened[0] != os.getpid():
            self._check_unchanged()
            with self.path.open("rb") as stream:
                self._opened = os.getpid(), mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._opened[1]

    def _check_unchanged(self) -> None:
        header, size = _inspect(self.path)
        if (header, size) != (self._header, self._size):
            found = f"now holds {header.dtype} {header.shape}, and {self._header.dtype} {self._header.shape} before"
            raise cloud_error(self.path, found, "expected a file that stays as it is: open it anew")


def _inspect(path: Path) -> tuple[NpyHeader, int]:
    try:
        check_regular(path)
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            header = read_npy_header(stream, size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{printable(path)}: no such file") from error
    except Exception as error:  # numpy's parser of damaged headers raises anything
        raise cloud_error(path, f"can't be read ({phrase(error)})", _EXPECTED) from error
    if header.dtype.kind != "f" or header.dtype.itemsize > 8:
        raise cloud_error(path, f"an array of {header.dtype}", _EXPECTED)
    if len(header.shape) != 3 or header.shape[-1] < 2 or 0 in header.shape:
        raise cloud_error(path, f"an array of shape {header.shape}", _EXPECTED)
    if header.fortran_order:
        raise cloud_error(path, "an array in Fortran order, each of its clouds scattered", f"{_EXPECTED}, in C order")
    return header, size


def _positions(positions: Tensor, count: int, name: str) -> NDArray[np.int64]:
    if positions.is_floating_point() or positions.is_complex() or positions.dtype == torch.bool:
        raise TypeError(f"{name}: expected positions as integers, got {positions.dtype}")
    found = positions.detach().cpu().numpy().astype(np.int64, copy=False)
    outside = found[(found < 0) | (found >= count)]
    if outside.size:
        raise IndexError(f"{name}: expected positions from 0 to {count - 1}, got {outside[0]}")
    return found

"""Any files of clouds to one that `MappedClouds` opens, in little memory."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .reading import iterate_clouds

# Room for any shape, which is known only when the last cloud is written.
_HEADER_BYTES = 128


def convert_clouds(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    num_points: int | None,
    seed: int = 0,
    progress: bool | None = None,
) -> Path:
    """Write the clouds that `load_clouds(path, num_points, seed=seed)` returns to a new npy file, one by one.

    At no time is more than one source file in memory, and of a npy source only one cloud. The
    file gets its name when it is complete. Until then it lies beside it under a hidden name that
    ends in `.part`, which goes away after an error or an interruption, and is left over and safe
    to delete where the process was killed.

    Args:
        path: a file or a folder, as in `load_clouds`.
        out: the new file, which ends in `.npy`. Folders are made if need be.
        num_points: points per cloud, N; `None` keeps every point, as in `load_clouds`.
        seed: seed of the draw.
        progress: show a bar over the clouds; `None` shows one on a terminal, after a second.

    Returns:
        The path of the new file: an array (S, N, D) of float32, for `MappedClouds`.

    Raises:
        FileNotFoundError: nothing is at `path`.
        FileExistsError: `out` is there already; nothing is overwritten.
        CloudError: what is at `path` can't be used.
        ValueError: `num_points` below 1, or another ending.

    Examples:
        >>> import tempfile
        >>> from pyro_pcflow.data import MappedClouds, example_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     MappedClouds(convert_clouds(example_path("spot"), f"{folder}/new/spot.npy", 100)).shape
        torch.Size([1, 100, 3])
    """
    out = Path(out).expanduser()
    if out.suffix != ".npy":
        raise ValueError(f"{out}: expected a name that ends in .npy")
    _check_new(out)
    with _NewNpy(out) as file, _bar(progress) as bar:
        for cloud, remaining in iterate_clouds(path, num_points, seed, progress=False):
            file.append(cloud)
            bar.total = bar.n + 1 + remaining
            bar.update()
    return out


def _bar(progress: bool | None) -> Any:
    from tqdm import tqdm

    # tqdm's own None means: only on a terminal.
    disable, delay = (None, 1) if progress is None else (not progress, 0)
    return tqdm(desc="clouds", unit="cloud", disable=disable, delay=delay)


def _check_new(path: Path) -> None:
    # A link that leads nowhere is something of the user's, too.
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already and is not overwritten: name another file")


class _NewNpy:
    """A npy file of float32 clouds that grows, and is there under its name only once it is complete.

    Written to rather than mapped: on a full disk, writing raises an error where a mapping ends the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Hidden, and with an ending that `load_clouds` passes over.
        self._part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        self._file: BinaryIO | None = None
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def __enter__(self) -> _NewNpy:
        return self

    def append(self, cloud: NDArray[np.float32]) -> None:
        """Write one cloud, (N, D), of the shape of the first."""
        if self._file is None:
            self._shape = cloud.shape
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("xb")
            self._file.write(bytes(_HEADER_BYTES))
        self._file.write(np.ascontiguousarray(cloud, dtype="<f4").data)
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        try:
            with self._file:
                if error is None:
                    self._file.seek(0)
                    self._file.write(_header((self._count, *self._shape)))
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if error is None:
                _publish(self._part, self._path)
        finally:
            self._part.unlink(missing_ok=True)


def _header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    start = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(start) - 2
    return start + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


def _publish(part: Path, path: Path) -> None:
    try:
        # Unlike a renaming, a second name never replaces a file that appeared meanwhile.
        os.link(part, path)
    except FileExistsError:
        _check_new(path)
        raise
    except OSError:
        # A file system without links.
        _check_new(path)
        part.rename(path)

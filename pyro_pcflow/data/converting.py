"""Any files of clouds to one that `MappedClouds` opens, in little memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from pyro_pcflow.data.drawing import Columns, Selection
from pyro_pcflow.data.listing import FolderOptions
from pyro_pcflow.data.reading import iterate_clouds
from pyro_pcflow.ops.files import check_new, new_file
from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.reading import printable

# Room for any shape, which is known only when the last cloud is written.
_HEADER_BYTES = 128


def convert_clouds(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    num_points: int | None,
    seed: int = 0,
    progress: bool | None = None,
    *,
    split: str | None = None,
    columns: Columns | None = None,
    features: Columns | None = None,
    drop_nan: bool = False,
    outliers: float | None = None,
    include: str | Sequence[str] | None = None,
    subfolders: bool = True,
    follow_links: bool = False,
    dtype: str | None = None,
) -> Path:
    """Write the clouds that `load_clouds` returns to a new npy file, one by one.

    At no time is more than one source file in memory, and of a npy source only one cloud. The
    file gets its name when it is complete. Until then it lies beside it under a hidden name that
    ends in `.tmp`, which goes away after an error or an interruption, and is left over and safe
    to delete where the process was killed.

    Args:
        path: a file or a folder, as in `load_clouds`.
        out: the new file, which ends in `.npy`. Missing folders are made.
        num_points: points per cloud, N; `None` keeps every point, as in `load_clouds`.
        seed: seed of the draw.
        progress: show a bar over the clouds; `None` shows one in a terminal or a notebook, after a second, and a line
            every half a minute in a log.
        split: keep only clouds of this split, as in `load_clouds`.
        columns: as in `load_clouds`.
        features: as in `load_clouds`.
        drop_nan: as in `load_clouds`.
        outliers: as in `load_clouds`.
        include: as in `load_clouds`.
        subfolders: as in `load_clouds`.
        follow_links: as in `load_clouds`.
        dtype: "float32" or "float64"; `None` takes what the first cloud needs, as `load_clouds` does.

    Returns:
        The path of the new file: an array (S, N, D) for `MappedClouds`.

    Raises:
        FileNotFoundError: nothing is at `path`.
        FileExistsError: `out` is there already; nothing is overwritten.
        CloudError: what is at `path` cannot be used.
        ValueError: `num_points` below 1, or another ending or type; or a cloud that would lose digits in float32.

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
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f"dtype: expected 'float32', 'float64' or None, got {dtype!r}")
    check_new(out)
    clouds = iterate_clouds(
        path,
        num_points,
        seed,
        split=split,
        progress=False,
        selection=Selection(columns, features, drop_nan, outliers),
        options=FolderOptions.of(include, subfolders, follow_links),
    )
    # An error in the first cloud is raised before a folder is made.
    first = next(clouds)
    kept = np.dtype(dtype or first[0].dtype).newbyteorder("<")
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as file, progress_bar(progress, "clouds", unit="cloud") as bar:
        # Written to rather than mapped: on a full disk, writing raises an error where a mapping ends the process.
        file.write(bytes(_HEADER_BYTES))
        for count, (cloud, remaining) in enumerate(chain([first], clouds), 1):
            if cloud.dtype.itemsize > kept.itemsize:
                raise ValueError(f"{printable(path)}: cloud {count} would lose digits in float32: give dtype='float64'")
            file.write(np.ascontiguousarray(cloud, dtype=kept).data)
            bar.total = count + remaining
            bar.update()
        file.seek(0)
        file.write(_header((count, *first[0].shape), kept.str))
    return out


def _header(shape: tuple[int, ...], descr: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    start = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(start) - 2
    return start + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"

"""Any files of clouds to one that `MappedClouds` opens, in little memory."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import numpy as np

from pyro_pcflow.data.reading import iterate_clouds
from pyro_pcflow.ops.files import check_new, new_file
from pyro_pcflow.ops.progress import progress_bar

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

    Returns:
        The path of the new file: an array (S, N, D) of float32, for `MappedClouds`.

    Raises:
        FileNotFoundError: nothing is at `path`.
        FileExistsError: `out` is there already; nothing is overwritten.
        CloudError: what is at `path` cannot be used.
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
    check_new(out)
    clouds = iterate_clouds(path, num_points, seed, split=split, progress=False)
    # An error in the first cloud is raised before a folder is made.
    first = next(clouds)
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as file, progress_bar(progress, "clouds", unit="cloud") as bar:
        # Written to rather than mapped: on a full disk, writing raises an error where a mapping ends the process.
        file.write(bytes(_HEADER_BYTES))
        for count, (cloud, remaining) in enumerate(chain([first], clouds), 1):
            file.write(np.ascontiguousarray(cloud, dtype="<f4").data)
            bar.total = count + remaining
            bar.update()
        file.seek(0)
        file.write(_header((count, *first[0].shape)))
    return out


def _header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    start = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(start) - 2
    return start + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"

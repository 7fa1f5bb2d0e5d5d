"""Iteration over the clouds of a path, which all loaders share."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.drawing import Selection, StoredCloud
from pyro_pcflow.data.errors import CloudError, cloud_error
from pyro_pcflow.data.formats import read_file, stored_splits
from pyro_pcflow.data.listing import SPLITS, Entry, FolderOptions, Listing, list_entries
from pyro_pcflow.data.shapes import CloudArray, Shape, Surface
from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.reading import printable

# PointFlow's layout: of each shape's 15000 points, the first 10000 are for training.
_PC15K_POINTS, _PC15K_TRAIN = 15000, 10000


def find_splits(
    path: str | os.PathLike[str],
    options: FolderOptions = FolderOptions(),  # noqa: B008
) -> tuple[str, ...]:
    """Which splits the clouds of a path belong to, by their folders or their npz files.

    Args:
        path: as in `load_clouds`.
        options: which files of a folder are meant.

    Returns:
        `"train"`, `"val"` and `"test"` first, then others in alphabetical order; none where nothing says so.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CloudError: what is there cannot be used.

    Examples:
        >>> from pyro_pcflow.data import example_path
        >>> find_splits(example_path("spot"))
        ()
    """
    found: set[str] = set()
    for entry in list_entries(Path(path).expanduser(), None, options).entries:
        own = stored_splits(entry.path)
        found.update(own or (() if entry.split is None else (entry.split,)))
    return (*(name for name in SPLITS if name in found), *sorted(found - {*SPLITS}))


def iterate_stored(listing: Listing, split: str | None, progress: bool | None = None) -> Iterator[StoredCloud]:
    """Read the clouds of a path one after another; those of a file share what was read of it.

    Keep none of them while the next is read, or two files are in memory.

    Args:
        listing: of the path.
        split: as in `load_clouds`, and as in the listing.
        progress: as in `load_clouds`.

    Yields:
        Clouds of any sizes and dimensions.

    Raises:
        CloudError: what is there cannot be used.
    """
    entries = listing.entries
    for number, entry in enumerate(_with_progress(entries, progress)):
        source = _read(entry, split)
        splits = source.splits if isinstance(source, CloudArray) else None
        num_clouds = _num_clouds(source)
        for index in range(num_clouds):
            of_cloud = entry.split if splits is None else str(splits[index])
            part = source[index] if isinstance(source, list) else source
            yield StoredCloud(entry, part, index, of_cloud, num_clouds - index + len(entries) - number - 2)
            del part
        del source


def _num_clouds(source: Shape) -> int:
    if isinstance(source, Surface):
        return 1
    return len(source) if isinstance(source, list) else len(source.points)


def iterate_clouds(
    path: str | os.PathLike[str],
    num_points: int | None,
    seed: int,
    *,
    split: str | None = None,
    progress: bool | None = None,
    selection: Selection = Selection(),  # noqa: B008
    options: FolderOptions = FolderOptions(),  # noqa: B008
) -> Iterator[tuple[NDArray[np.generic], int]]:
    """Read and draw the clouds of a path, one at a time, all of one shape.

    One warning at the start tells of files that are passed over; at the end one tells of clouds whose points repeat,
    and one of points that were left out. They name the line that called the function that iterates.

    Args:
        path: as in `load_clouds`.
        num_points: as in `load_clouds`.
        seed: as in `load_clouds`.
        split: as in `load_clouds`.
        progress: as in `load_clouds`.
        selection: columns and rows.
        options: which files of a folder are meant.

    Yields:
        A cloud with its features, (N, D), float32 where that is exact enough, else float64; and how many are still to
        come at the least: the others of its file, and one of each file after it.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CloudError: what is there cannot be used.
        ValueError: `num_points` below 1.

    Examples:
        >>> from pyro_pcflow.data import example_path
        >>> [(cloud.shape, remaining) for cloud, remaining in iterate_clouds(example_path("spot"), 100, seed=0)]
        [((100, 3), 0)]
    """
    if num_points is not None and operator.index(num_points) < 1:
        raise ValueError(f"num_points must be at least 1 or None, got {num_points}")
    listing = list_entries(Path(path).expanduser(), split, options)
    listing.warn(stacklevel=3)
    first: tuple[Entry, tuple[int, ...]] | None = None
    short, left_out = _Told(), _Told()
    for stored in iterate_stored(listing, split, progress):
        entry = stored.entry
        drawn, remaining = stored.draw(num_points, seed, selection), stored.remaining
        there = None if stored.num_points is None else stored.num_points - drawn.dropped - drawn.strays
        del stored  # two files in memory would be one too many
        if num_points is not None and there is not None and there < num_points:
            short.add(f"{printable(entry.path)}: {there} points, {num_points} asked: points repeat")
        if drawn.dropped or drawn.strays:
            left_out.add(left_out_words(printable(entry.path), drawn.dropped, drawn.strays))
        cloud = drawn.joined
        del drawn
        first = first or (entry, cloud.shape)
        if cloud.shape != first[1]:
            raise _shape_error(entry, cloud.shape, *first)
        yield cloud, remaining
    short.warn(stacklevel=3)
    left_out.warn(stacklevel=3)


class _Told:
    """Something that is true of several clouds, and is told once."""

    def __init__(self) -> None:
        self._first, self._count = "", 0

    def add(self, text: str) -> None:
        self._first, self._count = self._first or text, self._count + 1

    def warn(self, stacklevel: int) -> None:
        if self._count:
            more = f" (and {self._count - 1} clouds more)" if self._count > 1 else ""
            warnings.warn(self._first + more, UserWarning, stacklevel=stacklevel + 1)


def left_out_words(name: str, dropped: int, strays: int) -> str:
    """Say how many points of a file were left out, and why.

    Examples:
        >>> left_out_words("a.ply", 3, 0)
        'a.ply: 3 points are NaN or infinite, and left out'
    """
    found = [f"{dropped} points are NaN or infinite"] * bool(dropped) + [f"{strays} points lie astray"] * bool(strays)
    return f"{name}: {', '.join(found)}, and left out"


def _with_progress(entries: list[Entry], progress: bool | None) -> Iterator[Entry]:
    if progress is None and len(entries) == 1:
        progress = False
    with progress_bar(progress, "clouds", unit="file", total=len(entries)) as bar:
        for entry in entries:
            yield entry
            bar.update()


def _read(entry: Entry, split: str | None) -> Shape:
    kind = entry.path.suffix.lower()
    source = read_file(entry.path, split, entry.split)
    if split is None or kind == ".npz":
        return source
    if kind == ".npy" and isinstance(source, CloudArray) and source.points.shape[1] == _PC15K_POINTS:
        part = slice(None, _PC15K_TRAIN) if split == "train" else slice(_PC15K_TRAIN, None)
        return CloudArray(source.points[:, part], labels=source.labels)
    if entry.split != split:
        found = f"belongs to no split, and split={split!r} was asked for"
        raise cloud_error(entry.path, found, f"expected it below a folder {', '.join(SPLITS)}")
    return source


def _shape_error(entry: Entry, shape: tuple[int, ...], first: Entry, expected: tuple[int, ...]) -> CloudError:
    found = f"clouds of {shape[0]} points in {shape[1]} dimensions"
    wanted = "{} points in {} dimensions as in {}".format(*expected, printable(first.path))
    return cloud_error(entry.path, found, f"expected {wanted}, one shape in a folder")

"""Iteration over the clouds of a path, which all loaders share."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.errors import CloudError, cloud_error
from pyro_pcflow.data.formats import as_points, read_file, stored_splits
from pyro_pcflow.data.listing import SPLITS, Entry, Listing, list_entries
from pyro_pcflow.data.sampling import CloudArray, Surface, choose_points, derive_seed, sample_surface
from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.reading import printable

# PointFlow's layout: of each shape's 15000 points, the first 10000 are for training.
_PC15K_POINTS, _PC15K_TRAIN = 15000, 10000


@dataclass(frozen=True)
class StoredCloud:
    """A cloud as it lies in its file, before points are drawn.

    Attributes:
        entry: the file.
        index: position in the file.
        split: of the file's folder, or what the file itself says.
        remaining: how many clouds are to come at the least: the others of the file, and one of each file after it.
    """

    entry: Entry
    source: Surface | CloudArray
    index: int
    split: str | None
    remaining: int

    @property
    def num_points(self) -> int | None:
        """Number of points; None for a mesh, which has any number."""
        return None if isinstance(self.source, Surface) else self.source.points.shape[1]

    def draw(self, num_points: int | None, seed: int) -> np.ndarray:
        """Take some points, (num_points, D), as `load_clouds` does; None takes all that a cloud has, in their order.

        Raises:
            CloudError: points that float32 cannot hold, or all points of a mesh.
        """
        seed = derive_seed(seed, self.entry.name, self.index)
        if isinstance(self.source, Surface):
            if num_points is None:
                raise cloud_error(self.entry.path, "a mesh, which has any number of points", "give num_points")
            return as_points(self.entry.path, sample_surface(self.source, num_points, seed))
        points = as_points(self.entry.path, self.source.points[self.index])
        return points if num_points is None else choose_points(points, num_points, seed)


def find_splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Which splits the clouds of a path belong to, by their folders or their npz files.

    Args:
        path: as in `load_clouds`.

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
    for entry in list_entries(Path(path).expanduser(), None).entries:
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
        splits = None if isinstance(source, Surface) else source.splits
        num_clouds = 1 if isinstance(source, Surface) else len(source.points)
        for index in range(num_clouds):
            of_cloud = entry.split if splits is None else str(splits[index])
            yield StoredCloud(entry, source, index, of_cloud, num_clouds - index + len(entries) - number - 2)
        del source


def iterate_clouds(
    path: str | os.PathLike[str],
    num_points: int | None,
    seed: int,
    *,
    split: str | None = None,
    progress: bool | None = None,
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Read and draw the clouds of a path, one at a time, all of one shape.

    One warning at the start tells of files that are passed over, one at the end of clouds whose points repeat; they
    name the line that called the function that iterates.

    Args:
        path: as in `load_clouds`.
        num_points: as in `load_clouds`.
        seed: as in `load_clouds`.
        split: as in `load_clouds`.
        progress: as in `load_clouds`.

    Yields:
        A cloud, (N, D), and how many are still to come at the least: the others of its file, and
        one of each file after it.

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
    listing = list_entries(Path(path).expanduser(), split)
    listing.warn(stacklevel=3)
    first: tuple[Entry, tuple[int, ...]] | None = None
    num_short, first_short = 0, ""
    for stored in iterate_stored(listing, split, progress):
        entry, there = stored.entry, stored.num_points
        if num_points is not None and there is not None and there < num_points:
            num_short += 1
            first_short = first_short or f"{printable(entry.path)}: {there} points, {num_points} asked: points repeat"
        cloud, remaining = stored.draw(num_points, seed), stored.remaining
        del stored  # two files in memory would be one too many
        first = first or (entry, cloud.shape)
        if cloud.shape != first[1]:
            raise _shape_error(entry, cloud.shape, *first)
        yield cloud, remaining
    if num_short:
        more = f" (and {num_short - 1} clouds more)" if num_short > 1 else ""
        warnings.warn(first_short + more, UserWarning, stacklevel=3)


def _with_progress(entries: list[Entry], progress: bool | None) -> Iterator[Entry]:
    if progress is None and len(entries) == 1:
        progress = False
    with progress_bar(progress, "clouds", unit="file", total=len(entries)) as bar:
        for entry in entries:
            yield entry
            bar.update()


def _read(entry: Entry, split: str | None) -> Surface | CloudArray:
    kind = entry.path.suffix.lower()
    source = read_file(entry.path, split, entry.split)
    if split is None or kind == ".npz":
        return source
    if kind == ".npy" and isinstance(source, CloudArray) and source.points.shape[1] == _PC15K_POINTS:
        part = slice(None, _PC15K_TRAIN) if split == "train" else slice(_PC15K_TRAIN, None)
        return CloudArray(source.points[:, part])
    if entry.split != split:
        found = f"belongs to no split, and split={split!r} was asked for"
        raise cloud_error(entry.path, found, f"expected it below a folder {', '.join(SPLITS)}")
    return source


def _shape_error(entry: Entry, shape: tuple[int, ...], first: Entry, expected: tuple[int, ...]) -> CloudError:
    found = f"clouds of {shape[0]} points in {shape[1]} dimensions"
    wanted = "{} points in {} dimensions as in {}".format(*expected, printable(first.path))
    return cloud_error(entry.path, found, f"expected {wanted}, one shape in a folder")

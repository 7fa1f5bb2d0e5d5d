"""The clouds of a path one after another, read and drawn: what all loaders share."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.reading import printable

from .errors import CloudError, cloud_error
from .formats import as_points, read_file
from .listing import SPLITS, Entry, list_entries
from .sampling import Stack, Surface, choose_points, derive_seed, sample_surface

# PointFlow's layout: of each shape's 15000 points, the first 10000 are for training.
_PC15K_POINTS, _PC15K_TRAIN = 15000, 10000


def iterate_clouds(
    path: str | os.PathLike[str],
    num_points: int | None,
    seed: int,
    *,
    split: str | None = None,
    progress: bool | None = None,
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Read and draw the clouds of a path, one at a time, all of one shape.

    One warning at the end tells of clouds whose points repeat; it names the line that called the
    function that iterates.

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
        CloudError: what is there can't be used.
        ValueError: `num_points` below 1.

    Examples:
        >>> from pyro_pcflow.data import example_path
        >>> [(cloud.shape, remaining) for cloud, remaining in iterate_clouds(example_path("spot"), 100, seed=0)]
        [((100, 3), 0)]
    """
    if num_points is not None and operator.index(num_points) < 1:
        raise ValueError(f"num_points must be at least 1 or None, got {num_points}")
    entries = list_entries(Path(path).expanduser(), split)
    first: tuple[Entry, tuple[int, ...]] | None = None
    num_short, first_short = 0, ""
    for number, entry in enumerate(_with_progress(entries, progress)):
        source = _read(entry, split)
        num_clouds = 1 if isinstance(source, Surface) else len(source.points)
        stored = None if isinstance(source, Surface) else source.points.shape[1]
        if num_points is not None and stored is not None and stored < num_points:
            num_short += num_clouds
            first_short = first_short or f"{printable(entry.path)}: {stored} points, {num_points} asked: points repeat"
        for index in range(num_clouds):
            cloud = _draw(entry, source, index, num_points, derive_seed(seed, entry.name, index))
            first = first or (entry, cloud.shape)
            if cloud.shape != first[1]:
                raise _shape_error(entry, cloud.shape, *first)
            yield cloud, num_clouds - index + len(entries) - number - 2
        del source  # two files in memory would be one too many
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


def _read(entry: Entry, split: str | None) -> Surface | Stack:
    kind = entry.path.suffix.lower()
    source = read_file(entry.path, split, entry.split)
    if split is None or kind == ".npz":
        return source
    if kind == ".npy" and isinstance(source, Stack) and source.points.shape[1] == _PC15K_POINTS:
        part = slice(None, _PC15K_TRAIN) if split == "train" else slice(_PC15K_TRAIN, None)
        return Stack(source.points[:, part])
    if entry.split != split:
        found = f"belongs to no split, and split={split!r} was asked for"
        raise cloud_error(entry.path, found, f"expected it below a folder {', '.join(SPLITS)}")
    return source


def _draw(entry: Entry, source: Surface | Stack, index: int, num_points: int | None, seed: int) -> np.ndarray:
    if isinstance(source, Surface):
        if num_points is None:
            raise cloud_error(entry.path, "a mesh, which has any number of points", "give num_points")
        return as_points(entry.path, sample_surface(source, num_points, seed))
    points = as_points(entry.path, source.points[index])
    return points if num_points is None else choose_points(points, num_points, seed)


def _shape_error(entry: Entry, shape: tuple[int, ...], first: Entry, expected: tuple[int, ...]) -> CloudError:
    found = f"clouds of {shape[0]} points in {shape[1]} dimensions"
    wanted = "{} points in {} dimensions as in {}".format(*expected, printable(first.path))
    return cloud_error(entry.path, found, f"expected {wanted}, one shape in a folder")

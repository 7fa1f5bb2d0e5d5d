"""Files and folders to a batch of clouds."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import cloud_error
from .formats import as_points, read_file
from .listing import SPLITS, Entry, list_entries
from .sampling import Stack, Surface, choose_points, derive_seed, sample_surface

# PointFlow's layout: of each shape's 15000 points, the first 10000 are for training.
_PC15K_POINTS, _PC15K_TRAIN = 15000, 10000


def load_clouds(
    path: str | os.PathLike[str],
    num_points: int | None = 2048,
    *,
    seed: int = 0,
    split: str | None = None,
    progress: bool | None = None,
) -> Tensor:
    """Load a mesh, a cloud, a stack of clouds, or a folder of any of them.

    Meshes (obj, off, ply, stl, glb) give points drawn uniformly by area. Clouds (ply without faces;
    xyz, txt and csv tables; npy and the array `points` of npz, both (N, D) or (S, N, D)) give a
    random subset of their points, or all of them followed by random repeats and one warning.
    A folder is searched to its end, in sorted order. Coordinates keep their units. A file gives the
    same points for a seed wherever its folder lies and whatever else is in it.

    Args:
        path: a file or a folder.
        num_points: points per cloud, N; `None` keeps every point, which must then be equally many
            in every cloud, and leaves out meshes.
        seed: seed of the draw.
        split: "train", "val" or "test": only files below folders of that name, or clouds with that
            entry in a npz file's array `split`. Of npy clouds with 15000 points (PointFlow's
            PC15k), "train" then means the first 10000 and the others the last 5000.
        progress: show a bar over the files of a folder; `None` shows one on a terminal, after a second.

    Returns:
        (S, N, D) float32.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CloudError: what is there can't be used; the message names the file and what was expected.
        ValueError: `num_points` below 1.

    Examples:
        >>> from pyro_pcflow.data import example_path
        >>> load_clouds(example_path("spot"), num_points=100).shape
        torch.Size([1, 100, 3])
    """
    if num_points is not None and operator.index(num_points) < 1:
        raise ValueError(f"num_points must be at least 1 or None, got {num_points}")
    entries = list_entries(Path(path).expanduser(), split)
    batch = _Batch(num_points, seed)
    for index, entry in enumerate(_with_progress(entries, progress)):
        batch.add(entry, _read(entry, split), remaining=len(entries) - index - 1)
    if batch.num_short:
        more = f" (and {batch.num_short - 1} clouds more)" if batch.num_short > 1 else ""
        warnings.warn(batch.first_short + more, UserWarning, stacklevel=2)
    return batch.finish()


def _with_progress(entries: list[Entry], progress: bool | None) -> Iterable[Entry]:
    if progress is False or (progress is None and len(entries) == 1):
        return entries
    from tqdm import tqdm

    # tqdm's own None means: only on a terminal.
    disable, delay = (None, 1) if progress is None else (False, 0)
    return tqdm(entries, desc="clouds", unit="file", disable=disable, delay=delay)


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


class _Batch:
    """Clouds of one shape, gathered in one array that grows only when a file holds several."""

    def __init__(self, num_points: int | None, seed: int) -> None:
        self.num_points = num_points
        self.seed = seed
        self.num_short = 0
        self.first_short = ""
        self._first: Entry | None = None
        self._count = 0
        self._clouds = np.empty((0, 0, 0), dtype=np.float32)

    def add(self, entry: Entry, source: Surface | Stack, remaining: int) -> None:
        """Draw the clouds of one file, with `remaining` files to come."""
        num_clouds = 1 if isinstance(source, Surface) else len(source.points)
        for index in range(num_clouds):
            cloud = self._draw(entry, source, index)
            self._reserve(entry, cloud.shape, num_clouds - index + remaining)
            self._clouds[self._count] = cloud
            self._count += 1

    def _draw(self, entry: Entry, source: Surface | Stack, index: int) -> np.ndarray:
        seed = derive_seed(self.seed, entry.name, index)
        if isinstance(source, Surface):
            if self.num_points is None:
                raise cloud_error(entry.path, "a mesh, which has any number of points", "give num_points")
            return as_points(entry.path, sample_surface(source, self.num_points, seed))
        points = as_points(entry.path, source.points[index])
        if self.num_points is None:
            return points
        if len(points) < self.num_points:
            self.num_short += 1
            note = f"{entry.path}: {len(points)} points, {self.num_points} asked: points repeat"
            self.first_short = self.first_short or note
        return choose_points(points, self.num_points, seed)

    def _reserve(self, entry: Entry, shape: tuple[int, ...], needed: int) -> None:
        if self._first is None:
            self._first = entry
            self._clouds = np.empty((needed, *shape), dtype=np.float32)
        if shape != self._clouds.shape[1:]:
            found = f"clouds of {shape[0]} points in {shape[1]} dimensions"
            first = "{} points in {} dimensions as in {}".format(*self._clouds.shape[1:], self._first.path)
            raise cloud_error(entry.path, found, f"expected {first}, one shape in a folder")
        if self._count + needed > len(self._clouds):
            # Doubling keeps a folder of stacks linear; numpy grows the block in place if it can.
            capacity = max(self._count + needed, 2 * len(self._clouds))
            self._clouds.resize((capacity, *shape), refcheck=False)

    def finish(self) -> Tensor:
        """Hand over what was gathered, without a copy."""
        self._clouds.resize((self._count, *self._clouds.shape[1:]), refcheck=False)
        return torch.from_numpy(self._clouds)

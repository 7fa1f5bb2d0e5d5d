"""Loading of files and folders as one batch of clouds."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.data.drawing import Columns, Selection
from pyro_pcflow.data.listing import FolderOptions
from pyro_pcflow.data.reading import iterate_clouds


def load_clouds(
    path: str | os.PathLike[str],
    num_points: int | None = 2048,
    *,
    seed: int = 0,
    split: str | None = None,
    columns: Columns | None = None,
    features: Columns | None = None,
    drop_nan: bool = False,
    outliers: float | None = None,
    include: str | Sequence[str] | None = None,
    subfolders: bool = True,
    follow_links: bool = False,
    progress: bool | None = None,
) -> Tensor:
    """Load a mesh, a cloud, a stack of clouds, or a folder of any of them.

    Meshes (obj, off, ply, stl, glb, gltf) give points drawn uniformly by area. Clouds (ply without faces; pcd, las,
    laz, e57, ptx; xyz, txt, csv, pts, asc and other tables of text; KITTI's bin; npy, npz and hdf5, of shape (N, D) or
    (S, N, D)) give a random subset of their points, or all of them followed by random repeats and one warning.
    A folder is searched to its end, in sorted order; hidden files are left out, and files of other
    endings, which one warning names. Coordinates keep their units. A file gives the same points for
    a seed, independent of where its folder lies and of its other files.

    Args:
        path: a file or a folder.
        num_points: points per cloud, N; `None` keeps every point, which must then be equally many
            in every cloud, and leaves out meshes.
        seed: seed of the draw.
        split: "train", "val" or "test": only files below folders of that name, or clouds with that
            entry in a npz file's array `split`. Of npy clouds with 15000 points (PointFlow's
            PC15k), "train" then means the first 10000 and the others the last 5000. `None` takes all.
        columns: which columns of tables are coordinates: names, or places from 1, as `"x,y,z"`, `"1,2,3"` or a list.
            `None` goes by the names, or takes all of a table without names that has two or three, and all of an array.
        features: further columns, as `"intensity,r,g,b"`: they follow the coordinates.
        drop_nan: leave out points that are NaN or infinite, with a warning that counts them; they are an error else.
        outliers: leave out points so many standard deviations farther from their neighbours than is usual, with such a
            warning: 5 finds dust and reflections. `None` keeps all.
        include: patterns of file names in a folder, such as `"*.ply"`.
        subfolders: whether folders in a folder are searched, too.
        follow_links: whether links to folders are followed.
        progress: show a bar over the files of a folder; `None` shows one on a terminal, after a second.

    Returns:
        (S, N, D + F) float32; float64 where float32 would lose more than a thousandth of the distance between points,
        as of map coordinates.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CloudError: what is there cannot be used; the message names the file and what was expected.
        ValueError: `num_points` below 1.

    Examples:
        >>> from pyro_pcflow.data import example_path
        >>> load_clouds(example_path("spot"), num_points=100).shape
        torch.Size([1, 100, 3])
    """
    batch = _Batch()
    selection = Selection(columns, features, drop_nan, outliers)
    options = FolderOptions.of(include, subfolders, follow_links)
    for cloud, remaining in iterate_clouds(
        path, num_points, seed, split=split, progress=progress, selection=selection, options=options
    ):
        batch.add(cloud, remaining)
    return batch.finish()


class _Batch:
    """Clouds of one shape, gathered in one array that grows only when a file holds several."""

    def __init__(self) -> None:
        self._count = 0
        self._clouds = np.empty((0, 0, 0), dtype=np.float32)

    def add(self, cloud: np.ndarray, remaining: int) -> None:
        """Keep one cloud, with at least `remaining` to come."""
        if self._count == 0:
            self._clouds = np.empty((1 + remaining, *cloud.shape), dtype=cloud.dtype)
        elif cloud.dtype.itemsize > self._clouds.dtype.itemsize:
            self._clouds = self._clouds.astype(cloud.dtype)
        needed = self._count + 1 + remaining
        if needed > len(self._clouds):
            # Doubling keeps a folder of stacks linear; numpy grows the block in place if it can.
            capacity = max(needed, 2 * len(self._clouds))
            self._clouds.resize((capacity, *cloud.shape), refcheck=False)
        self._clouds[self._count] = cloud
        self._count += 1

    def finish(self) -> Tensor:
        """Hand over what was gathered, without a copy."""
        self._clouds.resize((self._count, *self._clouds.shape[1:]), refcheck=False)
        return torch.from_numpy(self._clouds)

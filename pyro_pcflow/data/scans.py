"""Scans as files have them: clouds of any size, with their origin and their features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.data.drawing import Columns, DrawnCloud, Selection, StoredCloud
from pyro_pcflow.data.listing import FolderOptions, list_entries
from pyro_pcflow.data.reading import iterate_stored
from pyro_pcflow.ops.origin import find_origin

__all__ = ["Scan", "load_scans"]


@dataclass(frozen=True)
class Scan:
    """One scan.

    Attributes:
        points: coordinates relative to the origin, shape `(N, D)`, float32 where that keeps a thousandth of their
            spacing, else float64; in the file's units.
        origin: what was subtracted, shape `(D,)`, float64, the same for all scans of a call; zeros where nothing needed
            it.
        features: further columns, shape `(N, F)`, or None.
        feature_names: their names.
        name: of the file, relative to the folder that was read, and of the station where a file has several.
        split: the folder train, val or test that it lies in, or what the file says.
        label: the class that the file says, or the name of its folder; None if there is none.
        rows: which points of the file they are, shape `(N,)`; None for points drawn from a mesh.
        skipped: how many points of the file were left out since they are not finite.
        strays: how many were left out since they lie astray.
    """

    points: Tensor
    origin: Tensor
    features: Tensor | None
    feature_names: tuple[str, ...]
    name: str
    split: str | None
    label: int | str | None
    rows: Tensor | None
    skipped: int
    strays: int

    def __len__(self) -> int:
        return len(self.points)

    @property
    def coordinates(self) -> Tensor:
        """The points in the file's own frame, shape `(N, D)`, float64."""
        return self.points.double() + self.origin

    @cached_property
    def num_duplicates(self) -> int:
        """How many points lie where an earlier one does."""
        return len(self.points) - len(np.unique(self.points.numpy(), axis=0))


def load_scans(
    path: str | os.PathLike[str],
    columns: Columns | None = "xyz",
    *,
    features: Columns | None = None,
    drop_nan: bool = True,
    outliers: float | None = None,
    num_points: int | None = None,
    seed: int = 0,
    split: str | None = None,
    include: str | Sequence[str] | None = None,
    subfolders: bool = True,
    follow_links: bool = False,
    progress: bool | None = None,
) -> list[Scan]:
    """Load scans as files have them: clouds of any size, in any of the formats of `load_clouds`, mixed in a folder.

    Where float32 would lose more than a thousandth of the distance between points, as of map coordinates, an origin is
    subtracted, one for all scans, so that they stay in one frame; `Scan.coordinates` adds it again.

    Args:
        path: a file or a folder.
        columns: which columns of tables are coordinates, as in `load_clouds`; "xyz" goes by the names.
        features: further columns, as `"intensity,r,g,b"`.
        drop_nan: leave out points that are NaN or infinite; `Scan.skipped` counts them. They are an error else.
        outliers: leave out points so many standard deviations farther from their neighbours than is usual.
        num_points: points to draw from each mesh, and from each cloud that has more; `None` keeps all points, and
            refuses meshes.
        seed: seed of the draw.
        split: as in `load_clouds`.
        include: as in `load_clouds`.
        subfolders: as in `load_clouds`.
        follow_links: as in `load_clouds`.
        progress: as in `load_clouds`.

    Returns:
        Scans, in the order of their names.

    Raises:
        FileNotFoundError: nothing is at `path`.
        CloudError: what is there cannot be used; the message names the file and what was expected.
        ValueError: `num_points` below 1.

    Examples:
        >>> import tempfile
        >>> text = "E;N;H;intensity\\n701362.125;4485513.5;40;7\\n701362.375;4485513;41;9"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.csv").write_text(text)
        ...     (scan,) = load_scans(folder, columns="E,N,H", features="intensity")
        >>> scan.coordinates[0].tolist(), scan.features.tolist()
        ([701362.125, 4485513.5, 40.0], [[7.0], [9.0]])
    """
    if num_points is not None and num_points < 1:
        raise ValueError(f"num_points must be at least 1 or None, got {num_points}")
    listing = list_entries(Path(path).expanduser(), split, FolderOptions.of(include, subfolders, follow_links))
    listing.warn(stacklevel=2)
    selection = Selection(columns, features, drop_nan, outliers)
    scans = []
    for stored in iterate_stored(listing, split, progress):
        there = stored.num_points
        wanted = num_points if num_points is None or there is None or there > num_points else None
        drawn = stored.draw(wanted, seed, selection)
        scans.append(_scan(stored, drawn))
        del stored, drawn
    return _relative(scans)


def _scan(stored: StoredCloud, drawn: DrawnCloud) -> Scan:
    name, station = stored.entry.name, getattr(stored.source, "name", None)
    rows = None if drawn.rows is None else torch.from_numpy(drawn.rows)
    if rows is None and stored.num_points is not None:
        rows = torch.arange(stored.num_points)
    return Scan(
        points=torch.from_numpy(np.array(drawn.points)),
        origin=torch.zeros(drawn.points.shape[1], dtype=torch.float64),
        features=None if drawn.features is None else torch.from_numpy(np.array(drawn.features)),
        feature_names=drawn.feature_names,
        name=name if station is None else f"{name}, {station}",
        split=stored.split,
        label=stored.label,
        rows=rows,
        skipped=drawn.dropped,
        strays=drawn.strays,
    )


def _relative(scans: list[Scan]) -> list[Scan]:
    """Subtract one origin from all scans of a dimension, if any of them needs one."""
    moved = list(scans)
    for dim in {scan.points.shape[1] for scan in scans}:
        numbers = [number for number, scan in enumerate(scans) if scan.points.shape[1] == dim]
        exact = next((scans[number].points for number in numbers if scans[number].points.dtype == torch.float64), None)
        origin = None if exact is None else find_origin(exact)
        if origin is None:
            continue
        for number in numbers:
            points = scans[number].points.double() - origin
            # A scan that lies far from the others may need all of its digits even so.
            points = points if find_origin(points) is not None else points.float()
            moved[number] = replace(scans[number], points=points, origin=origin)
    return moved

"""Writing clouds and scans to files that `load_clouds` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_pcflow.data.scans import Scan
from pyro_pcflow.data.writing_las import write_las
from pyro_pcflow.data.writing_ply import write_ply
from pyro_pcflow.ops.files import new_file, write_npy

__all__ = ["SAVED_FORMATS", "SCAN_FORMATS", "check_format", "save_clouds", "save_scan"]

SAVED_FORMATS = (".npy", ".npz", ".ply", ".xyz")
SCAN_FORMATS = (".ply", ".las", ".laz")


def save_clouds(clouds: Tensor, path: str | os.PathLike[str]) -> Path:
    """Write clouds to a new file.

    Args:
        clouds: (S, N, D); ply and xyz hold one cloud, ply in three dimensions.
        path: ends in `.npy`, `.npz` (array `points`), `.ply` or `.xyz`. Missing folders are made.

    Returns:
        The path.

    Raises:
        FileExistsError: the file is there already; nothing is overwritten.
        ValueError: another ending, or clouds that the format cannot hold.

    Examples:
        >>> import tempfile, torch
        >>> from pyro_pcflow.data import load_clouds
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_clouds(save_clouds(torch.randn(2, 50, 3), f"{folder}/new/two.npz"), 50).shape
        torch.Size([2, 50, 3])
    """
    path = Path(path)
    if clouds.dim() != 3:
        raise ValueError(f"expected clouds of shape (S, N, D), got {tuple(clouds.shape)}")
    check_format(path, len(clouds), clouds.shape[-1])
    points = clouds.detach().cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        if path.suffix == ".npy":
            write_npy(file, points)
        elif path.suffix == ".npz":
            np.savez_compressed(file, points=points)
        elif path.suffix == ".xyz":
            # So many digits give the same number back.
            np.savetxt(file, points[0], fmt="%.17g" if points.dtype == np.float64 else "%.9g")
        else:
            write_ply(file, dict(zip("xyz", points[0].T, strict=True)))
    return path


def save_scan(scan: Scan, path: str | os.PathLike[str], fields: Mapping[str, Tensor] | None = None) -> Path:
    """Write a scan with numbers for each of its points, in the file's own frame, to a new file.

    Programs such as CloudCompare show the numbers as scalar fields. Coordinates are doubles in PLY; in LAS they are
    whole multiples of a step of a tenth of a millimetre or less.

    Args:
        scan: of three dimensions.
        path: ends in `.ply`, `.las` or `.laz`; the last two need the extra `las`. Missing folders are made.
        fields: numbers, shape `(N,)`, by the name of their field; they stand beside the scan's features.

    Returns:
        The path.

    Raises:
        FileExistsError: the file is there already; nothing is overwritten.
        ValueError: another ending, points of other dimensions, or numbers of another shape.

    Examples:
        >>> import tempfile, torch
        >>> from pyro_pcflow.data import load_scans
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.csv").write_text("x,y,z\\n1,2,3\\n4,5,6")
        ...     (scan,) = load_scans(folder)
        ...     saved = save_scan(scan, f"{folder}/b.ply", {"log_density": torch.tensor([-1.0, -2.0])})
        ...     load_scans(saved, features="scalar_log_density")[0].features.flatten().tolist()
        [-1.0, -2.0]
    """
    path = Path(path)
    if path.suffix not in SCAN_FORMATS:
        raise ValueError(f"{path}: scans are saved to names that end in {', '.join(SCAN_FORMATS)}")
    points = scan.coordinates.numpy()
    if points.shape[1] != 3:
        raise ValueError(f"{path}: {path.suffix} holds points of 3 coordinates, got {points.shape[1]}")
    columns: dict[str, NDArray[Any]] = dict(zip("xyz", points.T, strict=True))
    # Programs look for scalar fields by this beginning of a PLY property's name.
    begin = "scalar_" if path.suffix == ".ply" else ""
    if scan.features is not None:
        names = [name.removeprefix("scalar_") for name in scan.feature_names]
        if len({*columns, *names}) < len(columns) + len(names):
            raise ValueError(f"{path}: features {', '.join(scan.feature_names)} would have one name there")
        columns |= {name: scan.features[:, place].numpy() for place, name in enumerate(names)}
    for name, values in (fields or {}).items():
        if values.shape != (len(scan),):
            raise ValueError(f"{name}: expected a number for each of {len(scan)} points, got {tuple(values.shape)}")
        if name in columns:
            raise ValueError(f"{name}: the scan has a column of this name: choose another")
        columns[name] = values.detach().cpu().numpy()
    named = {name if name in "xyz" else f"{begin}{name}": values for name, values in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        if path.suffix == ".ply":
            write_ply(file, named)
        else:
            write_las(file, named, compress=path.suffix == ".laz")
    return path


def check_format(path: Path, num_clouds: int, point_dim: int) -> None:
    """Raise a `ValueError` unless a file of that name can hold that many clouds of points of that dimension."""
    if path.suffix not in SAVED_FORMATS:
        raise ValueError(f"{path}: clouds are saved to names that end in {', '.join(SAVED_FORMATS)}")
    if path.suffix in (".ply", ".xyz") and num_clouds != 1:
        raise ValueError(f"{path}: {path.suffix} holds one cloud, got {num_clouds}; use .npz")
    if path.suffix == ".ply" and point_dim != 3:
        raise ValueError(f"{path}: .ply holds points of 3 coordinates, got {point_dim}; use .xyz or .npz")

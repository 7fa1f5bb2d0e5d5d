"""Writing clouds to files that `load_clouds` reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_pcflow.ops.files import new_file, write_npy

__all__ = ["SAVED_FORMATS", "save_clouds"]

SAVED_FORMATS = (".npy", ".npz", ".ply", ".xyz")


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
            import trimesh

            file.write(trimesh.PointCloud(points[0]).export(file_type="ply"))
    return path


def check_format(path: Path, num_clouds: int, point_dim: int) -> None:
    """Raise a `ValueError` unless a file of that name can hold that many clouds of points of that dimension."""
    if path.suffix not in SAVED_FORMATS:
        raise ValueError(f"{path}: clouds are saved to names that end in {', '.join(SAVED_FORMATS)}")
    if path.suffix in (".ply", ".xyz") and num_clouds != 1:
        raise ValueError(f"{path}: {path.suffix} holds one cloud, got {num_clouds}; use .npz")
    if path.suffix == ".ply" and point_dim != 3:
        raise ValueError(f"{path}: .ply holds points of 3 coordinates, got {point_dim}; use .xyz or .npz")

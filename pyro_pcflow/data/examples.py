"""Small free data sets that travel with the package."""

from __future__ import annotations

import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.data.loading import load_clouds
from pyro_pcflow.data.sampling import choose_rows, derive_seed

_MESHES = ("spot",)
_SETS = ("body", "chair", "table")


def example_path(name: str) -> Path:
    """Path of an embedded mesh, for functions that take files.

    Args:
        name: "spot".

    Returns:
        The path of its obj file, inside the installed package.

    Raises:
        ValueError: no mesh of that name.

    Examples:
        >>> example_path("spot").name
        'spot.obj'
    """
    if name not in _MESHES:
        hint = ": load_example reads it" if name in _SETS else ""
        raise ValueError(f"no embedded mesh {name!r}{hint}; meshes are {', '.join(_MESHES)}")
    return _file(f"{name}.obj")


def load_example(name: str, num_points: int | None = 2048, seed: int = 0, *, split: str | None = None) -> Tensor:
    """Load an embedded data set.

    | name | what | shapes | points of each |
    | --- | --- | --- | --- |
    | "spot" | the surface of a cow | 1 | any number |
    | "chair" | chairs and stools, scaled to [-1, 1] | 20 | 8192 |
    | "table" | tables and desks, scaled to [-1, 1] | 6 | 8192 |
    | "body" | human bodies in varied poses, scaled to [-1, 1] | 300 | 2048 |

    All are free of rights (public domain or CC0); the file NOTICE names their creators.

    Args:
        name: one of the names above.
        num_points: points per cloud, N; `None` keeps all, except of "spot".
        seed: seed of the draw.
        split: "train" or "test" ("val" too for furniture) of a set, as its source splits it; `None`
            for all.

    Returns:
        (S, N, 3) float32.

    Raises:
        ValueError: an unknown name or split, or `num_points` below 1.

    Examples:
        >>> load_example("body", num_points=512, split="test").shape
        torch.Size([60, 512, 3])
    """
    if name not in _MESHES + _SETS:
        raise ValueError(f"no example {name!r}; examples are {', '.join(sorted(_MESHES + _SETS))}")
    if num_points is not None and num_points < 1:
        raise ValueError(f"num_points must be at least 1 or None, got {num_points}")
    if name in _MESHES:
        if split is not None:
            raise ValueError(f"{name!r} is a single shape without splits, got split={split!r}")
        return load_clouds(_file(f"{name}.obj"), num_points, seed=seed)
    return _load_set(name, num_points, seed, split)


def _load_set(name: str, num_points: int | None, seed: int, split: str | None) -> Tensor:
    with np.load(_file(f"{name}.npz"), allow_pickle=False) as arrays:
        ids, splits = arrays["ids"], arrays["split"]
        clouds = dequantise({key: arrays[key] for key in ("quantised", "offset", "step")})
    chosen = np.full(len(ids), True) if split is None else splits == split
    if not chosen.any():
        raise ValueError(f"{name!r} has no split {split!r}; splits are {', '.join(np.unique(splits))}")
    if num_points is None:
        return torch.from_numpy(clouds[chosen])
    if num_points > clouds.shape[1]:
        message = f"example {name!r}: {clouds.shape[1]} points, {num_points} asked: points repeat"
        warnings.warn(message, UserWarning, stacklevel=3)
    drawn = [
        cloud[choose_rows(len(cloud), num_points, derive_seed(seed, f"{name}/{shape}", 0))]
        for cloud, shape in zip(clouds[chosen], ids[chosen], strict=True)
    ]
    return torch.from_numpy(np.stack(drawn))


def dequantise(arrays: dict[str, Any]) -> np.ndarray:
    """Coordinates that are stored in 16 bits each, as `benchmarks.tools.make_examples` writes them.

    Args:
        arrays: `quantised` (S, P, D) uint16, and `offset` and `step` (D,) float64.

    Returns:
        (S, P, D) float32.

    Examples:
        >>> dequantise({"quantised": np.array([[[2, 3]]]), "offset": np.array([0, 1]), "step": 0.5})
        array([[[1. , 2.5]]], dtype=float32)
    """
    return (arrays["quantised"] * arrays["step"] + arrays["offset"]).astype(np.float32)


def _file(name: str) -> Path:
    return Path(str(files(__package__) / "examples" / name))

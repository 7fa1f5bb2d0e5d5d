"""Category files: many clouds, and which of them are for training, validation and the final test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pyro_pcflow as pcf


@dataclass(frozen=True)
class Category:
    """Clouds in units of the standard deviation of those that are trained on."""

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor


def load_splits(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The clouds of the splits `train`, `val` and `test`, each of shape `(S, N, D)`.

    Args:
        path: a category file, or the name of an embedded example, which may lack a split.
    """
    if not path.suffix:
        train, validation, test = (_example(str(path), split) for split in ("train", "val", "test"))
        return train, validation, test
    with np.load(path) as file:
        points, split = torch.from_numpy(file["points"]), file["split"]
    train, validation, test = (points[torch.from_numpy(split == name)] for name in ("train", "val", "test"))
    return train, validation, test


def _example(name: str, split: str) -> Tensor:
    """All points of a split, or no clouds where an example has no such split; an unknown name is an error."""
    try:
        return pcf.data.load_example(name, None, split=split)
    except ValueError:
        return pcf.data.load_example(name, None)[:0]


def load_category(path: Path) -> Category:
    """Read a category file and bring it to standard units."""
    train, validation, test = load_splits(path)
    loc = train.mean((0, 1))
    scale = (train - loc).square().mean().sqrt()
    return Category(path.stem, *((part - loc) / scale for part in (train, validation, test)))

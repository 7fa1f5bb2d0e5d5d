"""Files of many shapes: clouds, and which of them are for training, for choosing and for the last word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def load_splits(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The clouds of the splits `train`, `val` and `test` of a category file, each of shape `(S, N, D)`."""
    with np.load(path) as file:
        points, split = torch.from_numpy(file["points"]), file["split"]
    train, validation, test = (points[torch.from_numpy(split == name)] for name in ("train", "val", "test"))
    return train, validation, test

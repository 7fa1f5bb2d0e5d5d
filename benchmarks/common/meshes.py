"""Single meshes as points to train on, to choose by and to score."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT


@dataclass(frozen=True)
class Shape:
    """Points of one mesh in units of its bounding box.

    Those of ``validation`` and ``test`` have Gaussian noise of the standard deviation ``noise``; it is not yet added to
    ``train``.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    center: Tensor
    unit: Tensor
    noise: float


def load_shape(
    path: Path, num_points: int = 200_000, noise: float = NOISE_PER_HALF_EXTENT, num_scored: int = 20_000
) -> Shape:
    """Sample a mesh and bring it to the unit of the half extent of its bounding box."""
    points = pcf.data.load_clouds(path, num_points + 2 * num_scored, seed=0)[0]
    low, high = points.amin(0), points.amax(0)
    center, unit = (low + high) / 2, (high - low).max() / 2
    points = (points - center) / unit
    # The sampler walks the faces in order of its random numbers, so slices are independent samples.
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    train, validation, test = points.split([num_points, num_scored, num_scored])
    generator = torch.Generator().manual_seed(1)
    validation, test = (part + noise * torch.randn(part.shape, generator=generator) for part in (validation, test))
    return Shape(path.stem, train, validation, test, center, unit, noise)


def mesh_paths(path: Path, parser: argparse.ArgumentParser) -> list[Path]:
    """The meshes of a folder, or the one that a path names; an error of the parser if there is none."""
    paths = sorted(path.glob("*.obj")) if path.is_dir() else [path]
    if not paths:
        parser.error(f"{path} holds no .obj file")
    return paths

"""Checks of distance matrices, and which samples failed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["CrossDistances", "check_matrix", "cross_distances"]


@dataclass(frozen=True, eq=False)
class CrossDistances:
    """Distances from samples to references, and which samples failed.

    Args:
        matrix: (S, R) of float64, with infinity in the rows of failed samples.
        failed: (S,) boolean.
    """

    matrix: Tensor
    failed: Tensor


def check_matrix(matrix: Tensor | np.ndarray, name: str) -> Tensor:
    """The numbers of a matrix of distances, in float64 on the CPU; a TypeError or ValueError names a wrong argument."""
    if not isinstance(matrix, (Tensor, np.ndarray)):
        raise TypeError(f"{name}: expected a tensor or an array of distances, got {type(matrix).__name__}")
    tensor = torch.as_tensor(matrix).detach()
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name}: expected real distances, got {tensor.dtype}")
    if tensor.dim() != 2:
        shape = tuple(tensor.shape)
        raise ValueError(f"{name}: expected a matrix of distances, one row and column per cloud, got shape {shape}")
    if 0 in tensor.shape:
        raise ValueError(f"{name}: there are no distances in it, its shape is {tuple(tensor.shape)}")
    return tensor.to("cpu", torch.float64)


def cross_distances(samples_references: Tensor | np.ndarray) -> CrossDistances:
    """Check distances from samples to references, and find the samples that failed.

    A sample fails where its distance to every reference is NaN or infinite: it has coordinates that are not finite, or
    so large that their distances overflow. A failed sample is infinitely far from every reference.

    Args:
        samples_references: (S, R); a row for each sample, a column for each reference.

    Returns:
        The distances, and the failures.

    Raises:
        TypeError: not numbers.
        ValueError: another rank, an empty matrix, or distances that are not finite in part of a row.

    Examples:
        >>> cross_distances(torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]])).failed
        tensor([False,  True])
    """
    matrix = check_matrix(samples_references, "samples_references")
    finite = matrix.isfinite()
    failed = ~finite.any(1)
    columns = (~finite[~failed]).any(0).nonzero().flatten().tolist()
    if columns:
        raise ValueError(
            f"samples_references: references {_shortened(columns)} are at a distance that is not finite from samples "
            "that have finite distances to others; a NaN sample gives a row of NaN, and references must be finite "
            "(are rows and columns swapped?)"
        )
    return CrossDistances(matrix.masked_fill(failed.unsqueeze(1), torch.inf), failed)


def _shortened(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")

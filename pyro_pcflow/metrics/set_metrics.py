"""Metrics between a set of samples and a set of references, from matrices of distances between clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.cross_distances import check_matrix, cross_distances
from pyro_pcflow.metrics.two_sample import one_nearest_neighbour

__all__ = [
    "ONE_NEAREST_NEIGHBOUR",
    "SET_METRICS",
    "SetDistances",
    "SetMetric",
    "coverage",
    "minimum_matching_distance",
    "spread",
]


def minimum_matching_distance(samples_references: Tensor | np.ndarray) -> float:
    """Mean over the references of the distance to the nearest sample (MMD).

    Achlioptas, Diamanti, Mitliagkas and Guibas, Learning representations and generative models for 3D point clouds,
    ICML 2018. It asks whether every reference has a similar sample; bad samples beside good ones cost nothing.

    Args:
        samples_references: (S, R), distances from each sample to each reference.

    Returns:
        In the unit of the distance. A failed sample (NaN distances) is never the nearest; infinity if all failed.

    Raises:
        TypeError: not numbers.
        ValueError: another rank, an empty matrix, or a reference with NaN distances.

    Examples:
        >>> minimum_matching_distance(torch.tensor([[1.0, 5.0], [2.0, 4.0]]))  # (1 + 4) / 2
        2.5
    """
    return float(cross_distances(samples_references).matrix.amin(0).mean())


def coverage(samples_references: Tensor | np.ndarray) -> float:
    """Share of the references that are the nearest one of at least one sample (COV).

    Achlioptas et al., ICML 2018. It measures variety, not the quality of samples. A sample covers all references that
    are equally near to it, so that the order of the clouds does not matter.

    Args:
        samples_references: (S, R), distances from each sample to each reference.

    Returns:
        In [0, 1]. Two sets of one distribution do not reach 1: compare with the training set in place of the samples.
        A failed sample (NaN distances) covers nothing.

    Raises:
        TypeError: not numbers.
        ValueError: another rank, an empty matrix, or a reference with NaN distances.

    Examples:
        >>> coverage(torch.tensor([[1.0, 5.0], [2.0, 4.0]]))  # the first reference is the nearest of both samples
        0.5
    """
    cross = cross_distances(samples_references)
    distances = cross.matrix[~cross.failed]
    if not len(distances):
        return 0.0
    return float((distances == distances.amin(1, keepdim=True)).any(0).double().mean())


def spread(samples_samples: Tensor | np.ndarray, references_references: Tensor | np.ndarray) -> float:
    """Mean distance between two samples, over the mean distance between two references: a test for mode collapse.

    Near 1 where samples vary as much as references do, near 0 where a model draws one cloud again and again. It tells
    nothing about whether samples look like references.

    Args:
        samples_samples: (S, S); the diagonal is not looked at.
        references_references: (R, R); the diagonal is not looked at.

    Returns:
        A ratio, at least 0. Failed samples, whose distances are not finite, are left out; NaN if there are not two
        others.

    Raises:
        TypeError: not numbers.
        ValueError: a matrix that is not square, fewer than two references, or distances between references that are
            not finite.

    Examples:
        >>> spread(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 4.0], [4.0, 0.0]]))
        0.25
    """
    return _ratio(
        _off_diagonal(samples_samples, "samples_samples"), _off_diagonal(references_references, "references_references")
    )


def _ratio(between_samples: Tensor, between_references: Tensor) -> float:
    if not len(between_references) or not between_references.isfinite().all():
        raise ValueError("references_references: expected finite distances between at least two references")
    return float(between_samples[between_samples.isfinite()].mean() / between_references.mean())


def _off_diagonal(matrix: Tensor | np.ndarray, name: str) -> Tensor:
    square = check_matrix(matrix, name)
    if len(square) != square.shape[1]:
        raise ValueError(f"{name}: expected a square matrix, got shape {tuple(square.shape)}")
    return square[~torch.eye(len(square), dtype=torch.bool)]


class SetDistances(NamedTuple):
    """What metrics of two sets are computed from.

    Attributes:
        own: (S, S), distances within samples.
        theirs: (R, R), within references.
        cross: (S, R), between samples and references.
        own_pairs: of pairs of samples, those that spread is the mean of.
        their_pairs: of pairs of references.
    """

    own: Tensor
    theirs: Tensor
    cross: Tensor
    own_pairs: Tensor
    their_pairs: Tensor


@dataclass(frozen=True)
class SetMetric:
    """A metric of two sets in a report: `prefix-cd` for the Chamfer distance, and the same with other suffixes.

    Args:
        prefix: of its keys.
        title: in tables.
        meaning: a sentence below tables.
        compute: from the distances within and between both sets, a number for each of `parts`.
        parts: how the keys of one distance end.
        is_rate: whether it is in [0, 1], and shown in percent.
    """

    prefix: str
    title: str
    meaning: str
    compute: Callable[[SetDistances], tuple[float, ...]]
    parts: tuple[str, ...] = ("",)
    is_rate: bool = False

    def keys(self, suffix: str) -> tuple[str, ...]:
        """The keys for a distance whose keys end in `suffix`."""
        return tuple(f"{self.prefix}-{suffix}{part}" for part in self.parts)


ONE_NEAREST_NEIGHBOUR = SetMetric(
    "1-nna",
    "1-NNA",
    "1-NNA: clouds whose nearest neighbour is of their own set; 50% is ideal, and lower is not better. Its "
    "halves: `ref`, references whose neighbour is a reference, and `smp`, samples whose neighbour is a sample.",
    lambda distances: one_nearest_neighbour(distances.own, distances.theirs, distances.cross),
    parts=("", "-ref", "-smp"),
    is_rate=True,
)
# What `evaluate` computes of each distance, in the order of a report.
SET_METRICS = (
    ONE_NEAREST_NEIGHBOUR,
    SetMetric(
        "cov",
        "COV",
        "COV: references that are the nearest one of some sample; compare with the training set.",
        lambda distances: (coverage(distances.cross),),
        is_rate=True,
    ),
    SetMetric(
        "mmd",
        "MMD",
        "MMD: mean distance from a reference to its nearest sample, in the unit of the distance.",
        lambda distances: (minimum_matching_distance(distances.cross),),
    ),
    SetMetric(
        "spread",
        "spread",
        "Spread: mean distance of two samples over that of two references; 1 is ideal, near 0 is collapse.",
        lambda distances: (_ratio(distances.own_pairs, distances.their_pairs),),
    ),
)

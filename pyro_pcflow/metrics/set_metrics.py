"""Metrics between a set of samples and a set of references, from matrices of distances between clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.cross_distances import check_matrix, cross_distances

__all__ = [
    "ONE_NEAREST_NEIGHBOUR",
    "SET_METRICS",
    "OneNearestNeighbour",
    "PermutationInterval",
    "SetMetric",
    "coverage",
    "minimum_matching_distance",
    "one_nearest_neighbour",
    "permutation_interval",
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
    between_references = _off_diagonal(references_references, "references_references")
    if not len(between_references) or not between_references.isfinite().all():
        raise ValueError("references_references: expected finite distances between at least two references")
    between_samples = _off_diagonal(samples_samples, "samples_samples")
    return float(between_samples[between_samples.isfinite()].mean() / between_references.mean())


def _off_diagonal(matrix: Tensor | np.ndarray, name: str) -> Tensor:
    square = check_matrix(matrix, name)
    if len(square) != square.shape[1]:
        raise ValueError(f"{name}: expected a square matrix, got shape {tuple(square.shape)}")
    return square[~torch.eye(len(square), dtype=torch.bool)]


class OneNearestNeighbour(NamedTuple):
    """Leave-one-out accuracies of a classifier by the nearest neighbour; 0.5 is ideal, and lower is not better.

    Attributes:
        accuracy: share of all clouds that have their nearest neighbour in their own set.
        references: share of the references whose nearest neighbour is a reference.
        samples: share of the samples whose nearest neighbour is a sample.
    """

    accuracy: float
    references: float
    samples: float


def one_nearest_neighbour(
    samples_samples: Tensor | np.ndarray,
    references_references: Tensor | np.ndarray,
    samples_references: Tensor | np.ndarray,
) -> OneNearestNeighbour:
    """1-nearest-neighbour accuracy (1-NNA) with both of its halves: a two-sample test.

    Lopez-Paz and Oquab, Revisiting classifier two-sample tests, ICLR 2017; Yang et al., PointFlow, ICCV 2019. Every
    cloud is classified by its nearest neighbour among all others. If both sets come from one distribution and are of
    one size, accuracy is about 0.5. Above, they can be told apart; below, samples are near to references without being
    like other samples, as copies are. Always look at both halves: samples that cluster around few references give a
    high half and a low one, with a mean near 0.5.

    Where the nearest sample and the nearest reference are equally near, the cloud counts one half, so that order does
    not matter. A failed sample (NaN distances) counts as told apart, and is no cloud's neighbour.

    Args:
        samples_samples: (S, S); the diagonal is not looked at.
        references_references: (R, R); the diagonal is not looked at.
        samples_references: (S, R), a row for each sample.

    Returns:
        The accuracy and its two halves, each in [0, 1].

    Raises:
        TypeError: not numbers.
        ValueError: shapes that do not fit each other, one sample or one reference, or NaN distances of a reference.

    Examples:
        >>> near = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> one_nearest_neighbour(near, near, near + 9)  # two clusters, each of one kind
        OneNearestNeighbour(accuracy=1.0, references=1.0, samples=1.0)
    """
    nearest, failed = _pool(samples_samples, references_references, samples_references)
    num_references = len(nearest) - int((~failed).sum())
    is_reference = torch.arange(len(nearest)) < num_references
    correct = _told_apart(nearest, is_reference.unsqueeze(1)).squeeze(1)
    of_references, of_samples = correct[:num_references].sum(), correct[num_references:].sum() + failed.sum()
    return OneNearestNeighbour(
        float((of_references + of_samples) / (num_references + len(failed))),
        float(of_references / num_references),
        float(of_samples / len(failed)),
    )


class PermutationInterval(NamedTuple):
    """The interval of a metric if samples and references are of one distribution.

    Attributes:
        mean: mean over permutations.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def permutation_interval(
    samples_samples: Tensor | np.ndarray,
    references_references: Tensor | np.ndarray,
    samples_references: Tensor | np.ndarray,
    *,
    permutations: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[PermutationInterval, PermutationInterval, PermutationInterval]:
    """Intervals of `one_nearest_neighbour` under the null hypothesis, by a permutation test.

    The null hypothesis is that samples and references are of one distribution. The labels of all clouds are permuted,
    which leaves the distances as they are (Lopez-Paz and Oquab, ICLR 2017, with permuted labels instead of their normal
    approximation). Failed samples are left out of the permutations, since no reference fails.

    Args:
        samples_samples: (S, S).
        references_references: (R, R).
        samples_references: (S, R), a row for each sample.
        permutations: how many, at least 1.
        level: share of the permutations inside the interval.
        seed: of the permutations.

    Returns:
        Intervals of the accuracy, of the references' half and of the samples' half. All NaN if fewer than two samples
        did not fail.

    Raises:
        TypeError: not numbers.
        ValueError: as `one_nearest_neighbour`; fewer than one permutation, or a level outside (0, 1).

    Examples:
        >>> distances = torch.cdist(torch.randn(80, 3), torch.randn(80, 3))
        >>> accuracy, *_ = permutation_interval(distances[:40, :40], distances[40:, 40:], distances[:40, 40:])
        >>> 0.35 < accuracy.low < accuracy.mean < accuracy.high < 0.65
        True
    """
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, got {level}")
    nearest, failed = _pool(samples_samples, references_references, samples_references)
    num_samples = int((~failed).sum())
    num_references = len(nearest) - num_samples
    if num_samples < 2:
        nothing = PermutationInterval(torch.nan, torch.nan, torch.nan)
        return nothing, nothing, nothing
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(len(nearest), permutations, generator=generator, dtype=torch.float64).argsort(0)
    is_reference = ranks < num_references
    correct = _told_apart(nearest, is_reference)
    halves = [(correct * is_reference).sum(0) / num_references, (correct * ~is_reference).sum(0) / num_samples]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    accuracy, references, samples = (
        PermutationInterval(float(values.mean()), *values.quantile(tails).tolist())
        for values in [correct.mean(0), *halves]
    )
    return accuracy, references, samples


@dataclass(frozen=True)
class SetMetric:
    """A metric of two sets in a report: `prefix-cd` for the Chamfer distance, and the same with other suffixes.

    Args:
        prefix: of its keys.
        title: in tables.
        meaning: a sentence below tables.
        compute: from the distances within samples, within references, and between samples and references, a number
            for each of `parts`.
        parts: how the keys of one distance end.
        is_rate: whether it is in [0, 1], and shown in percent.
    """

    prefix: str
    title: str
    meaning: str
    compute: Callable[[Tensor, Tensor, Tensor], tuple[float, ...]]
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
    one_nearest_neighbour,
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
        lambda own, theirs, cross: (coverage(cross),),
        is_rate=True,
    ),
    SetMetric(
        "mmd",
        "MMD",
        "MMD: mean distance from a reference to its nearest sample, in the unit of the distance.",
        lambda own, theirs, cross: (minimum_matching_distance(cross),),
    ),
    SetMetric(
        "spread",
        "spread",
        "Spread: mean distance of two samples over that of two references; 1 is ideal, near 0 is collapse.",
        lambda own, theirs, cross: (spread(own, theirs),),
    ),
)


def _pool(
    samples_samples: Tensor | np.ndarray,
    references_references: Tensor | np.ndarray,
    samples_references: Tensor | np.ndarray,
) -> tuple[Tensor, Tensor]:
    """Whether a cloud is a nearest neighbour of another, (R + S', R + S'), references first; and failures, (S,)."""
    cross = cross_distances(samples_references)
    num_samples, num_references = cross.matrix.shape
    own = {}
    for name, matrix, count in [
        ("samples_samples", samples_samples, num_samples),
        ("references_references", references_references, num_references),
    ]:
        own[name] = check_matrix(matrix, name).clone()
        if own[name].shape != (count, count):
            raise ValueError(
                f"{name}: expected shape ({count}, {count}), since samples_references has {num_samples} samples (rows) "
                f"and {num_references} references (columns), got {tuple(own[name].shape)}"
            )
        if count < 2:
            raise ValueError(
                f"{name}: expected at least two clouds, since a neighbour must be another one, got {count}"
            )
        own[name].fill_diagonal_(0.0)
    there = ~cross.failed
    samples = own["samples_samples"][there][:, there]
    for name, matrix in [("samples_samples", samples), ("references_references", own["references_references"])]:
        if not matrix.isfinite().all():
            raise ValueError(
                f"{name}: some distances are not finite though those to the other set are; a NaN reference cannot be "
                "compared with, and a NaN sample gives NaN in its rows of both matrices"
            )
    between = cross.matrix[there]
    pooled = torch.cat([torch.cat([own["references_references"], between.T], 1), torch.cat([between, samples], 1)])
    pooled.fill_diagonal_(torch.inf)
    return pooled == pooled.amin(1, keepdim=True), cross.failed


def _told_apart(nearest: Tensor, is_reference: Tensor) -> Tensor:
    """Whether each cloud's neighbours are of its own kind, (n, P); one half where both kinds are among the nearest.

    Args:
        nearest: (n, n), whether the column's cloud is a nearest neighbour of the row's.
        is_reference: (n, P), for each of P labellings.
    """
    # Counts of neighbours, of which there are fewer than 2^24: float32 holds them exactly.
    counts = nearest.float() @ is_reference.float()
    a_reference = counts > 0
    a_sample = counts < nearest.sum(1, keepdim=True)
    own = torch.where(is_reference, a_reference, a_sample)
    return torch.where(a_reference & a_sample, 0.5, own.double())

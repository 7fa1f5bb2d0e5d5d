"""Can samples be told from references? Accuracies of the nearest neighbour (1-NNA), and what chance makes of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.cross_distances import check_matrix, cross_distances

__all__ = ["OneNearestNeighbour", "PermutationInterval", "one_nearest_neighbour", "permutation_interval"]


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

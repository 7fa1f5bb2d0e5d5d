"""The scores of sampled clouds beside references, for the comparison of model families."""

from __future__ import annotations

from torch import Tensor

from pyro_pcflow.metrics.matrices import pairwise
from pyro_pcflow.metrics.occupancy import jensen_shannon
from pyro_pcflow.metrics.set_metrics import coverage, minimum_matching_distance, one_nearest_neighbour


def score(samples: Tensor, references: Tensor, within_references: Tensor | None = None) -> dict[str, float]:
    """Set metrics of samples beside references; rates are in [0, 1].

    The distance is the Chamfer distance: both means of squared distances to the nearest, summed. A sample with a
    coordinate that is not finite counts against the model, as the functions of `pcf.metrics` say.

    Args:
        samples: shape `(S, N, D)`.
        references: shape `(S, N, D)`.
        within_references: `pairwise(references)`, for many sets of samples; computed by default.

    Returns:
        `1-nna-cd` with its halves `1-nna-cd-ref` and `1-nna-cd-smp`, `cov-cd`, `mmd-cd` in squared units of the data,
        `jsd` in bits with a grid of 28 cells a side around the references, and `spread-cd`: the mean distance of two
        samples over that of two references, of finite samples.

    Raises:
        ValueError: if the shapes differ, or there are fewer than two clouds.
    """
    if samples.shape != references.shape or samples.dim() != 3 or len(samples) < 2:
        raise ValueError(
            "expected at least two samples and as many references, with as many points, both of shape (S, N, D), got "
            f"{tuple(samples.shape)} and {tuple(references.shape)}"
        )
    within, between = pairwise(samples), pairwise(samples, references)
    real = pairwise(references) if within_references is None else within_references
    neighbours = one_nearest_neighbour(within, real, between)
    return {
        "1-nna-cd": neighbours.accuracy,
        "1-nna-cd-ref": neighbours.references,
        "1-nna-cd-smp": neighbours.samples,
        "cov-cd": coverage(between),
        "mmd-cd": minimum_matching_distance(between),
        "jsd": jensen_shannon(samples, references),
        "spread-cd": _mean_of_pairs(within) / _mean_of_pairs(real),
    }


def _mean_of_pairs(within: Tensor) -> float:
    """The mean distance of two clouds, of those that have distances; NaN if there are not two."""
    there = ~within.diagonal().isnan()
    count = int(there.sum())
    # The diagonal is zero.
    return float(within[there][:, there].sum() / (count * (count - 1))) if count > 1 else float("nan")

"""Outlier and out-of-distribution detection by likelihood: areas under the ROC curve (AUROC)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.stats import rankdata
from torch import Tensor

__all__ = ["OutOfDistribution", "auroc", "gaussian_complexity", "out_of_distribution_auroc", "outlier_auroc"]


def auroc(positives: Tensor, negatives: Tensor) -> float:
    """The area under the receiver operating characteristic: how often a positive scores above a negative.

    Exactly, by ranks, with ties counted one half (Hanley and McNeil, Radiology 143, 1982; the statistic of Mann and
    Whitney).

    Args:
        positives: scores of any shape, higher where something is more likely to be positive; infinities are allowed.
        negatives: scores of any shape.

    Returns:
        In [0, 1]; 0.5 tells nothing.

    Raises:
        ValueError: no scores, or NaN among them.

    Examples:
        >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))  # 1 + 1/2 + 1 + 1 of 4 pairs
        0.875
    """
    for name, scores in [("positives", positives), ("negatives", negatives)]:
        if not scores.numel():
            raise ValueError(f"{name}: there are no scores in it")
        if scores.isnan().any():
            number = int(scores.isnan().sum())
            raise ValueError(f"{name}: {number} of {scores.numel()} scores are NaN, which have no rank")
    above, below = (scores.detach().double().cpu().flatten() for scores in (positives, negatives))
    ranks = rankdata(torch.cat([above, below]).numpy())[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def outlier_auroc(log_density: Tensor, is_outlier: Tensor) -> float:
    """How well a log-density tells outlying points from the others: AUROC of its negative.

    Args:
        log_density: of points, of any shape and in any unit.
        is_outlier: booleans of the same shape.

    Returns:
        In [0, 1]; 1 if every outlier is less likely than every other point.

    Raises:
        ValueError: different shapes, not booleans, NaN, or points of one kind only.

    Examples:
        >>> outlier_auroc(torch.tensor([0.5, -3.0, 1.0]), torch.tensor([False, True, False]))
        1.0
    """
    if is_outlier.dtype != torch.bool or is_outlier.shape != log_density.shape:
        raise ValueError(
            f"is_outlier: expected booleans of shape {tuple(log_density.shape)}, got {is_outlier.dtype} of shape "
            f"{tuple(is_outlier.shape)}"
        )
    if is_outlier.all() or not is_outlier.any():
        raise ValueError(
            f"is_outlier: expected outliers and others, got {int(is_outlier.sum())} of {is_outlier.numel()}"
        )
    return auroc(-log_density[is_outlier], -log_density[~is_outlier])


class OutOfDistribution(NamedTuple):
    """How well out-of-distribution clouds are detected; `raw` is always shown beside `corrected`.

    Attributes:
        raw: AUROC of the negative log-likelihood.
        corrected: AUROC after the correction, or None without one.
        correction: its name.
    """

    raw: float
    corrected: float | None
    correction: str


def gaussian_complexity(clouds: Tensor) -> Tensor:
    """Negative log-likelihood of each cloud under the Gaussian that fits it best, in nats per point.

    `(D log(2 pi e) + log det S) / 2` with the covariance `S` of the cloud's own points: the number of nats of a coder
    that knows nothing but the cloud's extent.

    Args:
        clouds: (*batch, N, D), finite.

    Returns:
        (*batch,) of float64.

    Raises:
        ValueError: no more points than coordinates, coordinates that are not finite, or a flat cloud, whose covariance
            is singular.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> complexity = gaussian_complexity(torch.randn(100_000, 2))
        >>> abs(complexity.item() - math.log(2 * math.pi * math.e)) < 0.01
        True
    """
    if clouds.dim() < 2 or clouds.shape[-2] <= clouds.shape[-1]:
        raise ValueError(f"clouds: expected shape (*batch, N, D) with more points than D, got {tuple(clouds.shape)}")
    if not clouds.isfinite().all():
        raise ValueError("clouds: some coordinates are not finite")
    centered = clouds.detach().double()
    centered = centered - centered.mean(-2, keepdim=True)
    # By singular values of the points: those of the covariance would lose half of the digits of a thin cloud.
    sides = torch.linalg.svdvals(centered) / math.sqrt(clouds.shape[-2])
    flat = sides[..., -1] <= 1e-12 * sides[..., 0]
    if flat.any():
        raise ValueError(f"clouds: {int(flat.sum())} of {flat.numel()} are flat, and fit a Gaussian without a density")
    return clouds.shape[-1] / 2 * math.log(2 * math.pi * math.e) + sides.log().sum(-1)


def out_of_distribution_auroc(
    inside: Tensor,
    outside: Tensor,
    *,
    inside_complexity: Tensor | None = None,
    outside_complexity: Tensor | None = None,
    correction: str = "gaussian complexity",
) -> OutOfDistribution:
    """How well the likelihood of a model tells clouds of another kind from those of its own kind.

    A raw likelihood is often higher for simple out-of-distribution clouds (Nalisnick et al., Do deep generative models
    know what they don't know?, ICLR 2019). Serra et al. (Input complexity and out-of-distribution detection with
    likelihood-based generative models, ICLR 2020) subtract what a general coder needs: the score is
    `-log p(x) - L(x)`. With `gaussian_complexity` as `L` it is also a likelihood ratio as that of Ren et al.
    (Likelihood ratios for out-of-distribution detection, NeurIPS 2019), where the background model is a Gaussian fitted
    to the cloud itself.

    Args:
        inside: log-likelihood of each cloud of the model's own kind, (S,); per point where sizes differ.
        outside: log-likelihood of each cloud of another kind, (R,), in the same unit.
        inside_complexity: of the same clouds, in the same unit as `inside` (nats per point or per cloud), (S,).
        outside_complexity: of the other clouds, (R,).
        correction: its name, for reports.

    Returns:
        The AUROC of the raw likelihood, and of the corrected one if complexities are given.

    Raises:
        ValueError: one complexity without the other, different shapes, or NaN.

    Examples:
        >>> own, simple = torch.tensor([1.0, 1.2]), torch.tensor([1.5, 1.6])
        >>> out_of_distribution_auroc(own, simple)
        OutOfDistribution(raw=0.0, corrected=None, correction='none')
        >>> out_of_distribution_auroc(own, simple, inside_complexity=own + 2, outside_complexity=simple - 3)
        OutOfDistribution(raw=0.0, corrected=1.0, correction='gaussian complexity')
    """
    raw = auroc(-outside, -inside)
    if inside_complexity is None and outside_complexity is None:
        return OutOfDistribution(raw, None, "none")
    if inside_complexity is None or outside_complexity is None:
        raise ValueError("inside_complexity and outside_complexity: expected both or none, got one of them")
    if inside_complexity.shape != inside.shape or outside_complexity.shape != outside.shape:
        raise ValueError(
            f"complexities: expected the shapes of the likelihoods, {tuple(inside.shape)} and {tuple(outside.shape)}, "
            f"got {tuple(inside_complexity.shape)} and {tuple(outside_complexity.shape)}"
        )
    corrected = auroc(-outside.cpu() - outside_complexity.cpu(), -inside.cpu() - inside_complexity.cpu())
    return OutOfDistribution(raw, corrected, correction)

"""Distances by nearest neighbours: Chamfer distance in seven conventions, Hausdorff distance, F-score."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_pcflow.metrics.neighbour_search import Convention, nearest_index
from pyro_pcflow.metrics.pairs import CloudPairs, check_choice, pair_clouds

__all__ = ["CHAMFER_CONVENTIONS", "FScore", "chamfer", "f_score", "hausdorff"]


CHAMFER_CONVENTIONS = {
    "squared_sum": Convention(2, "mean", "sum"),
    "squared_mean": Convention(2, "mean", "mean"),
    "squared_max": Convention(2, "mean", "max"),
    "squared_total": Convention(2, "total", "sum"),
    "distance_sum": Convention(1, "mean", "sum"),
    "distance_mean": Convention(1, "mean", "mean"),
    "distance_max": Convention(1, "mean", "max"),
}
HAUSDORFF = Convention(1, "max", "max")


def chamfer(
    x: Tensor,
    y: Tensor,
    convention: str = "squared_sum",
    *,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """The Chamfer distance between clouds: how far each point is from the nearest one of the other cloud.

    With `d(p, Y) = min over q in Y of |p - q|`, means over the points of the cloud, and `u` the data's unit:

    | convention | formula | unit | papers |
    | --- | --- | --- | --- |
    | `"squared_sum"` | `mean d(x, Y)^2 + mean d(y, X)^2` | `u^2` | PointFlow (Yang et al. 2019), PVD, LION |
    | `"squared_mean"` | half of that | `u^2` | |
    | `"squared_max"` | `max(mean d(x, Y)^2, mean d(y, X)^2)` | `u^2` | |
    | `"squared_total"` | `sum d(x, Y)^2 + sum d(y, X)^2` | `u^2` | Fan, Su and Guibas 2017 |
    | `"distance_sum"` | `mean d(x, Y) + mean d(y, X)` | `u` | PCN (Yuan et al. 2018), in its paper |
    | `"distance_mean"` | half of that | `u` | Occupancy Networks (Mescheder et al. 2019): "Chamfer-L1"; PCN's code |
    | `"distance_max"` | `max(mean d(x, Y), mean d(y, X))` | `u` | FoldingNet (Yang et al. 2018) |

    It is symmetric, and zero only for equal sets of points, however often each point is repeated; the triangle
    inequality does not hold. The nearest points are exact, found in float64 on a CPU, and distances come from
    differences of coordinates, so that points far from the origin keep their digits. Differentiable almost everywhere:
    the gradient holds the nearest neighbours fixed.

    Args:
        x: (*batch, N, D) of float32 or float64.
        y: (*batch, M, D); batch shapes broadcast, M need not be N.
        convention: one of the names above.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, M) boolean.

    Returns:
        (*batch,), in the dtype of the clouds. A pair with a NaN or an infinity in a cloud has the distance NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: an unknown convention, different dimensions or devices, an empty cloud, or a wrong mask.

    Examples:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> chamfer(x, y)  # (4 + 5) / 2 + 4
        tensor(8.5000)
        >>> chamfer(torch.randn(6, 1, 100, 3), torch.randn(7, 50, 3), "distance_mean").shape
        torch.Size([6, 7])
    """
    check_choice(convention, tuple(CHAMFER_CONVENTIONS), "convention")
    pairs = pair_clouds(x, y, x_mask, y_mask)
    return pairs.finish(combine_ways(pairs, *both_ways(pairs), CHAMFER_CONVENTIONS[convention]))


def hausdorff(x: Tensor, y: Tensor, *, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
    """The Hausdorff distance between clouds: the farthest that a point is from the nearest one of the other cloud.

    `max(max over x of d(x, Y), max over y of d(y, X))`, a metric on sets of points. Differentiable almost everywhere.

    Args:
        x: (*batch, N, D) of float32 or float64.
        y: (*batch, M, D); batch shapes broadcast, M need not be N.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, M) boolean.

    Returns:
        (*batch,), in the data's units. A pair with a NaN or an infinity in a cloud has the distance NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: different dimensions or devices, an empty cloud, or a wrong mask.

    Examples:
        >>> hausdorff(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(5.)
    """
    pairs = pair_clouds(x, y, x_mask, y_mask)
    return pairs.finish(combine_ways(pairs, *both_ways(pairs), HAUSDORFF))


class FScore(NamedTuple):
    """Rates of points of one cloud that lie near the other, each of shape `(*batch,)` and in [0, 1].

    Attributes:
        precision: of `x` near `y`.
        recall: of `y` near `x`.
        f_score: their harmonic mean.
    """

    precision: Tensor
    recall: Tensor
    f_score: Tensor


def f_score(
    x: Tensor,
    y: Tensor,
    threshold: float,
    *,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> FScore:
    """How much of a cloud is right, and how much of the truth it covers, within a tolerance.

    Precision is the share of points of x that are nearer than `threshold` to a point of y, recall the share of points
    of y that are nearer than that to a point of x, and the F-score is `2 P R / (P + R)`, or 0 where both are 0
    (Knapitsch et al., Tanks and Temples, 2017). Not differentiable.

    Args:
        x: the cloud to judge, (*batch, N, D) of float32 or float64.
        y: the reference, (*batch, M, D); batch shapes broadcast, M need not be N.
        threshold: in the data's units, a positive number.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, M) boolean.

    Returns:
        Precision, recall and F-score. All three are NaN for a pair with a NaN or an infinity in a cloud.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: a threshold that is not positive, different dimensions or devices, an empty cloud, or a wrong mask.

    Examples:
        >>> x, y = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.1], [0.2], [5.0], [9.1]])
        >>> f_score(x, y, threshold=0.5)
        FScore(precision=tensor(1.), recall=tensor(0.7500), f_score=tensor(0.8571))
    """
    if not (isinstance(threshold, (int, float)) and 0 < threshold < math.inf):
        raise ValueError(f"threshold: expected a positive number in the data's units, got {threshold!r}")
    pairs = pair_clouds(x, y, x_mask, y_mask)
    with torch.no_grad():
        near_x, near_y = ((distances < threshold).to(x.dtype) for distances in both_ways(pairs))
        share = CHAMFER_CONVENTIONS["distance_mean"]
        precision, recall = _reduce(near_x, pairs.x_mask, share), _reduce(near_y, pairs.y_mask, share)
        both = precision + recall
        harmonic = torch.where(both > 0, 2 * precision * recall / torch.where(both > 0, both, 1.0), 0.0)
        return FScore(pairs.finish(precision), pairs.finish(recall), pairs.finish(harmonic))


def both_ways(pairs: CloudPairs) -> tuple[Tensor, Tensor]:
    """Distances from each point of x to y, (B, N), and from each point of y to x, (B, M)."""
    return (
        _distances(pairs.x, pairs.y, pairs.y_mask),
        _distances(pairs.y, pairs.x, pairs.x_mask),
    )


def combine_ways(pairs: CloudPairs, there: Tensor, back: Tensor, convention: Convention) -> Tensor:
    """Reduce distances of both directions to one number per pair, (B,)."""
    return convention.join_ways(_reduce(there, pairs.x_mask, convention), _reduce(back, pairs.y_mask, convention))


def _reduce(distances: Tensor, mask: Tensor, convention: Convention) -> Tensor:
    values = torch.where(mask, distances**convention.power, 0.0)
    if convention.reduction == "max":
        return values.amax(-1)
    return values.sum(-1) if convention.reduction == "total" else values.sum(-1) / mask.sum(-1)


def _distances(points: Tensor, others: Tensor, others_mask: Tensor) -> Tensor:
    index = nearest_index(points, others, others_mask)
    nearest = others.gather(1, index.unsqueeze(-1).expand(-1, -1, others.shape[-1]))
    return torch.linalg.vector_norm(points - nearest, dim=-1)

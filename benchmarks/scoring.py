"""The scores of sampled clouds beside references, for the comparison of model families."""

from __future__ import annotations

import torch
from torch import Tensor

# Cells of a side of the grid of the Jensen-Shannon divergence.
RESOLUTION = 28
# Distances between points that are computed at once.
AT_ONCE = 2**24


def score(samples: Tensor, references: Tensor) -> dict[str, float]:
    """Set metrics of samples beside references; rates are in [0, 1].

    - `1-nna-cd`, with the halves `1-nna-cd-ref` and `1-nna-cd-smp`: how often the nearest other cloud is of the own
      kind, 0.5 is ideal (Lopez-Paz and Oquab, Revisiting classifier two-sample tests, ICLR 2017). Of equally near
      clouds the first counts, samples before references.
    - `cov-cd`: share of references that are nearest to some sample, and `mmd-cd`: mean distance of a reference to
      the nearest sample, in squared units of the data (Achlioptas et al., ICML 2018).
    - `jsd`: Jensen-Shannon divergence in nats between the shares of points in the cells of a grid of 28 cells a side
      over the bounding box of the references; points beyond it count in the outermost cells.
    - `spread-cd`: mean distance between two samples over that between two references.

    The distance is the Chamfer distance: both means of squared distances to the nearest, summed.

    Args:
        samples: shape `(S, N, D)`.
        references: shape `(S, N, D)`.

    Raises:
        ValueError: if the shapes differ, there are fewer than two clouds, or a coordinate is not finite.
    """
    if samples.shape != references.shape or samples.dim() != 3 or len(samples) < 2:
        raise ValueError(
            "expected at least two samples and as many references, with as many points, both of shape (S, N, D), got "
            f"{tuple(samples.shape)} and {tuple(references.shape)}"
        )
    if not bool(samples.isfinite().all() and references.isfinite().all()):
        raise ValueError("a coordinate is not finite: such samples have no distances, and count as a failed training")
    count = len(samples)
    within, between, real = (
        chamfer_matrix(*pair) for pair in ((samples, samples), (samples, references), (references, references))
    )
    everything = torch.cat([torch.cat([within, between], 1), torch.cat([between.mT, real], 1)])
    nearest = everything.fill_diagonal_(torch.inf).argmin(1)
    smp, ref = float((nearest[:count] < count).double().mean()), float((nearest[count:] >= count).double().mean())
    return {
        "1-nna-cd": (smp + ref) / 2,
        "1-nna-cd-ref": ref,
        "1-nna-cd-smp": smp,
        "cov-cd": len(between.argmin(1).unique()) / count,
        "mmd-cd": float(between.amin(0).mean()),
        "jsd": jensen_shannon(samples, references),
        "spread-cd": float(_off_diagonal_mean(within) / _off_diagonal_mean(real)),
    }


def chamfer_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Chamfer distances of clouds `(S, N, D)` and `(R, M, D)`: `(S, R)`, in float64."""
    # The matrix product of cdist loses digits of small distances, so it only says which point is the nearest.
    rows = []
    at_once = max(1, AT_ONCE // (x.shape[1] * y.shape[1]))
    for cloud in x:
        parts = []
        for others in y.split(at_once):
            own = cloud.expand(len(others), -1, -1)
            distances = torch.cdist(own, others)
            there = _squared(own, others, distances.argmin(2))
            back = _squared(others, own, distances.argmin(1))
            parts.append(there + back)
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _squared(x: Tensor, y: Tensor, nearest: Tensor) -> Tensor:
    difference = x.double() - y.double().take_along_dim(nearest.unsqueeze(-1), 1)
    return difference.square().sum(-1).mean(-1)


def _off_diagonal_mean(matrix: Tensor) -> Tensor:
    count = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1))


def jensen_shannon(samples: Tensor, references: Tensor) -> float:
    """Jensen-Shannon divergence of all points of both, in nats, see `score`."""
    low, high = references.amin((0, 1)), references.amax((0, 1))
    p, q = (_occupancy(clouds, low, high) for clouds in (samples, references))
    used = p + q > 0
    p, q = p[used], q[used]
    middle = (p + q) / 2
    return float((torch.xlogy(p, p / middle).sum() + torch.xlogy(q, q / middle).sum()) / 2)


def _occupancy(clouds: Tensor, low: Tensor, high: Tensor) -> Tensor:
    dim = clouds.shape[-1]
    cells = ((clouds - low) / (high - low) * RESOLUTION).long().clamp(0, RESOLUTION - 1).reshape(-1, dim)
    index = (cells * RESOLUTION ** torch.arange(dim, device=cells.device)).sum(-1)
    return torch.bincount(index, minlength=RESOLUTION**dim).double() / len(index)

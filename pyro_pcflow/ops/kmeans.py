"""k-means clustering of points."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["kmeans"]

# Rounds in which the first centres are drawn: one each, unless there are more of them.
ROUNDS = 32


def kmeans(points: Tensor, count: int, generator: torch.Generator, num_steps: int = 10) -> tuple[Tensor, Tensor]:
    """Centres of `count` clusters, and the cluster of each point.

    Lloyd's algorithm from the centres of k-means++ (Arthur and Vassilvitskii, k-means++: The advantages of careful
    seeding, SODA 2007).

    Args:
        points: shape `(N, D)`, finite, on the CPU, of at least `count` values.
        count: number of clusters `K`.
        generator: of the random numbers.
        num_steps: most steps of Lloyd's algorithm.

    Returns:
        Centres of shape `(K, D)`, and whole numbers of shape `(N,)`.

    Raises:
        ValueError: if the points take too few values.

    Examples:
        >>> points = torch.tensor([[0.0], [0.2], [9.0], [9.2]])
        >>> centres, labels = kmeans(points, 2, torch.Generator().manual_seed(0))
        >>> sorted(centres.flatten().tolist()), bool(labels[0] == labels[1] != labels[2])
        ([0.10000000149011612, 9.100000381469727], True)
    """
    chosen = torch.randint(len(points), (1,), generator=generator)
    centres, distance = points[chosen], torch.full_like(points[:, 0], torch.inf)
    while True:
        distance = torch.minimum(distance, torch.cdist(points, points[chosen]).square().amin(-1))
        if len(centres) == count:
            break
        apart = int(distance.count_nonzero())
        if not apart:
            raise ValueError(f"cannot find {count} clusters in points that take only {len(centres)} values")
        # Many are drawn at once, as in k-means|| (Bahmani et al., Scalable k-means++, VLDB 2012).
        num_chosen = min(max(1, count // ROUNDS), count - len(centres), apart)
        chosen = torch.multinomial(distance, num_chosen, generator=generator)
        centres = torch.cat([centres, points[chosen]])
    labels = _nearest(points, centres)
    for _ in range(num_steps):
        sizes = torch.bincount(labels, minlength=count).unsqueeze(-1).to(points)
        means = torch.zeros_like(centres).index_add_(0, labels, points) / sizes
        # A cluster that lost all of its points stays where it is.
        centres = torch.where(sizes > 0, means, centres)
        before, labels = labels, _nearest(points, centres)
        if torch.equal(labels, before):
            break
    return centres, labels


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.from_numpy(cKDTree(centres.numpy()).query(points.numpy())[1])

"""Which rows of the data are held out, and in which order the others are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_pcflow.ops.random import seeded_generator

__all__ = ["Epochs", "check_share", "first_equal", "set_apart"]


class Epochs:
    """Batches of rows without replacement, in an order that follows from the seed and the step alone.

    A training that is resumed at some step needs no memory of the batches before it. An epoch drops the rows that fill
    no batch; the next one drops others.

    Args:
        count: number of rows.
        batch_size: rows per batch; all of them where there are fewer.
        seed: decides the order.
        device: where the numbers of rows are needed.

    Examples:
        >>> epochs = Epochs(10, batch_size=5, seed=0)
        >>> torch.cat([epochs.rows(0), epochs.rows(1)]).sort().values.tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, count: int, batch_size: int, seed: int, device: torch.device | None = None) -> None:
        self.count = count
        self.batch_size = min(batch_size, count)
        self._seed = seed
        self._device = torch.device("cpu") if device is None else device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> Tensor:
        """Numbers of the rows of the step that follows `step` earlier ones, shape `(batch_size,)`."""
        epoch, index = divmod(step, self.count // self.batch_size)
        if epoch != self._epoch:
            order = torch.randperm(self.count, generator=seeded_generator(self._seed, f"epoch {epoch}"))
            self._order = order.to(self._device)
            self._epoch = epoch
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]


def check_share(held_out: float, kind: str) -> None:
    """Raise a `ValueError` unless a share of points or clouds can be set apart."""
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out must be a share in [0, 1) or {kind}, got {held_out}")


def first_equal(points: Tensor) -> Tensor:
    """For each point the number of the first one that equals it in every coordinate, its own if there is none.

    Args:
        points: shape (M, D), finite.

    Returns:
        Shape (M,), on the CPU.

    Examples:
        >>> first_equal(torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])).tolist()
        [0, 1, 0]
    """
    # Sorted by every coordinate in turn, equal points are neighbours, the first of them in front.
    order = torch.arange(len(points), device=points.device)
    for coordinate in points.unbind(-1):
        order = order[coordinate[order].argsort(stable=True)]
    ordered = points[order]
    starts = torch.ones(len(points), dtype=torch.bool, device=points.device)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(-1)
    first = torch.empty_like(order)
    first[order] = order[starts][starts.cumsum(0) - 1]
    return first.cpu()


def set_apart(first: Tensor, share: float, most: int, seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """Draw a share of different rows, each with every row that equals it.

    Args:
        first: for each row the number of the first one that equals it, shape (M,), see `first_equal`.
        share: of the rows that differ, in (0, 1).
        most: how many of them are drawn at most, and how many rows are returned as drawn.
        seed: decides which.
        kind: what the rows are called in an error.

    Returns:
        Numbers of the rows that stay, in order, and of those that were drawn.

    Raises:
        ValueError: if nothing would stay, or be drawn.
    """
    different = (first == torch.arange(len(first))).nonzero().flatten()
    count = min(round(share * len(different)), most)
    if not 0 < count < len(different):
        raise ValueError(
            f"held_out={share} of {len(different)} different {kind} leaves {len(different) - count} to train on and "
            f"{count} to evaluate on: give more {kind}, or held_out=0 for no evaluation"
        )
    order = torch.randperm(len(different), generator=seeded_generator(seed, "split"))
    place = torch.empty_like(first)
    place[different[order]] = torch.arange(len(different))
    place = place[first]
    drawn = (place < count).nonzero().flatten()
    drawn = drawn[place[drawn].argsort(stable=True)]
    if len(drawn) > most:
        some = torch.randperm(len(drawn), generator=seeded_generator(seed, "held-out copies"))[:most]
        drawn = drawn[some.sort().values]
    return (place >= count).nonzero().flatten(), drawn

"""From data to training points, held-out points and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_pcflow.ops.random import seeded_generator

__all__ = [
    "Batches",
    "Split",
    "as_points",
    "as_tensor",
    "check_share",
    "first_equal",
    "set_apart",
    "split_points",
]

# Enough for a standard error below 0.01 nats per point, and evaluated in a blink.
MAX_HELD_OUT = 20_000


def as_points(data: Any, dtype: torch.dtype, point_dim: int | None, name: str = "data") -> Tensor:
    """Check data and flatten it to points.

    Args:
        data: shape (N, D) or (S, N, D), a tensor, an array, or a `Dataset` of items of shape (D,) or (N, D).
        dtype: data type of the points.
        point_dim: expected number of coordinates `D`, or None for any.
        name: what the data is called in an error.

    Returns:
        Points of shape (M, D).

    Raises:
        TypeError: if the data is not numeric.
        ValueError: if it is empty, of another shape, or not finite; the message names the first bad point.
    """
    if isinstance(data, Dataset):
        points = _from_dataset(data, name)
    else:
        points = as_tensor(data, name)
        if points.dim() not in (2, 3):
            raise ValueError(f"{name}: expected shape (N, D) or (S, N, D), got {tuple(points.shape)}")
    if points.numel() == 0:
        raise ValueError(f"{name}: expected at least one point, got shape {tuple(points.shape)}")
    if point_dim is not None and points.shape[-1] != point_dim:
        raise ValueError(
            f"{name}: its points have {points.shape[-1]} coordinates (shape {tuple(points.shape)}), but the module "
            f"expects {point_dim}"
        )
    points = points.detach().to(dtype)
    bad = (~points.isfinite().all(-1)).nonzero()
    if len(bad):
        first = ", ".join(map(str, bad[0].tolist()))
        raise ValueError(
            f"{name}: {len(bad)} of {points.numel() // points.shape[-1]} points are NaN or infinite in {dtype}, the "
            f"first at index ({first})"
        )
    return points.reshape(-1, points.shape[-1])


@dataclass(frozen=True)
class Split:
    """Points to train on, shape (M, D), and points to evaluate on, shape (K, D) or None."""

    training: Tensor
    held_out: Tensor | None


def split_points(points: Tensor, held_out: float | Tensor, *, seed: int, noise: float) -> Split:
    """Set points apart for evaluation. A point that occurs several times is on one side only.

    Args:
        points: shape (M, D).
        held_out: the share of points to draw, at most 20,000 points, none at 0; or the points themselves.
        seed: decides which points are drawn, and the noise on them.
        noise: standard deviation of the Gaussian noise that is added once to the points that are evaluated, drawn or
            given.

    Raises:
        ValueError: if the share is not in [0, 1), or leaves nothing to train or to evaluate on.

    Examples:
        >>> split = split_points(torch.randn(100, 3), 0.2, seed=0, noise=0.0)
        >>> split.training.shape, split.held_out.shape
        (torch.Size([80, 3]), torch.Size([20, 3]))
    """
    if isinstance(held_out, Tensor):
        return Split(points, _with_noise(held_out, noise, seed))
    check_share(held_out, "points")
    if held_out == 0:
        return Split(points, None)
    training, drawn = (
        rows.to(points.device) for rows in set_apart(first_equal(points), held_out, MAX_HELD_OUT, seed, "points")
    )
    return Split(points[training], _with_noise(points[drawn], noise, seed))


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
    """Draw a share of different things, each with everything that equals it.

    Args:
        first: for each thing the number of the first one that equals it, shape (M,), see `first_equal`.
        share: of the things that differ, in (0, 1).
        most: how many of them are drawn at most, and how many things are returned as drawn.
        seed: decides which.
        kind: what the things are called in an error.

    Returns:
        Numbers of the things that stay, in order, and of those that were drawn.

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


class Batches:
    """Batches of points without replacement, in an order that follows from the seed and the step alone.

    A training that is resumed at some step needs no memory of the batches before it. An epoch drops the points
    that fill no batch; the next one drops others. Noise comes from torch's generator of the points' device.

    Args:
        points: shape (M, D).
        batch_size: points per batch; all of them where there are fewer.
        seed: decides the order.
        noise: standard deviation of the Gaussian noise that is added to every batch, fresh each time.

    Examples:
        >>> batches = Batches(torch.arange(10.0).reshape(10, 1), batch_size=5, seed=0)
        >>> torch.cat([batches.batch(0), batches.batch(1)]).flatten().sort().values.tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """

    def __init__(self, points: Tensor, batch_size: int, seed: int, noise: float = 0.0) -> None:
        self.points = points
        self.batch_size = min(batch_size, len(points))
        self.noise = noise
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def batch(self, step: int) -> Tensor:
        """The batch of the step that follows `step` earlier ones, shape (batch_size, D)."""
        epoch, index = divmod(step, len(self.points) // self.batch_size)
        if epoch != self._epoch:
            order = torch.randperm(len(self.points), generator=seeded_generator(self._seed, f"epoch {epoch}"))
            self._order = order.to(self.points.device)
            self._epoch = epoch
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        batch = self.points.index_select(0, chosen)
        return batch.add_(torch.randn_like(batch), alpha=self.noise) if self.noise else batch


def _with_noise(points: Tensor, noise: float, seed: int) -> Tensor:
    if noise == 0:
        return points
    noises = torch.randn(points.shape, dtype=points.dtype, generator=seeded_generator(seed, "held-out noise"))
    return points + noise * noises.to(points.device)


def as_tensor(data: Any, name: str) -> Tensor:
    """A tensor or an array as a tensor, or a `TypeError` that calls it by its name."""
    if isinstance(data, np.ndarray) and not (data.flags.writeable and data.flags.c_contiguous):
        # torch warns about memory that it may not write to, and cannot read it backwards.
        data = data.copy()
    try:
        points = torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a tensor, an array or a Dataset of points, got {type(data).__name__} ({error})"
        ) from error
    if points.is_complex():
        raise TypeError(f"{name}: expected real coordinates, got {points.dtype}")
    return points


def _from_dataset(data: Any, name: str) -> Tensor:
    try:
        count = len(data)
    except TypeError as error:
        raise TypeError(f"{name}: expected a Dataset with a length and indices, got {type(data).__name__}") from error
    items: list[Tensor] = []
    for index in range(count):
        item = data[index]
        # A TensorDataset of one tensor hands out tuples of one.
        if isinstance(item, tuple) and len(item) == 1:
            (item,) = item
        points = as_tensor(item, f"{name}, item {index}")
        if points.dim() not in (1, 2) or (items and points.shape[-1] != items[0].shape[-1]):
            expected = f" with D = {items[0].shape[-1]}" if items else ""
            raise ValueError(
                f"{name}, item {index}: expected shape (D,) or (N, D){expected}, got {tuple(points.shape)}"
            )
        items.append(points.reshape(-1, points.shape[-1]))
    if not items:
        raise ValueError(f"{name}: expected at least one point, got an empty {type(data).__name__}")
    return torch.cat(items)

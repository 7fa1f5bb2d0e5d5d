"""The mathematics of a coupling: split a point by a mask, map the moved coordinates, and merge it again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["affine_map", "merge", "split", "tanh_bound"]

# Coordinates are taken one by one up to this many, and by their indices beyond. Many points of few coordinates go
# through views several times faster; few points of 64, as latents are, by indices.
FEW_COORDINATES = 8


def split(mask: Sequence[bool], points: Tensor) -> tuple[Tensor, Tensor]:
    """Split points into their kept and their moved coordinates.

    Args:
        mask: `D` booleans, True where a coordinate is kept; both kinds occur.
        points: shape `(*batch, D)`.

    Returns:
        Shapes `(*batch, kept)` and `(*batch, moved)`.

    Examples:
        >>> kept, moved = split([True, False, True], torch.tensor([1.0, 2.0, 3.0]))
        >>> kept.tolist(), moved.tolist()
        ([1.0, 3.0], [2.0])
    """
    if len(mask) > FEW_COORDINATES:
        order = _kept_before_moved(mask, points.device)
        of_kept, of_moved = points.index_select(-1, order).tensor_split([sum(mask)], -1)
        return of_kept, of_moved
    kept: list[Tensor] = []
    moved: list[Tensor] = []
    for coordinate, keep in zip(points.unbind(-1), mask, strict=True):
        (kept if keep else moved).append(coordinate)
    return torch.stack(kept, -1), torch.stack(moved, -1)


def merge(mask: Sequence[bool], kept: Tensor, moved: Tensor) -> Tensor:
    """Invert `split`: points of shape `(*batch, D)`.

    Examples:
        >>> merge([True, False, True], torch.tensor([1.0, 3.0]), torch.tensor([2.0])).tolist()
        [1.0, 2.0, 3.0]
    """
    if len(mask) > FEW_COORDINATES:
        order = _kept_before_moved(mask, kept.device)
        return torch.cat([kept, moved], -1).index_select(-1, order.argsort())
    of_kept, of_moved = iter(kept.unbind(-1)), iter(moved.unbind(-1))
    return torch.stack([next(of_kept if keep else of_moved) for keep in mask], -1)


def _kept_before_moved(mask: Sequence[bool], device: torch.device) -> Tensor:
    """The indices of the kept coordinates, then those of the moved ones."""
    return torch.tensor(sorted(range(len(mask)), key=lambda index: not mask[index]), device=device)


def tanh_bound(x: Tensor, limit: float) -> Tensor:
    """Bound `x` smoothly to `(-limit, limit)`, with slope 1 at zero.

    Args:
        x: any shape.
        limit: positive bound.
    """
    return limit * torch.tanh(x / limit)


def affine_map(x: Tensor, shift: Tensor, log_scale: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Scale and shift the moved coordinates: `x * exp(log_scale) + shift` from data to noise.

    Args:
        x: moved coordinates, shape `(*batch, moved)`.
        shift: likewise.
        log_scale: likewise.
        inverse: from data to noise, or back.

    Returns:
        Images and log-derivatives of each coordinate, both of shape `(*batch, moved)`.
    """
    if inverse:
        return torch.addcmul(shift, x, torch.exp(log_scale)), log_scale
    return (x - shift) * torch.exp(-log_scale), -log_scale

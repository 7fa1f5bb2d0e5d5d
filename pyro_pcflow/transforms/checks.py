"""Checks of points and contexts, whose errors say which shape was expected."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_context", "check_point_shape", "check_points"]


def check_points(points: Tensor, point_dim: int) -> None:
    """Raise unless `points` is a tensor of shape `(*batch, point_dim)`."""
    if not isinstance(points, Tensor):
        raise TypeError(
            f"expected points as a torch.Tensor of shape (*batch, {point_dim}), got {type(points).__name__}; "
            "torch.as_tensor makes one"
        )
    check_point_shape(points.shape, point_dim)


def check_point_shape(shape: torch.Size, point_dim: int) -> None:
    """Raise a `ValueError` unless `shape` ends in `point_dim`."""
    if len(shape) < 1 or shape[-1] != point_dim:
        raise ValueError(
            f"expected points of shape (*batch, {point_dim}), got a tensor of shape {tuple(shape)}: its last "
            f"dimension must hold the {point_dim} coordinates of a point"
        )


def check_context(context: Tensor, context_dim: int) -> Tensor:
    """Return the context, or raise unless it is a tensor of shape `(*batch, context_dim)`."""
    if not isinstance(context, Tensor):
        raise TypeError(f"expected a context as a torch.Tensor, got {type(context).__name__}")
    if context.dim() < 1 or context.shape[-1] != context_dim:
        raise ValueError(
            f"expected a context of shape (*batch, {context_dim}), got a tensor of shape "
            f"{tuple(context.shape)}: its last dimension must hold the context of one cloud"
        )
    return context

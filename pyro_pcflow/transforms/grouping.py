"""Points in groups that share a context, so that what depends on the context is computed once per cloud."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Groups"]


class Groups:
    """Points in groups, each under a context of its own.

    Args:
        batch_shape: of the points.
        context_shape: batch shape of the contexts, which broadcasts to that of the points; None without context.

    Examples:
        >>> groups = Groups(torch.Size([4, 100]), torch.Size([4, 1]))
        >>> groups.count, groups.size
        (4, 100)
        >>> groups.gather(torch.randn(4, 100, 3)).shape
        torch.Size([4, 100, 3])
    """

    def __init__(self, batch_shape: torch.Size, context_shape: torch.Size | None) -> None:
        padded = (1,) * len(batch_shape) if context_shape is None else context_shape
        padded = (1,) * (len(batch_shape) - len(padded)) + tuple(padded)
        apart = [i for i, size in enumerate(padded) if size != 1]
        together = [i for i, size in enumerate(padded) if size == 1]
        self._order = [*apart, *together]
        self._shape = [batch_shape[i] for i in self._order]
        self.count = math.prod([batch_shape[i] for i in apart])
        self.size = math.prod([batch_shape[i] for i in together])

    def gather(self, points: Tensor) -> Tensor:
        """Points of shape `(*batch, D)` in groups, shape `(G, N, D)`."""
        return points.permute(*self._order, -1).reshape(self.count, self.size, points.shape[-1])

    def contexts(self, context: Tensor | None) -> Tensor | None:
        """Contexts of shape `(*context_batch, C)`, one for each group, shape `(G, C)`."""
        return None if context is None else context.reshape(self.count, context.shape[-1])

    def scatter(self, values: Tensor) -> Tensor:
        """What belongs to points, of shape `(G, N, *rest)`, back to `(*batch, *rest)`."""
        values = values.reshape([*self._shape, *values.shape[2:]])
        back = [self._order.index(i) for i in range(len(self._order))]
        return values.permute([*back, *range(len(back), values.dim())])

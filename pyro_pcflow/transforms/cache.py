"""What a transform remembers of the last tensor that it produced, and when it may believe it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_pcflow.ops.tracing import is_traced

__all__ = ["Product"]

Dependencies = Callable[[], list[Tensor]]


@dataclass(eq=False)
class Product:
    """A tensor that a transform produced, with all that is needed to know that it would produce it again.

    The product is held weakly, and everything else is dropped at the moment when it dies.
    """

    product: weakref.ref[Tensor]
    origin: _Origin | None

    @classmethod
    def remember(cls, product: Tensor, source: Tensor, log_det: Tensor, dependencies: Dependencies) -> Product | None:
        """Keep where a product came from; None where nothing may be remembered."""
        # A tensor that stands for another one must not leak out, and no values could be compared. One that is its own
        # source would keep itself alive.
        if is_traced(product) or product is source:
            return None
        made, parameters = [product, source, log_det], dependencies()
        if not _can_be_compared([*made, *parameters]):
            return None
        origin = _Origin(
            source=source,
            log_det=log_det,
            marks=_marks([*made, *parameters]),
            copies=[tensor.detach().clone() for tensor in made],
            parameters=_joined(parameters),
            grad_enabled=torch.is_grad_enabled(),
        )
        memory = cls(weakref.ref(product), origin)
        # The callback must not keep the memory alive, which it would in a circle.
        memory.product = weakref.ref(product, partial(_forget, weakref.ref(memory)))
        return memory

    def source_of(self, product: Tensor, dependencies: Dependencies) -> Tensor | None:
        """The source of `product`, if it is the remembered one and would be produced again to the last bit."""
        origin = self.origin_of(product, dependencies)
        return None if origin is None else origin[0]

    def origin_of(self, product: Tensor, dependencies: Dependencies) -> tuple[Tensor, Tensor] | None:
        """The source of `product` and the log-determinant from it, under the same condition as `source_of`."""
        origin = self.origin
        if (
            is_traced(product)
            or origin is None
            or self.product() is not product
            or torch.is_grad_enabled() != origin.grad_enabled
        ):
            return None
        # Listing and comparing takes a while, so that strangers are turned away first.
        made, parameters = [product, origin.source, origin.log_det], dependencies()
        unchanged = (
            _can_be_compared([*made, *parameters])
            and _marks([*made, *parameters]) == origin.marks
            and all(map(torch.equal, made, origin.copies))
            and torch.equal(_joined(parameters), origin.parameters)
        )
        return (origin.source, origin.log_det) if unchanged else None

    def log_det_between(self, source: Tensor, product: Tensor, dependencies: Dependencies) -> Tensor | None:
        """The log-determinant from `source` to `product`, if they are the remembered pair."""
        if self.origin is None or self.origin.source is not source:
            return None
        origin = self.origin_of(product, dependencies)
        return None if origin is None else origin[1]


@dataclass(frozen=True, eq=False)
class _Origin:
    """Where a product came from, and all that the answer depends on as it was then.

    Marks and versions alone would miss what is written through NumPy or through `.data`, as Pyro's own ClippedAdam
    does, and values alone what is written in place as a part of a graph.
    """

    source: Tensor
    log_det: Tensor
    marks: list[tuple[int, int, bool]]
    copies: list[Tensor]
    parameters: Tensor
    grad_enabled: bool


def _forget(memory: weakref.ref[Product], _: object) -> None:
    product = memory()
    if product is not None:
        product.origin = None


def _can_be_compared(tensors: Sequence[Tensor]) -> bool:
    device = tensors[0].device
    return not any(tensor.device != device or tensor.is_inference() for tensor in tensors)


def _marks(tensors: Sequence[Tensor]) -> list[tuple[int, int, bool]]:
    return [(id(tensor), tensor._version, tensor.requires_grad) for tensor in tensors]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of many small tensors in one, which is faster to copy and to compare."""
    if not tensors:
        return torch.empty(0)
    return torch.cat([tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors])

"""The cache of a transform: its last output, and when the cached inverse and log-determinant may be believed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_pcflow.ops.tracing import is_traced

__all__ = ["CacheEntry"]

Dependencies = Callable[[], list[Tensor]]


@dataclass(eq=False)
class CacheEntry:
    """An output of a transform, with all that is needed to know that it would be the output again.

    The output is held weakly, and everything else is dropped at the moment when it dies.
    """

    output: weakref.ref[Tensor]
    origin: _Origin | None

    @classmethod
    def make(cls, output: Tensor, source: Tensor, log_det: Tensor, dependencies: Dependencies) -> CacheEntry | None:
        """Keep where an output came from; None where nothing may be cached."""
        # A tensor that stands for another one must not leak out, and no values could be compared. One that is its own
        # source would keep itself alive.
        if is_traced(output) or output is source:
            return None
        made, parameters = [output, source, log_det], dependencies()
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
        entry = cls(weakref.ref(output), origin)
        # The callback must not keep the entry alive, which it would in a circle.
        entry.output = weakref.ref(output, partial(_forget, weakref.ref(entry)))
        return entry

    def source_of(self, output: Tensor, dependencies: Dependencies) -> Tensor | None:
        """The source of `output`, if it is the cached one and would come out again to the last bit."""
        origin = self.origin_of(output, dependencies)
        return None if origin is None else origin[0]

    def origin_of(self, output: Tensor, dependencies: Dependencies) -> tuple[Tensor, Tensor] | None:
        """The source of `output` and the log-determinant from it, under the same condition as `source_of`."""
        origin = self.origin
        if (
            is_traced(output)
            or origin is None
            or self.output() is not output
            or torch.is_grad_enabled() != origin.grad_enabled
        ):
            return None
        # Listing and comparing takes a while, so other tensors are told apart first.
        made, parameters = [output, origin.source, origin.log_det], dependencies()
        unchanged = (
            _can_be_compared([*made, *parameters])
            and _marks([*made, *parameters]) == origin.marks
            and all(map(torch.equal, made, origin.copies))
            and torch.equal(_joined(parameters), origin.parameters)
        )
        return (origin.source, origin.log_det) if unchanged else None

    def log_det_between(self, source: Tensor, output: Tensor, dependencies: Dependencies) -> Tensor | None:
        """The log-determinant from `source` to `output`, if they are the cached pair."""
        if self.origin is None or self.origin.source is not source:
            return None
        origin = self.origin_of(output, dependencies)
        return None if origin is None else origin[1]


@dataclass(frozen=True, eq=False)
class _Origin:
    """Where an output came from, and all that the answer depends on as it was then.

    Marks and versions alone would miss what is written through NumPy or through `.data`, as Pyro's own ClippedAdam
    does, and values alone what is written in place as a part of a graph.
    """

    source: Tensor
    log_det: Tensor
    marks: list[tuple[int, int, bool]]
    copies: list[Tensor]
    parameters: Tensor
    grad_enabled: bool


def _forget(reference: weakref.ref[CacheEntry], _: object) -> None:
    entry = reference()
    if entry is not None:
        entry.origin = None


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

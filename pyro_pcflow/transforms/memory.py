"""What a transform remembers of the last tensor that it produced, and when it may believe it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_pcflow.kernels.backends import in_function_transform

__all__ = ["Product", "is_traced"]

Dependencies = Callable[[], list[Tensor]]


@dataclass(eq=False)
class Product:
    """A tensor that a transform produced, with all that is needed to know that it would produce it again.

    The product is held weakly; where it came from is forgotten at the moment when it dies.
    """

    product: weakref.ref[Tensor]
    origin: tuple[Tensor, Tensor] | None
    versions: tuple[int, int]
    identity: list[tuple[int, int]]
    values: Tensor
    grad_enabled: bool

    @classmethod
    def remember(cls, product: Tensor, source: Tensor, log_det: Tensor, dependencies: Dependencies) -> Product | None:
        """Keep where a product came from; None where nothing may be remembered."""
        # A tensor that stands for another one must not leak out, and no values could be compared.
        if is_traced(product) or not _may_remember(product, tensors := dependencies()):
            return None
        memory = cls(
            product=weakref.ref(product),
            origin=(source, log_det),
            versions=(product._version, source._version),
            identity=_identity(tensors),
            values=_values(tensors),
            grad_enabled=torch.is_grad_enabled(),
        )
        # The callback must not keep the memory alive, which it would in a circle.
        memory.product = weakref.ref(product, partial(_forget, weakref.ref(memory)))
        return memory

    def source_of(self, product: Tensor, dependencies: Dependencies) -> Tensor | None:
        """The source of `product`, if it is the remembered one and would be produced again to the last bit."""
        origin = self.origin_of(product, dependencies)
        return None if origin is None else origin[0]

    def origin_of(self, product: Tensor, dependencies: Dependencies) -> tuple[Tensor, Tensor] | None:
        """The source of `product` and the log-determinant from it, under the same condition as `source_of`."""
        return self.origin if self._made(product, dependencies) else None

    def log_det_between(self, source: Tensor, product: Tensor, dependencies: Dependencies) -> Tensor | None:
        """The log-determinant from `source` to `product`, if they are the remembered pair."""
        if self.origin is None or self.origin[0] is not source or not self._made(product, dependencies):
            return None
        return self.origin[1]

    def _made(self, product: Tensor, dependencies: Dependencies) -> bool:
        if (
            is_traced(product)
            or self.origin is None
            or self.product() is not product
            or (product._version, self.origin[0]._version) != self.versions
            or torch.is_grad_enabled() != self.grad_enabled
        ):
            return False
        # Listing all parameters takes a while, so that strangers are turned away first.
        tensors = dependencies()
        return (
            _may_remember(product, tensors)
            and _identity(tensors) == self.identity
            and torch.equal(_values(tensors), self.values)
        )


def _forget(memory: weakref.ref[Product], _: object) -> None:
    product = memory()
    if product is not None:
        product.origin = None


def is_traced(tensor: Tensor) -> bool:
    """Whether a tensor's values cannot be looked at: inside a tracer, a function transform or a CUDA graph."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or in_function_transform()
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _may_remember(product: Tensor, dependencies: list[Tensor]) -> bool:
    return not (
        product.is_inference()
        or any(tensor.device != product.device or tensor.is_inference() for tensor in dependencies)
    )


def _identity(dependencies: list[Tensor]) -> list[tuple[int, int]]:
    return [(id(tensor), tensor._version) for tensor in dependencies]


def _values(dependencies: list[Tensor]) -> Tensor:
    # Versions alone would miss writes through `.data`, which Pyro's own ClippedAdam makes.
    if not dependencies:
        return torch.empty(0)
    with torch.no_grad():
        return torch.cat([tensor.detach().reshape(-1) for tensor in dependencies])

"""A second device where there is none: to find the tensor that stays behind, without a GPU.

    with pretended_device() as device:
        flow.to(device).log_prob(points.to(device))

Its tensors lie in the CPU's memory, and its arithmetic and its random numbers are the CPU's, so that every number is
that of the CPU. But it refuses what a GPU refuses: to mix its tensors with the CPU's, to give them to NumPy, and to
draw by a generator of the CPU. What only a real GPU has, such as its kernels and their rounding, is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# A type of device that torch knows and has no kernels for, so that nothing escapes from the modes below.
DEVICE = torch.device("lazy", 0)
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
# torch lets a GPU's tensor be indexed by one of the CPU.
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class PretendedTensor(Tensor):
    """A tensor of the CPU, `inner`, that says of itself that it lies on the pretended device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"PretendedTensor({self.inner})"


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation of torch on the tensors within, if all of them are where they must be."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    pretended = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, PretendedTensor)}
    left_behind = [tensor for tensor in tensors if tensor.dim() and not isinstance(tensor, PretendedTensor)]
    if pretended and left_behind and func not in MOVES | INDEXING:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu")
    target = kwargs.get("device")
    here = target == DEVICE if target is not None else bool(pretended)
    if here and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func}: expected a generator of {DEVICE}, found one of {kwargs['generator'].device}")
    if target == DEVICE:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in pretended:  # written in place
            return pretended[id(leaf)]
        return PretendedTensor(leaf) if here else leaf

    if func is torch.ops.aten.copy_.default:
        return args[0]
    return tree_map(wrap, result)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, PretendedTensor) else leaf


class _Kernels(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Conversions(TorchFunctionMode):
    """What torch does between Python and memory before any mode sees it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.data.__set__ and isinstance(args[0], PretendedTensor):
            args[0].inner = args[1].inner
        if func is Tensor.tolist and isinstance(args[0], PretendedTensor):
            return args[0].inner.tolist()
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") not in (None, "cpu", torch.device("cpu")):
            device = kwargs.pop("device")
            if isinstance(args[0], Tensor):
                return args[0].to(device, kwargs.get("dtype"))
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], PretendedTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Within it, the device can be used as another."""
    with _Conversions(), _Kernels():
        yield DEVICE

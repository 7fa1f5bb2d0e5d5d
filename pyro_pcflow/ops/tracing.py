"""Whether the values of a tensor can be read here, or torch is tracing or transforming the function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["in_function_transform", "is_traced"]


def is_traced(tensor: Tensor) -> bool:
    """Whether a tensor's values cannot be read: inside a tracer, a function transform or a CUDA graph."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or in_function_transform()
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def in_function_transform() -> bool:
    """Whether a function transform of torch, such as vmap, or forward differentiation is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0

"""Checksums of arrays."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["array_sha256", "sha256_of"]


def sha256_of(*parts: str | Tensor | np.ndarray | None) -> str:
    """SHA-256 of texts and of the values of arrays, one after the other.

    Values alone do not tell shapes and types apart: say what matters of them in a text.

    Args:
        *parts: texts, hashed as UTF-8; arrays, hashed as the bytes of their numbers in C order, little-endian; None,
            which adds nothing.

    Returns:
        64 hexadecimal digits.

    Examples:
        >>> sha256_of("abc")[:8], sha256_of(torch.zeros(2, 3))[:8]
        ('ba7816bf', '9d908ecf')
    """
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            digest.update(part.encode() if isinstance(part, str) else _bytes_of(part))
    return digest.hexdigest()


def array_sha256(array: Tensor | np.ndarray) -> str:
    """A checksum of the type, the shape and the numbers of an array.

    Args:
        array: of any shape.

    Returns:
        64 hexadecimal digits: SHA-256 of `<dtype> <shape>`, a line feed, and the numbers as of `sha256_of`.

    Examples:
        >>> array_sha256(torch.zeros(2, 3))[:8], array_sha256(torch.zeros(3, 2))[:8]
        ('aaae406d', '7736fc7e')
    """
    dtype = str(array.dtype).removeprefix("torch.") if isinstance(array, Tensor) else array.dtype.name
    return sha256_of(f"{dtype} {'x'.join(map(str, array.shape))}\n", array)


def _bytes_of(array: Tensor | np.ndarray) -> Any:
    if isinstance(array, Tensor):
        # By way of bytes, since numpy does not know bfloat16.
        return array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data

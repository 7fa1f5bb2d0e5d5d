"""The log-sum-exp over the columns of a product of matrices that is never stored as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.tracing import is_traced

__all__ = ["log_sum_exp_of_product"]

# Elements of a block of the product: it stays in the cache of a core, and fills a GPU.
BLOCK_ON_CPU = 2**16
BLOCK_ON_GPU = 2**24
# Exponentials that underflow are several times as slow on a CPU; this one is lost beside 1 in any data type.
LEAST = -60.0


def log_sum_exp_of_product(rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """`log sum_k exp((rows @ columns)[..., k])`, in memory that does not grow with the size of the product.

    The product is formed block by block, and once more in the backward pass, as attention is in Dao et al.,
    FlashAttention, NeurIPS 2022. A second derivative, and whatever is traced, takes the product as a whole.

    Args:
        rows: shape `(G, N, Q)`.
        columns: shape `(G, Q, K)`.
        dtype: of the exponentials, which may be narrower than that of the product.

    Returns:
        Shape `(G, N)`, in the data type of the product.
    """
    if is_traced(rows):
        return _as_a_whole(rows, columns)
    # A product into a transposed matrix takes three times as long.
    return _LogSumExpOfProduct.apply(rows, columns.contiguous(), dtype)


def _as_a_whole(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.matmul(rows, columns).logsumexp(-1)


class _LogSumExpOfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
        out = rows.new_empty(rows.shape[:-1])
        for block in _blocks(rows, columns):
            groups, _ = block
            product = torch.matmul(rows[block], columns[groups])
            largest = product.amax(-1, keepdim=True)
            total = product.sub_(largest).to(dtype).clamp_(min=LEAST).exp_().sum(-1)
            out[block] = total.log_().to(out.dtype) + largest.squeeze(-1)
        ctx.save_for_backward(rows, columns, out)
        ctx.dtype = dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, columns, out = ctx.saved_tensors
        of_rows, of_columns, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            # These gradients may be differentiated again.
            wanted = [x for x, want in ((rows, of_rows), (columns, of_columns)) if want]
            found = iter(torch.autograd.grad(_as_a_whole(rows, columns), wanted, grad, create_graph=True))
            return next(found) if of_rows else None, next(found) if of_columns else None, None
        grad_rows = torch.empty_like(rows) if of_rows else None
        grad_columns = torch.zeros_like(columns) if of_columns else None
        for block in _blocks(rows, columns):
            groups, _ = block
            product = torch.matmul(rows[block], columns[groups])
            shares = product.sub_(out[block].unsqueeze(-1)).to(ctx.dtype).clamp_(min=LEAST).exp_()
            shares = shares.mul_(grad[block].unsqueeze(-1).to(ctx.dtype)).to(rows.dtype)
            if grad_rows is not None:
                grad_rows[block] = torch.matmul(shares, columns[groups].mT)
            if grad_columns is not None:
                grad_columns[groups].baddbmm_(rows[block].mT, shares)
        return grad_rows, grad_columns, None


def _blocks(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice]]:
    """Groups, and rows of each, whose share of the product is a block."""
    num_groups, num_rows, num_columns = *rows.shape[:-1], columns.shape[-1]
    block = BLOCK_ON_CPU if rows.device.type == "cpu" else BLOCK_ON_GPU
    rows_at_once = max(1, min(num_rows, block // num_columns))
    groups_at_once = max(1, block // (rows_at_once * num_columns))
    for group in range(0, num_groups, groups_at_once):
        for row in range(0, num_rows, rows_at_once):
            yield slice(group, group + groups_at_once), slice(row, row + rows_at_once)

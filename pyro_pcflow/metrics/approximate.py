"""The approximate matching that PointFlow, PVD and LION report as EMD, by its published algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pyro_pcflow.metrics.pairs import LEAST_EXPONENT, CloudPairs, Cost, check_choice, cost_matrix, pair_clouds

__all__ = ["ApproximateEMD", "approximate_emd", "approximate_matching"]

ApproximateEMD = Literal["pointflow", "pvd", "lion"]

# Sharpness of the weights, from near to far.
_LEVELS = tuple(-(4.0**power) for power in range(7, -2, -1))
# The last level of the publication gives what is left to whoever has room.
_ALL_LEVELS = (*_LEVELS, 0.0)
# The published code keeps divisors away from zero by this.
_TINY = 1e-9
# Entries of one matrix, so that the six of a block take some 48 MiB of float32: larger ones leave a CPU's caches.
_BLOCK = 1 << 21


class _Variant(NamedTuple):
    cost: Cost
    levels: tuple[float, ...]


# PointFlow's loop ends one level early (`j > -2` for `j >= -2`, with the latter kept as a comment).
_VARIANTS = {
    "pointflow": _Variant("euclidean", _LEVELS),
    "pvd": _Variant("squared", _ALL_LEVELS),
    "lion": _Variant("squared", _ALL_LEVELS),
}


def approximate_emd(
    x: Tensor,
    y: Tensor,
    variant: ApproximateEMD = "pointflow",
    *,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> Tensor:
    """What papers report as EMD, by the approximate matching that they use. It is not the earth mover's distance.

    Fan, Su and Guibas (A Point Set Generation Network for 3D Object Reconstruction from a Single Image, 2017) published
    a matching for GPUs, in which each point of x hands out one unit to points of y, which take one unit each. For the
    levels `a = -4^7, -4^6, ..., -4^-1, 0`, with `l` and `r` what the points of x and y have left:

        K_ij = exp(a |x_i - y_j|^2)
        u_i  = l_i / (sum_j K_ij r_j + 1e-9)                  each x divides what it has left
        s_j  = r_j sum_i K_ij u_i                             what y_j is offered
        v_j  = r_j min(r_j / (s_j + 1e-9), 1)                 and takes, at most what it has left
        match_ij += u_i K_ij v_j
        r_j  = max(0, r_j - s_j),   l_i = max(0, l_i - sum_j u_i K_ij v_j)

    The result is `1/N sum_ij match_ij c(x_i, y_j)`, with a cost `c` by variant:

    | variant | cost | levels | unit |
    | --- | --- | --- | --- |
    | `"pointflow"` | Euclidean, `c(p, q) = norm(p - q)` | without the last, 0 | `u` |
    | `"pvd"`, `"lion"` | squared, `c(p, q) = norm(p - q)^2` | all | `u^2` |

    The matching is not the best one, so on clouds of surfaces the result is often tens of percent above `emd`. It is
    not symmetric; it is not zero between a cloud and itself; and as the levels are fixed, it does not scale with the
    unit of the data. **With `"pointflow"`, what is left after the level `-4^-1` stays unmatched and costs nothing:
    clouds that lie several units apart come out nearer than they are, in the end at zero.** Its figures mean something
    only between clouds of a standard deviation near 1, as PointFlow has them. Figures compare only with figures of the
    same variant, in the same normalisation and the same order: between sets, both PointFlow's and PVD's evaluation
    take a reference for x and a sample for y.

    The algorithm is that of the published kernels: `approxmatch.cu` of PointFlow at commit 4e6795a, `emd_kernel.cu` of
    PVD at 8540aa8 and of LION at 1d24a78.

    The published code is in float32 on GPUs; here the arithmetic has the dtype of the clouds, on any device.
    Differentiable as there: the gradient holds the matching fixed.

    Memory: without gradients some 48 MiB of float32, or six matrices of N x N for one pair, whichever is more. With
    gradients, some 2 D + 4 such matrices for every pair of the batch.

    Args:
        x: (*batch, N, D) of float32 or float64.
        y: (*batch, N, D); batch shapes broadcast.
        variant: one of the names above.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, N) boolean, with as many points as the x of the same pair.

    Returns:
        (*batch,), in the dtype of the clouds. A pair with a NaN or an infinity in a cloud has the distance NaN.

    Raises:
        TypeError: not tensors of one dtype, float32 or float64.
        ValueError: different numbers of points, an unknown variant, different dimensions or devices, an empty cloud, or
            a wrong mask.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(2, 256, 3)
        >>> from pyro_pcflow.metrics import emd
        >>> bool(approximate_emd(x, y) > emd(x, y))
        True
        >>> bool(approximate_emd(x, y) == approximate_emd(y, x))
        False
    """
    check_choice(variant, get_args(ApproximateEMD), "variant")
    pairs = pair_clouds(x, y, x_mask, y_mask)
    pairs.require_equal_counts("approximate_emd")
    chosen = _VARIANTS[variant]
    block = max(1, _BLOCK // (pairs.x.shape[1] * pairs.y.shape[1]))
    totals = [_total(pairs, slice(first, first + block), chosen) for first in range(0, len(pairs.x), block)]
    total = torch.cat(totals) if totals else pairs.x.new_zeros(0)
    return pairs.finish(total / pairs.x_mask.sum(-1))


def _total(pairs: CloudPairs, some: slice, variant: _Variant) -> Tensor:
    x, y = pairs.x[some], pairs.y[some]
    match = approximate_matching(x.detach(), y.detach(), pairs.x_mask[some], pairs.y_mask[some], variant.levels)
    return (match * cost_matrix(x, y, variant.cost)).sum((-1, -2))


def approximate_matching(
    x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor, levels: Sequence[float] = _ALL_LEVELS
) -> Tensor:
    """The matching of `approximate_emd`.

    Args:
        x: (B, N, D), finite.
        y: (B, M, D), finite.
        x_mask: (B, N) boolean.
        y_mask: (B, M) boolean, with as many points as x.
        levels: sharpness of the weights, from the first to the last; by default those of the publication.

    Returns:
        (B, N, M), not negative; rows and columns sum to 1 at most.

    Examples:
        >>> x, there = torch.randn(1, 8, 3), torch.ones(1, 8, dtype=torch.bool)
        >>> approximate_matching(x, x, there, there).shape
        torch.Size([1, 8, 8])
    """
    squared = cost_matrix(x, y, "squared")
    match, kernel = torch.zeros_like(squared), torch.empty_like(squared)
    left, right = x_mask.to(x.dtype).unsqueeze(-1), y_mask.to(x.dtype).unsqueeze(-1)
    for level in levels:
        torch.mul(squared, level, out=kernel)
        kernel.clamp_(min=LEAST_EXPONENT).exp_()
        hand_out = left / (kernel @ right + _TINY)
        offered = right * (kernel.mT @ hand_out)
        taken = right * (right / (offered + _TINY)).clamp(max=1)
        kernel *= hand_out
        left = (left - kernel @ taken).clamp(min=0)
        match.addcmul_(kernel, taken.mT)
        right = (right - offered).clamp(min=0)
    return match

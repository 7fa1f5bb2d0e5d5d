"""Pairs of clouds: checks of shapes, dtypes and masks, and broadcasting to a flat batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "LEAST_EXPONENT",
    "MATRIX_ENTRIES",
    "CloudPairs",
    "Cost",
    "check_choice",
    "check_cloud",
    "check_mask",
    "cost_matrix",
    "nonfinite_clouds",
    "pair_clouds",
]

Cost = Literal["euclidean", "squared"]

# In sums of terms near 1, or with 1e-9 added, a weight of exp(-60) is lost in rounding; where exp underflows, a CPU
# takes about 40 times as long.
LEAST_EXPONENT = -60.0
# Of a block of N x M matrices, so that six take some 48 MiB of float32: larger ones leave a CPU's caches.
MATRIX_ENTRIES = 1 << 21


@dataclass(frozen=True, eq=False)
class CloudPairs:
    """Pairs of clouds of one batch shape, flattened to `B` pairs.

    Points that a mask leaves out, and coordinates that are not finite, are zeros here, so that neither they nor their
    gradients reach a result as `0 * NaN`; `finish` sets the result of a pair with such coordinates to NaN.

    Args:
        x: (B, N, D).
        y: (B, M, D).
        x_mask: (B, N) boolean, true where a point is there.
        y_mask: (B, M) boolean.
        invalid: (B,) boolean, true for a pair with a NaN or an infinity in it.
        batch_shape: the shape that results are given.

    Examples:
        >>> pairs = pair_clouds(torch.zeros(4, 1, 10, 3), torch.zeros(5, 20, 3))
        >>> pairs.x.shape, pairs.finish(torch.zeros(20)).shape
        (torch.Size([20, 10, 3]), torch.Size([4, 5]))
    """

    x: Tensor
    y: Tensor
    x_mask: Tensor
    y_mask: Tensor
    invalid: Tensor
    batch_shape: torch.Size

    def finish(self, values: Tensor) -> Tensor:
        """Reshape results (B,) to the batch shape, with NaN for invalid pairs; their gradients are NaN, too."""
        factor = torch.ones_like(values).masked_fill(self.invalid, torch.nan)
        return (values * factor).reshape(self.batch_shape)

    def require_equal_counts(self, name: str) -> None:
        """Raise a ValueError unless both clouds of each pair have the same number of points."""
        ours, theirs = self.x_mask.sum(-1), self.y_mask.sum(-1)
        if not torch.equal(ours, theirs):
            pair = int((ours != theirs).nonzero()[0, 0])
            raise ValueError(
                f"{name}: expected as many points in x as in y, got {int(ours[pair])} and {int(theirs[pair])}; draw "
                "the same number of points from both, or take chamfer or sinkhorn, which need no equal numbers"
            )


def check_cloud(cloud: Tensor, name: str) -> None:
    """Raise unless a tensor holds clouds, (*batch, N, D) of float32 or float64; `name` is for the message."""
    if not isinstance(cloud, Tensor) or cloud.dtype not in (torch.float32, torch.float64):
        found = f"a {cloud.dtype} tensor" if isinstance(cloud, Tensor) else type(cloud).__name__
        raise TypeError(f"{name}: expected a tensor of float32 or float64, got {found}")
    if cloud.dim() < 2:
        raise ValueError(f"{name}: expected shape (*batch, N, D), got {tuple(cloud.shape)}")
    if 0 in cloud.shape[-2:]:
        raise ValueError(f"{name}: there is no point in it, its shape is {tuple(cloud.shape)}")


def check_mask(mask: Tensor | None, cloud: Tensor, name: str) -> Tensor:
    """A checked mask of the points of clouds, (*batch, N), on their device; all true for None."""
    if mask is None:
        return torch.ones(cloud.shape[:-1], dtype=torch.bool, device=cloud.device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = f"a {mask.dtype} tensor" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{name}: expected a boolean tensor, true where a point is there, got {found}")
    if mask.dim() == 0 or mask.shape[-1] != cloud.shape[-2]:
        raise ValueError(
            f"{name}: expected shape (*batch, {cloud.shape[-2]}), one entry per point, got {tuple(mask.shape)}"
        )
    if not mask.any(-1).all():
        raise ValueError(f"{name}: it leaves no point in some cloud, and a distance to nothing is not defined")
    return mask.to(cloud.device)


def check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    """Raise a ValueError unless a value is one of the choices; `name` is the argument's."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def nonfinite_clouds(clouds: Tensor, mask: Tensor | None = None) -> Tensor:
    """Which clouds (*batch, N, D) have a coordinate that is not finite, of a point that the mask does not leave out."""
    bad = ~clouds.isfinite().all(-1)
    return (bad if mask is None else bad & mask).any(-1)


def pair_clouds(x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> CloudPairs:
    """Check two clouds, or two batches of clouds, and broadcast them to pairs.

    Raises:
        TypeError: not tensors of float32 or float64, or of different dtypes.
        ValueError: different numbers of coordinates, devices or batch shapes; an empty cloud; a wrong mask.
    """
    check_cloud(x, "x")
    check_cloud(y, "y")
    if x.dtype != y.dtype:
        raise TypeError(f"x and y: expected one dtype, got {x.dtype} and {y.dtype}; convert one of them")
    if x.device != y.device:
        raise ValueError(f"x and y: expected one device, got {x.device} and {y.device}; move one of them")
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y: expected points of one dimension, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    x_mask, y_mask = check_mask(x_mask, x, "x_mask"), check_mask(y_mask, y, "y_mask")
    shapes = [x.shape[:-2], y.shape[:-2], x_mask.shape[:-1], y_mask.shape[:-1]]
    try:
        batch_shape = torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        names = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"batch shapes of x, y, x_mask and y_mask do not broadcast: {names}") from error

    def prepare(cloud: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cloud = cloud.expand(*batch_shape, *cloud.shape[-2:]).reshape(-1, *cloud.shape[-2:])
        mask = mask.expand(*batch_shape, mask.shape[-1]).reshape(-1, mask.shape[-1])
        there = mask.unsqueeze(-1) & cloud.isfinite()
        return torch.where(there, cloud, 0.0), mask, nonfinite_clouds(cloud, mask)

    x, x_mask, x_invalid = prepare(x, x_mask)
    y, y_mask, y_invalid = prepare(y, y_mask)
    return CloudPairs(x, y, x_mask, y_mask, x_invalid | y_invalid, batch_shape)


def cost_matrix(x: Tensor, y: Tensor, cost: Cost) -> Tensor:
    """Distances between all points, (*batch, N, M); the gradient of a Euclidean distance of zero is zero."""
    # `|x|^2 + |y|^2 - 2 x.y` would be faster, and cancels between near points that are far from the origin.
    check_choice(cost, get_args(Cost), "cost")
    squared: Tensor | float = 0.0
    for coordinate in range(x.shape[-1]):
        difference = x[..., coordinate].unsqueeze(-1) - y[..., coordinate].unsqueeze(-2)
        squared = squared + difference.square()
    assert isinstance(squared, Tensor)
    if cost == "squared":
        return squared
    if not squared.requires_grad:
        return squared.sqrt()
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)

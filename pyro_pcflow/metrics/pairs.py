"""What callers hand over as two clouds, checked once at the border and made ready for arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "LEAST_EXPONENT",
    "CloudPairs",
    "Cost",
    "check_choice",
    "check_cloud",
    "check_mask",
    "cost_matrix",
    "pair_clouds",
]

Cost = Literal["euclidean", "squared"]

# In sums of terms near 1, or with 1e-9 added, a weight of exp(-60) counts for nothing; where exp underflows, a CPU
# takes some 40 times as long.
LEAST_EXPONENT = -60.0


@dataclass(frozen=True, eq=False)
class CloudPairs:
    """Pairs of clouds of one batch shape, flattened to `B` pairs.

    Points that a mask leaves out, and coordinates that are not finite, are zeros here, so that neither they nor their
    gradients can reach a result by way of `0 * NaN`; `finish` gives the pairs with such coordinates their NaN.

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
        """Give results of shape (B,) their NaNs and their batch shape.

        The NaN is a factor, so that the gradients of such a pair are NaN, too.
        """
        factor = torch.ones_like(values).masked_fill(self.invalid, torch.nan)
        return (values * factor).reshape(self.batch_shape)

    def require_equal_counts(self, name: str) -> None:
        """See that both clouds of each pair have the same number of points.

        Raises:
            ValueError: they do not.
        """
        ours, theirs = self.x_mask.sum(-1), self.y_mask.sum(-1)
        if not torch.equal(ours, theirs):
            pair = int((ours != theirs).nonzero()[0, 0])
            raise ValueError(
                f"{name}: expected as many points in x as in y, got {int(ours[pair])} and {int(theirs[pair])}; draw "
                "the same number of points from both, or take chamfer or sinkhorn, which need no equal numbers"
            )


def check_cloud(cloud: Tensor, name: str) -> None:
    """Check that a tensor can hold clouds.

    Args:
        cloud: (*batch, N, D).
        name: what to call it in an error.

    Raises:
        TypeError: not a tensor of float32 or float64.
        ValueError: no points, or another rank.

    Examples:
        >>> check_cloud(torch.zeros(3, 0, 3), "x")
        Traceback (most recent call last):
            ...
        ValueError: x: there is no point in it, its shape is (3, 0, 3)
    """
    if not isinstance(cloud, Tensor) or cloud.dtype not in (torch.float32, torch.float64):
        found = f"a {cloud.dtype} tensor" if isinstance(cloud, Tensor) else type(cloud).__name__
        raise TypeError(f"{name}: expected a tensor of float32 or float64, got {found}")
    if cloud.dim() < 2:
        raise ValueError(f"{name}: expected shape (*batch, N, D), got {tuple(cloud.shape)}")
    if 0 in cloud.shape[-2:]:
        raise ValueError(f"{name}: there is no point in it, its shape is {tuple(cloud.shape)}")


def check_mask(mask: Tensor | None, cloud: Tensor, name: str) -> Tensor:
    """Check a mask of the points of a cloud, or make one that leaves nothing out.

    Args:
        mask: (*batch, N) boolean, true where a point is there; the batch shape broadcasts with the cloud's.
        cloud: (*batch, N, D).
        name: what to call the mask in an error.

    Returns:
        Boolean, of a shape that ends in N, on the device of the cloud.

    Raises:
        ValueError: not boolean, another shape, or a cloud without a point.

    Examples:
        >>> check_mask(torch.tensor([True, False]), torch.zeros(5, 2, 3), "x_mask").shape
        torch.Size([2])
    """
    if mask is None:
        return torch.ones(cloud.shape[:-1], dtype=torch.bool, device=cloud.device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = f"a {mask.dtype} tensor" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{name}: expected a boolean tensor, true where a point is there, got {found}")
    if mask.dim() == 0 or mask.shape[-1] != cloud.shape[-2]:
        raise ValueError(
            f"{name}: expected shape (*batch, {cloud.shape[-2]}), one entry a point, got {tuple(mask.shape)}"
        )
    if not mask.any(-1).all():
        raise ValueError(f"{name}: it leaves no point in some cloud, and a distance to nothing is not defined")
    return mask.to(cloud.device)


def check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    """Check a name against the ones that there are.

    Args:
        value: what was given.
        choices: what is welcome.
        name: the argument.

    Raises:
        ValueError: it is none of them.

    Examples:
        >>> check_choice("l1", ("euclidean", "squared"), "cost")
        Traceback (most recent call last):
            ...
        ValueError: cost: expected one of 'euclidean', 'squared', got 'l1'
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def pair_clouds(x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> CloudPairs:
    """Check two clouds, or two batches of them, and broadcast them to pairs.

    Args:
        x: (*batch, N, D).
        y: (*batch, M, D), of the same D, dtype and device; batch shapes broadcast.
        x_mask: (*batch, N) boolean, true where a point is there; by default all are.
        y_mask: (*batch, M) boolean.

    Returns:
        The pairs.

    Raises:
        TypeError: not tensors of float32 or float64, or of different dtypes.
        ValueError: different numbers of coordinates, devices or batch shapes; an empty cloud; a wrong mask.

    Examples:
        >>> pair_clouds(torch.zeros(9, 3), torch.zeros(5, 9, 3)).batch_shape
        torch.Size([5])
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
        finite = cloud.isfinite()
        invalid = (mask & ~finite.all(-1)).any(-1)
        return torch.where(mask.unsqueeze(-1) & finite, cloud, 0.0), mask, invalid

    x, x_mask, x_invalid = prepare(x, x_mask)
    y, y_mask, y_invalid = prepare(y, y_mask)
    return CloudPairs(x, y, x_mask, y_mask, x_invalid | y_invalid, batch_shape)


def cost_matrix(x: Tensor, y: Tensor, cost: Cost) -> Tensor:
    """Distances between all points, from differences of coordinates.

    `|x|^2 + |y|^2 - 2 x.y` would be faster and loses all digits of points that are near to each other and far from the
    origin.

    Args:
        x: (*batch, N, D).
        y: (*batch, M, D).
        cost: `"euclidean"`, in the data's units, or `"squared"`.

    Returns:
        (*batch, N, M). The gradient of a Euclidean distance of zero is zero.

    Examples:
        >>> cost_matrix(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "euclidean")
        tensor([[5., 1.]])
    """
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

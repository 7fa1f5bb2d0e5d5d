"""Augmentation: random changes of training clouds that leave them clouds of the same kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.random import seeded, seeded_generator

__all__ = [
    "Augmentation",
    "Mirror",
    "RotateSlightly",
    "ScaleAxes",
    "Shift",
    "as_augmentations",
    "augmented",
    "automatic_augmentations",
    "named",
]

# How much few clouds are changed: the logarithms of the lengths of their axes by `PER_ROOT` over the square root of
# their number, as neighbours are the further apart the fewer they are, and their places by half as much, as a share of
# the standard deviation of points. With 0.2 and 0.1, 52 chairs gained a nat a point on other chairs.
FEW_CLOUDS, PER_ROOT, MOST_SCALED = 400, 1.5, 0.2
# Clouds (B, N, D) to clouds of the same shape, drawing from torch's generators.
Augmentation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, repr=False)
class ScaleAxes:
    """Scale each axis of each cloud by its own factor, `exp(std * n)` with standard normal `n`.

    Args:
        std: standard deviation of the logarithm of a factor: 0.1 for a tenth more or less.
        centre: the point that stays, in the data's units; the origin by default.

    Raises:
        TypeError: if `std` is no number.
        ValueError: if it is negative or infinite; called on points of other than 2 or 3 coordinates, or of others than
            the centre has.

    Examples:
        >>> ScaleAxes()(torch.ones(2, 5, 3)).shape
        torch.Size([2, 5, 3])
    """

    std: float = 0.1
    centre: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_size("std", self.std)

    def __repr__(self) -> str:
        return f"ScaleAxes(std={self.std}{'' if self.centre is None else f', centre={self.centre}'})"

    def __call__(self, clouds: Tensor) -> Tensor:
        _check_dim(self, clouds)
        factors = (self.std * _normal(clouds)).exp()
        if self.centre is None:
            return clouds * factors
        if len(self.centre) != clouds.shape[-1]:
            raise ValueError(f"{self}: points of {clouds.shape[-1]} coordinates have a centre of as many")
        centre = clouds.new_tensor(self.centre)
        return centre + (clouds - centre) * factors


@dataclass(frozen=True)
class Mirror:
    """Mirror each cloud with probability one half, at the plane through the origin where a coordinate is 0.

    Only where a mirrored shape is as likely as the shape: most bodies and chairs, but no shoes or letters.

    Args:
        axis: which coordinate changes its sign, from 0.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is no axis; called on points that lack it, or of other than 2 or 3 coordinates.

    Examples:
        >>> sorted(set(Mirror(axis=1)(torch.ones(50, 1, 2)).flatten().tolist()))
        [-1.0, 1.0]
    """

    axis: int = 0

    def __post_init__(self) -> None:
        _check_axis(self.axis)

    def __call__(self, clouds: Tensor) -> Tensor:
        _check_dim(self, clouds, self.axis)
        signs = torch.ones_like(clouds[:, :1])
        signs[..., self.axis] = 1.0 - 2.0 * torch.randint(2, (len(clouds), 1), device=clouds.device)
        return clouds * signs


@dataclass(frozen=True)
class RotateSlightly:
    """Rotate each cloud about the origin by a normal angle: about a random axis, or one of the coordinates' axes.

    Args:
        degrees: standard deviation of the angle.
        axis: number of the coordinate that stays, from 0, such as the one that is up; None for an axis uniform on the
            sphere. Points of two coordinates turn in their plane, with None.

    Raises:
        TypeError: if a value is no number.
        ValueError: if a value is out of range; called on points of other than 2 or 3 coordinates.

    Examples:
        >>> clouds = torch.randn(4, 100, 3)
        >>> turned = RotateSlightly(degrees=30, axis=2)(clouds)
        >>> torch.allclose(turned.norm(dim=-1), clouds.norm(dim=-1), atol=1e-5)
        True
        >>> torch.equal(turned[..., 2], clouds[..., 2])
        True
    """

    degrees: float = 10.0
    axis: int | None = None

    def __post_init__(self) -> None:
        _check_size("degrees", self.degrees)
        if self.axis is not None:
            _check_axis(self.axis)

    def __call__(self, clouds: Tensor) -> Tensor:
        _check_dim(self, clouds, self.axis)
        if clouds.shape[-1] == 2 and self.axis is not None:
            raise ValueError(f"{self}: points of two coordinates turn in their plane: leave axis out")
        angles = math.radians(self.degrees) * _normal(clouds)[..., :1]
        cosines, sines = angles.cos(), angles.sin()
        if clouds.shape[-1] == 2:
            x, y = clouds.split(1, -1)
            return torch.cat([cosines * x - sines * y, sines * x + cosines * y], -1)
        if self.axis is None:
            axes = torch.nn.functional.normalize(_normal(clouds), dim=-1)
        else:
            axes = torch.eye(3, dtype=clouds.dtype, device=clouds.device)[self.axis].expand(len(clouds), 1, 3)
        # Rodrigues' formula; the part along the axis is kept as it is, to the last bit if it is a coordinate.
        along = (clouds * axes).sum(-1, keepdim=True) * axes
        across = clouds - along
        return along + cosines * across + sines * torch.linalg.cross(axes.expand_as(clouds), across)


@dataclass(frozen=True)
class Shift:
    """Move each cloud as a whole by a normal vector.

    Args:
        std: standard deviation of each coordinate, in the data's units.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is negative or infinite; called on points of other than 2 or 3 coordinates.

    Examples:
        >>> clouds = torch.randn(4, 100, 3)
        >>> moves = Shift(0.1)(clouds) - clouds
        >>> torch.allclose(moves, moves[:, :1].expand_as(moves), atol=1e-6)
        True
    """

    std: float

    def __post_init__(self) -> None:
        _check_size("std", self.std)

    def __call__(self, clouds: Tensor) -> Tensor:
        _check_dim(self, clouds)
        return clouds + self.std * _normal(clouds)


def automatic_augmentations(num_clouds: int, points: Tensor) -> tuple[Augmentation, ...]:
    """What `augment="auto"` stands for: stretched and moved clouds where there are few, nothing where there are many.

    Args:
        num_clouds: number of training clouds.
        points: some of their points, shape `(M, D)`.

    Examples:
        >>> len(automatic_augmentations(FEW_CLOUDS, torch.randn(1000, 3)))
        0
    """
    if num_clouds >= FEW_CLOUDS or points.shape[-1] not in (2, 3) or len(points) < 2:
        return ()
    centre = points.double().mean(0)
    deviation = float((points - centre).square().mean().sqrt())
    std = min(MOST_SCALED, PER_ROOT / math.sqrt(num_clouds))
    # Rounded, so that other machines choose the same.
    return (
        ScaleAxes(_rounded(std, 2), tuple(_rounded(value, 5) for value in centre.tolist())),
        Shift(_rounded(std / 2 * deviation, 5)),
    )


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def as_augmentations(augment: Any) -> tuple[Augmentation, ...]:
    """One augmentation, several in turn, or None, as a tuple.

    Raises:
        TypeError: if one of them cannot be called.
    """
    several = isinstance(augment, Sequence) and not isinstance(augment, str)
    given = augment if several else () if augment is None else (augment,)
    for one in given:
        if not callable(one) or isinstance(one, type):
            hint = f": {one.__name__}() makes one" if isinstance(one, type) else ""
            raise TypeError(
                "augment: expected a function from clouds (B, N, D) to clouds of the same shape, such as "
                f'pyro_pcflow.training.ScaleAxes(), a list of them, "auto" or None, got {one!r}{hint}'
            )
    return tuple(given)


def named(augmentations: Sequence[Augmentation]) -> list[str]:
    """What a run folder calls augmentations: dataclasses as they print, others by class or function."""
    names = []
    for one in augmentations:
        kind = one if isinstance(one, type(named)) else type(one)
        names.append(repr(one) if dataclasses.is_dataclass(one) else f"{kind.__module__}.{kind.__qualname__}")
    return names


def augmented(
    augmentations: Sequence[Augmentation], seed: int, step: int, parts: Sequence[tuple[Tensor, Tensor | None]]
) -> list[Tensor]:
    """Points of the same clouds, changed alike, by random numbers that follow from the seed and the step alone.

    Args:
        augmentations: applied in turn.
        seed: of the training.
        step: number of earlier steps.
        parts: samples of the same clouds, `(B, M, D)` each, and their masks `(B, M)` or None.

    Raises:
        ValueError: if one of them returns another shape or data type.
    """
    clouds = torch.cat([points for points, _ in parts], 1)
    # So that neither processes that share a batch, nor a run that is resumed, need to know what was drawn before.
    own_seed = int(torch.randint(2**62, (), generator=seeded_generator(seed, f"augmentation {step}")))
    with seeded(own_seed, clouds.device):
        for augment in augmentations:
            changed = augment(clouds)
            if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (clouds.shape, clouds.dtype):
                found = f"{changed.dtype} of shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else changed
                raise ValueError(
                    f"augment: {named([augment])[0]} of clouds {clouds.dtype} of shape {tuple(clouds.shape)} returned "
                    f"{found}: expected the same shape and data type"
                )
            clouds = changed
    pieces = clouds.split([points.shape[1] for points, _ in parts], 1)
    # Whatever a function makes of padding, it stays zero.
    return [
        piece if mask is None else torch.where(mask.unsqueeze(-1), piece, 0)
        for piece, (_, mask) in zip(pieces, parts, strict=True)
    ]


def _normal(clouds: Tensor) -> Tensor:
    """Standard normal numbers, a vector for each cloud, shape `(B, 1, D)`."""
    return torch.randn(len(clouds), 1, clouds.shape[-1], dtype=clouds.dtype, device=clouds.device)


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")


def _check_axis(axis: Any) -> None:
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"axis must be the number of a coordinate, from 0, got {axis!r}")
    if axis not in range(3):
        raise ValueError(f"axis must be 0, 1 or 2, got {axis}")


def _check_dim(augment: Augmentation, clouds: Tensor, axis: int | None = None) -> None:
    point_dim = clouds.shape[-1]
    if point_dim not in (2, 3):
        raise ValueError(
            f"{augment} changes points of 2 or 3 coordinates, got {point_dim}: what it would do to normals or colours "
            "is for you to say, in a function of yours that takes them apart"
        )
    if axis is not None and axis >= point_dim:
        raise ValueError(f"{augment}: points of {point_dim} coordinates have no axis {axis}")

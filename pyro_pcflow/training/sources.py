"""Where the clouds of a training come from: memory, or a file that is larger than it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pyro_pcflow.data import MappedClouds
from pyro_pcflow.ops.hashing import sha256_of
from pyro_pcflow.training.rows import check_share, first_equal, set_apart

__all__ = [
    "Clouds",
    "MappedSource",
    "RaggedClouds",
    "Source",
    "first_equal_cloud",
    "held_out_clouds",
    "some_clouds",
    "some_points",
    "split_clouds",
]

# Enough for the units of a data set.
POINTS_FOR_UNITS = 2**20
# Enough for the spacing of their points.
CLOUDS_FOR_SPACING = 16
# Enough for a standard error of the bound that is small beside the differences between models.
MAX_HELD_OUT = 512


class Source(Protocol):
    """Where clouds come from: memory, or a file that is larger than it."""

    @property
    def labels(self) -> Tensor | None:
        """Numbers of classes, shape `(S,)`, or None."""

    @property
    def point_dim(self) -> int:
        """Number of coordinates of a point."""

    @property
    def max_points(self) -> int:
        """Largest number of points in a cloud."""

    def sizes_of(self, clouds: Tensor) -> Tensor:
        """Numbers of points of some clouds, shape `(B,)`."""

    @property
    def device(self) -> torch.device:
        """The device of batches."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the points."""

    def of_dtype(self, dtype: torch.dtype) -> Source:
        """The same clouds in another data type."""

    def __len__(self) -> int: ...

    def mask_of(self, clouds: Tensor) -> Tensor | None:
        """True at the points of some clouds, shape `(B, N)` as `take` pads them, or None where nothing is padded."""

    def take(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        """Points of some clouds: numbers of shape `(B,)` and `(B, M)` make `(B, M, D)`, or else all points, padded."""

    def subset(self, clouds: Tensor) -> Source:
        """Some of the clouds."""

    def to(self, device: torch.device) -> Source:
        """The same clouds with batches on a device."""

    def fingerprint(self) -> str:
        """A checksum of the clouds."""


@dataclass(frozen=True)
class Clouds:
    """Clouds in memory.

    Attributes:
        points: shape `(S, N, D)`; padding where the mask says so.
        mask: True at points, shape `(S, N)`, or None where every cloud has all of its `N` points.
        labels: numbers of classes, shape `(S,)`, or None.
    """

    points: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def point_dim(self) -> int:
        return self.points.shape[-1]

    @property
    def max_points(self) -> int:
        return self.points.shape[1]

    @property
    def device(self) -> torch.device:
        return self.points.device

    @property
    def dtype(self) -> torch.dtype:
        return self.points.dtype

    def of_dtype(self, dtype: torch.dtype) -> Clouds:
        return replace(self, points=self.points.to(dtype))

    def sizes_of(self, clouds: Tensor) -> Tensor:
        return clouds.new_full(clouds.shape, self.max_points) if self.mask is None else self.mask[clouds].sum(-1)

    def mask_of(self, clouds: Tensor) -> Tensor | None:
        return None if self.mask is None else self.mask[clouds]

    def take(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        return self.points[clouds] if points is None else self.points[clouds.unsqueeze(-1), points]

    def subset(self, clouds: Tensor) -> Clouds:
        parts = (None if part is None else part[clouds] for part in (self.points, self.mask, self.labels))
        return Clouds(*parts)  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        if self.mask is None:
            return sha256_of(sha256_of(self.points), self.labels)
        return sha256_of(sha256_of(self.points[self.mask]), self.mask.sum(-1), self.labels)

    def to(self, device: torch.device) -> Clouds:
        """The same clouds on a device."""
        parts = (None if part is None else part.to(device) for part in (self.points, self.mask, self.labels))
        return Clouds(*parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RaggedClouds:
    """Clouds of different sizes in memory, one after another: none is padded to the size of the largest.

    Attributes:
        points: of all clouds, shape `(M, D)`.
        starts: the first point of each, shape `(S,)`.
        sizes: their numbers of points, shape `(S,)`.
        labels: numbers of classes, shape `(S,)`, or None.
    """

    points: Tensor
    starts: Tensor
    sizes: Tensor
    labels: Tensor | None = None

    @classmethod
    def of(cls, clouds: Sequence[Tensor]) -> RaggedClouds:
        """The same as clouds of shape `(N, D)` each, of one data type."""
        sizes = torch.tensor([len(cloud) for cloud in clouds], device=clouds[0].device)
        return cls(torch.cat(list(clouds)), sizes.cumsum(0) - sizes, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def point_dim(self) -> int:
        return self.points.shape[-1]

    @property
    def max_points(self) -> int:
        return int(self.sizes.max()) if len(self.sizes) else 0

    @property
    def device(self) -> torch.device:
        return self.points.device

    @property
    def dtype(self) -> torch.dtype:
        return self.points.dtype

    def of_dtype(self, dtype: torch.dtype) -> RaggedClouds:
        return replace(self, points=self.points.to(dtype))

    def sizes_of(self, clouds: Tensor) -> Tensor:
        return self.sizes[clouds]

    def mask_of(self, clouds: Tensor) -> Tensor | None:
        sizes = self.sizes[clouds]
        mask = self._places(sizes) < sizes.unsqueeze(-1)
        return None if bool(mask.all()) else mask

    def take(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        # A cloud without points, which padding stands for, may begin where all points end.
        starts = self.starts[clouds].clamp(max=len(self.points) - 1).unsqueeze(-1)
        if points is not None:
            return self.points[starts + points]
        sizes = self.sizes[clouds].unsqueeze(-1)
        places = self._places(self.sizes[clouds])
        taken = self.points[starts + torch.minimum(places, (sizes - 1).clamp(min=0))]
        return torch.where((places < sizes).unsqueeze(-1), taken, 0)

    def _places(self, sizes: Tensor) -> Tensor:
        return torch.arange(int(sizes.max()) if len(sizes) else 0, device=sizes.device)

    def cloud(self, number: int) -> Tensor:
        """One cloud, shape `(N, D)`, a view."""
        start = int(self.starts[number])
        return self.points[start : start + int(self.sizes[number])]

    def subset(self, clouds: Tensor) -> RaggedClouds:
        labels = None if self.labels is None else self.labels[clouds]
        return replace(self, starts=self.starts[clouds], sizes=self.sizes[clouds], labels=labels)

    def fingerprint(self) -> str:
        points = torch.cat([self.cloud(number) for number in range(len(self))])
        return sha256_of(sha256_of(points), self.sizes, self.labels)

    def to(self, device: torch.device) -> RaggedClouds:
        """The same clouds on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return RaggedClouds(self.points.to(device), self.starts.to(device), self.sizes.to(device), labels)


@dataclass(frozen=True)
class MappedSource:
    """Clouds of a memory-mapped file, of which only what a batch needs is read.

    Attributes:
        file: the clouds.
        chosen: numbers of those that belong to this source, shape `(S,)`, on the CPU.
        labels: numbers of classes, shape `(S,)`, or None.
        device: where batches go.
        dtype: data type of their points.
    """

    file: MappedClouds
    chosen: Tensor
    labels: Tensor | None
    device: torch.device
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def point_dim(self) -> int:
        return self.file.shape[-1]

    @property
    def max_points(self) -> int:
        return self.file.shape[1]

    def sizes_of(self, clouds: Tensor) -> Tensor:
        return clouds.new_full(clouds.shape, self.max_points)

    def mask_of(self, clouds: Tensor) -> Tensor | None:
        return None

    def take(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        rows = self.chosen[clouds.cpu()]
        return self.file.read(rows, None if points is None else points.cpu()).to(self.device, self.dtype)

    def of_dtype(self, dtype: torch.dtype) -> MappedSource:
        return replace(self, dtype=dtype)

    def subset(self, clouds: Tensor) -> MappedSource:
        labels = None if self.labels is None else self.labels[clouds.to(self.labels.device)]
        return replace(self, chosen=self.chosen[clouds.cpu()], labels=labels)

    def to(self, device: torch.device) -> MappedSource:
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, device=device, labels=labels)

    def fingerprint(self) -> str:
        return sha256_of(self.file.fingerprint(), self.chosen, self.labels)


def split_clouds(clouds: Source, held_out: float, seed: int) -> tuple[Source, Source | None]:
    """Set clouds apart for evaluation, at most 512. A cloud that occurs several times is on one side only.

    Args:
        clouds: all of them.
        held_out: the share to draw, none at 0.
        seed: decides which are drawn.

    Raises:
        ValueError: if the share is not in [0, 1), or leaves nothing to train or to evaluate on.
    """
    if held_out == 0:
        return clouds, None
    training, drawn = held_out_clouds(clouds, held_out, seed)
    return clouds.subset(training), clouds.subset(drawn)


def held_out_clouds(clouds: Source, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the clouds that stay, and of those that are evaluated on; arguments as for `split_clouds`."""
    check_share(share, "clouds")
    return set_apart(first_equal_cloud(clouds), share, MAX_HELD_OUT, seed, "clouds")


def first_equal_cloud(clouds: Source) -> Tensor:
    """For each cloud the number of the first one with the same points in the same order, shape `(S,)`, on the CPU."""
    rows = torch.arange(len(clouds), device=clouds.device)
    # One point of each is read, and a whole cloud only where that is another one's.
    first = first_equal(clouds.take(rows, torch.zeros_like(rows).unsqueeze(-1)).squeeze(1))
    known: dict[str, int] = {}
    for row in (first.bincount(minlength=len(first))[first] > 1).nonzero().flatten().tolist():
        chosen = rows[row : row + 1]
        points, mask = clouds.take(chosen), clouds.mask_of(chosen)
        # Adding zero makes one number of the two zeros.
        first[row] = known.setdefault(sha256_of((points if mask is None else points[mask]) + 0.0), row)
    return first


def some_clouds(clouds: Source) -> list[Tensor]:
    """Evenly spaced clouds, shape `(N, D)` each, without padding."""
    chosen = torch.linspace(0, len(clouds) - 1, min(len(clouds), CLOUDS_FOR_SPACING)).round().long().to(clouds.device)
    if isinstance(clouds, RaggedClouds):
        return [clouds.cloud(number) for number in chosen.tolist()]
    points, mask = clouds.take(chosen), clouds.mask_of(chosen)
    return list(points) if mask is None else [cloud[kept] for cloud, kept in zip(points, mask, strict=True)]


def some_points(clouds: Source) -> Tensor:
    """Points of evenly spaced clouds, of all of them if there are not too many, shape `(M, D)`."""
    if isinstance(clouds, RaggedClouds):
        most = max(1, POINTS_FOR_UNITS // len(clouds))
        every = [clouds.cloud(number) for number in range(len(clouds))]
        return torch.cat([cloud[:: -(-len(cloud) // most)] if len(cloud) > most else cloud for cloud in every])
    count = max(1, min(len(clouds), POINTS_FOR_UNITS // clouds.max_points))
    chosen = torch.linspace(0, len(clouds) - 1, count).round().long().to(clouds.device)
    points, mask = clouds.take(chosen), clouds.mask_of(chosen)
    return points.reshape(-1, clouds.point_dim) if mask is None else points[mask]

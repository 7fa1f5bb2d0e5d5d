"""From data to training clouds and held-out clouds."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_pcflow.data import MappedClouds
from pyro_pcflow.ops.hashing import sha256_of
from pyro_pcflow.training.density import as_tensor, check_share, first_equal, set_apart

__all__ = ["Clouds", "MappedSource", "Source", "as_clouds", "some_points", "split_clouds"]

# Enough to know the units of a data set by.
POINTS_FOR_UNITS = 2**20
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
        """Room for points in a cloud."""

    @property
    def device(self) -> torch.device:
        """Where batches are."""

    def __len__(self) -> int: ...

    def mask_of(self, clouds: Tensor) -> Tensor | None:
        """True at the points of some clouds, shape `(B, max_points)`, or None where they have all of them."""

    def take(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        """Points of some clouds: numbers of shape `(B,)` and `(B, M)` make `(B, M, D)`, or else all points."""

    def subset(self, clouds: Tensor) -> Source:
        """Some of the clouds."""

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

    def mask_of(self, clouds: Tensor) -> Tensor | None:
        return None

    def take(self, clouds: Tensor, points: Tensor | None = None) -> Tensor:
        rows = self.chosen[clouds.cpu()]
        return self.file.read(rows, None if points is None else points.cpu()).to(self.device, self.dtype)

    def subset(self, clouds: Tensor) -> MappedSource:
        labels = None if self.labels is None else self.labels[clouds.to(self.labels.device)]
        return replace(self, chosen=self.chosen[clouds.cpu()], labels=labels)

    def fingerprint(self) -> str:
        return sha256_of(self.file.fingerprint(), self.chosen, self.labels)


def as_clouds(
    data: Any, dtype: torch.dtype, point_dim: int | None, device: torch.device, name: str = "data"
) -> Clouds | MappedSource:
    """Check data and take it as clouds.

    Args:
        data: clouds of shape (S, N, D), a tensor or an array; a `MappedClouds`; a list or a `Dataset` of clouds (N, D)
            of any sizes; a `Dataset` of pairs of a cloud and a label; or a pair of any of the former and labels (S,).
        dtype: data type of the points.
        point_dim: expected number of coordinates `D`, or None for any.
        device: where batches are needed.
        name: what the data is called in an error.

    Raises:
        TypeError: if the data is not numeric.
        ValueError: if it is empty, of another shape, or not finite; the message names the first bad cloud.
    """
    labels = None
    if isinstance(data, tuple) and len(data) == 2:
        data, labels = data
        labels = as_tensor(labels, f"{name}, labels")
    if isinstance(data, MappedClouds):
        # Here, and not after hours of training, when a batch first draws it.
        data.check_finite()
        clouds: Clouds | MappedSource = MappedSource(data, torch.arange(len(data)), None, device, dtype)
    elif isinstance(data, Dataset | list):
        clouds, own_labels = _from_items(data, dtype, name)
        labels = own_labels if labels is None else labels
    else:
        points = as_tensor(data, name)
        if points.dim() != 3:
            raise ValueError(
                f"{name}: expected clouds of shape (S, N, D) for a model of many clouds, got {tuple(points.shape)}"
            )
        clouds = Clouds(points.detach().to(dtype))
    if len(clouds) == 0 or clouds.max_points == 0:
        raise ValueError(f"{name}: expected at least one cloud with a point, got {len(clouds)} clouds")
    if point_dim is not None and clouds.point_dim != point_dim:
        raise ValueError(f"{name}: its points have {clouds.point_dim} coordinates, but the module expects {point_dim}")
    if isinstance(clouds, Clouds):
        bad = (~clouds.points.isfinite().all(-1)).nonzero()
        if len(bad):
            raise ValueError(
                f"{name}: {len(bad)} points are NaN or infinite in {dtype}, the first is point {int(bad[0, 1])} of "
                f"cloud {int(bad[0, 0])}"
            )
    if labels is not None:
        if labels.shape != (len(clouds),) or labels.is_floating_point():
            raise ValueError(
                f"{name}: expected one whole number for each of {len(clouds)} clouds as labels, got {labels.dtype} of "
                f"shape {tuple(labels.shape)}"
            )
        place = clouds.points.device if isinstance(clouds, Clouds) else device
        clouds = replace(clouds, labels=labels.long().to(place))
    return clouds


def split_clouds(clouds: Source, held_out: float, seed: int) -> tuple[Source, Source | None]:
    """Set clouds apart for evaluation, at most 512. A cloud that occurs several times is on one side only.

    Args:
        clouds: all of them.
        held_out: the share to draw, none at 0.
        seed: decides which are drawn.

    Raises:
        ValueError: if the share is not in [0, 1), or leaves nothing to train or to evaluate on.
    """
    check_share(held_out, "clouds")
    if held_out == 0:
        return clouds, None
    training, drawn = set_apart(first_equal_cloud(clouds), held_out, MAX_HELD_OUT, seed, "clouds")
    return clouds.subset(training), clouds.subset(drawn)


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


def some_points(clouds: Source) -> Tensor:
    """Points of evenly spaced clouds, of all of them if there are not too many, shape `(M, D)`."""
    count = max(1, min(len(clouds), POINTS_FOR_UNITS // clouds.max_points))
    chosen = torch.linspace(0, len(clouds) - 1, count).round().long().to(clouds.device)
    points, mask = clouds.take(chosen), clouds.mask_of(chosen)
    return points.reshape(-1, clouds.point_dim) if mask is None else points[mask]


def _from_items(data: Any, dtype: torch.dtype, name: str) -> tuple[Clouds, Tensor | None]:
    clouds: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(data)):
        item = data[index]
        if isinstance(item, tuple) and len(item) == 1:
            (item,) = item
        elif isinstance(item, tuple) and len(item) == 2:
            item, label = item
            try:
                labels.append(operator.index(label))
            except TypeError as error:
                raise TypeError(f"{name}, item {index}: expected a whole number as label, got {label!r}") from error
        points = as_tensor(item, f"{name}, item {index}")
        if points.dim() != 2 or (clouds and points.shape[-1] != clouds[0].shape[-1]):
            expected = f" with D = {clouds[0].shape[-1]}" if clouds else ""
            raise ValueError(f"{name}, item {index}: expected a cloud (N, D){expected}, got {tuple(points.shape)}")
        clouds.append(points.detach().to(dtype))
    if not clouds:
        raise ValueError(f"{name}: expected at least one cloud, got an empty {type(data).__name__}")
    if labels and len(labels) != len(clouds):
        raise ValueError(f"{name}: {len(labels)} of {len(clouds)} items have a label: expected all or none")
    sizes = torch.tensor([len(cloud) for cloud in clouds])
    padded = torch.nn.utils.rnn.pad_sequence(clouds, batch_first=True)
    mask = torch.arange(padded.shape[1]) < sizes.unsqueeze(-1)
    return Clouds(padded, None if mask.all() else mask.to(padded.device)), torch.tensor(labels) if labels else None

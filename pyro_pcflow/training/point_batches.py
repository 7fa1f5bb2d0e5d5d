"""Points, or clouds with a context each, and batches of their points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.hashing import sha256_of
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training.cloud_batches import draw_batch
from pyro_pcflow.training.rows import Epochs, check_share, first_equal, set_apart
from pyro_pcflow.training.sources import Clouds, RaggedClouds, Source, held_out_clouds, some_clouds, some_points

__all__ = ["CloudsWithContexts", "PointBatch", "Points"]

# Enough for a standard error below 0.01 nats per point, and quickly evaluated.
MAX_HELD_OUT = 20_000
POINTS_AT_ONCE = 16_384


@dataclass(frozen=True)
class PointBatch:
    """Points of a step, and their contexts.

    Attributes:
        points: shape `(M, D)`; where one context is that of a cloud, `(B, M, D)`.
        contexts: shape `(M, C)`, or `(B, 1, C)`; None for a density without context.
        mask: True at points, shape `(B, M)`, or None where there is no padding.
        mean_count: number of points of a process, on average over those that share a batch with padding; None for one.
    """

    points: Tensor
    contexts: Tensor | None = None
    mask: Tensor | None = None
    mean_count: Tensor | None = None

    def part(self, rows: slice) -> PointBatch:
        """Some of the points or clouds."""
        return PointBatch(*(None if part is None else part[rows] for part in (self.points, self.contexts, self.mask)))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> PointBatch:
        """The same batch on a device."""
        moved: dict[str, Any] = {name: None if part is None else part.to(device) for name, part in vars(self).items()}
        return PointBatch(**moved)


@dataclass(frozen=True)
class Points:
    """Points of shape `(M, D)`, and contexts of shape `(M, C)` or None."""

    points: Tensor
    contexts: Tensor | None = None
    kind = "points"

    @property
    def point_dim(self) -> int:
        return self.points.shape[-1]

    def of_dtype(self, dtype: torch.dtype) -> Points:
        """The same points in another data type."""
        return replace(self, points=self.points.to(dtype))

    def some_points(self) -> Tensor:
        """Points for the units, shape `(M, D)`."""
        return self.points

    def some_clouds(self) -> list[Tensor]:
        """Points whose distances count, shape `(N, D)` each: all of them are one cloud."""
        return [self.points]

    def to(self, device: torch.device) -> Points:
        """The same points on a device."""
        return Points(self.points.to(device), None if self.contexts is None else self.contexts.to(device))

    def split(self, share: float, seed: int) -> tuple[Points, Points | None]:
        """Set points apart for evaluation. A point that occurs several times is on one side only."""
        check_share(share, "points")
        if share == 0:
            return self, None
        training, drawn = set_apart(first_equal(self.points), share, MAX_HELD_OUT, seed, "points")
        return self._rows(training), self._rows(drawn)

    def _rows(self, rows: Tensor) -> Points:
        rows = rows.to(self.points.device)
        return Points(self.points[rows], None if self.contexts is None else self.contexts[rows])

    def batches(self, batch_size: int, target_points: int, seed: int) -> PointBatches:
        """Batches of `batch_size` points; `target_points` concern clouds alone."""
        return PointBatches(self, batch_size, seed)

    def with_noise(
        self, noise: float, generator: torch.Generator, dtype: torch.dtype, proportions: Tensor | None = None
    ) -> Points:
        """The same points with Gaussian noise, drawn in a data type, in proportions of coordinates, shape `(D,)`."""
        return replace(self, points=_with_noise(self.points, noise, generator, dtype, proportions))

    def evaluation(self) -> list[PointBatch]:
        """All of the points, in batches that fit into memory."""
        whole = PointBatch(self.points, self.contexts)
        starts = range(0, len(self.points), POINTS_AT_ONCE)
        return [whole.part(slice(start, start + POINTS_AT_ONCE)) for start in starts]

    def describe(self, prefix: str) -> dict[str, Any]:
        """Numbers and checksums in plain values; sizes that held-out data shares are left out under a prefix."""
        return {
            f"{prefix}points": len(self.points),
            **({} if prefix else {"point_dim": self.point_dim}),
            f"{prefix}sha256": sha256_of(self.points),
            **({} if self.contexts is None else {f"{prefix}contexts_sha256": sha256_of(self.contexts)}),
        }


class PointBatches:
    """Batches of points without replacement."""

    def __init__(self, data: Points, batch_size: int, seed: int) -> None:
        self._data = data
        self._epochs = Epochs(len(data.points), batch_size, seed, data.points.device)
        self.points_per_step = self._epochs.batch_size

    def batch(self, step: int) -> PointBatch:
        rows = self._epochs.rows(step)
        contexts = self._data.contexts
        points = self._data.points.index_select(0, rows)
        return PointBatch(points, None if contexts is None else contexts.index_select(0, rows))


@dataclass(frozen=True)
class CloudsWithContexts:
    """Clouds, and contexts of shape `(S, C)`, one per cloud; methods as of `Points`."""

    clouds: Source
    contexts: Tensor
    kind = "clouds"

    @property
    def point_dim(self) -> int:
        return self.clouds.point_dim

    def of_dtype(self, dtype: torch.dtype) -> CloudsWithContexts:
        return replace(self, clouds=self.clouds.of_dtype(dtype))

    def some_points(self) -> Tensor:
        return some_points(self.clouds)

    def some_clouds(self) -> list[Tensor]:
        return some_clouds(self.clouds)

    def to(self, device: torch.device) -> CloudsWithContexts:
        return CloudsWithContexts(self.clouds.to(device), self.contexts.to(device))

    def split(self, share: float, seed: int) -> tuple[CloudsWithContexts, CloudsWithContexts | None]:
        """Set clouds apart for evaluation. A cloud that occurs several times is on one side only."""
        if share == 0:
            return self, None
        training, drawn = held_out_clouds(self.clouds, share, seed)
        return self._rows(training), self._rows(drawn)

    def _rows(self, rows: Tensor) -> CloudsWithContexts:
        return CloudsWithContexts(self.clouds.subset(rows), self.contexts[rows.to(self.contexts.device)])

    def batches(self, batch_size: int, target_points: int, seed: int) -> CloudPointBatches:
        """Batches of `batch_size` points, about `target_points` of a cloud."""
        return CloudPointBatches(self, batch_size, target_points, seed)

    def with_noise(
        self, noise: float, generator: torch.Generator, dtype: torch.dtype, proportions: Tensor | None = None
    ) -> CloudsWithContexts:
        if isinstance(self.clouds, RaggedClouds):
            own = RaggedClouds.of([self.clouds.cloud(number) for number in range(len(self.clouds))])
            return replace(
                self, clouds=replace(own, points=_with_noise(own.points, noise, generator, dtype, proportions))
            )
        every = torch.arange(len(self.clouds), device=self.clouds.device)
        points, mask = self.clouds.take(every), self.clouds.mask_of(every)
        return replace(self, clouds=Clouds(_with_noise(points, noise, generator, dtype, proportions), mask))

    def evaluation(self) -> list[PointBatch]:
        at_once = max(1, POINTS_AT_ONCE // self.clouds.max_points)
        every = torch.arange(len(self.clouds), device=self.clouds.device)
        contexts = self.contexts.unsqueeze(1)
        return [
            PointBatch(self.clouds.take(rows), contexts[rows.to(contexts.device)], self.clouds.mask_of(rows))
            for rows in every.split(at_once)
        ]

    def describe(self, prefix: str) -> dict[str, Any]:
        return {
            f"{prefix}clouds": len(self.clouds),
            **({} if prefix else {"points_in_a_cloud": self.clouds.max_points, "point_dim": self.point_dim}),
            f"{prefix}sha256": self.clouds.fingerprint(),
            f"{prefix}contexts_sha256": sha256_of(self.contexts),
        }


class CloudPointBatches:
    """Batches of clouds without replacement, some points of each, so that a context is used once per cloud."""

    def __init__(self, data: CloudsWithContexts, batch_size: int, target_points: int, seed: int) -> None:
        self._data = data
        self._seed = seed
        self._epochs = Epochs(len(data.clouds), max(1, batch_size // target_points), seed)
        self._points_per_cloud = max(1, batch_size // self._epochs.batch_size)
        self.points_per_step = self._epochs.batch_size * min(self._points_per_cloud, data.clouds.max_points)

    def batch(self, step: int) -> PointBatch:
        rows = self._epochs.rows(step)
        generator = seeded_generator(self._seed, f"points {step}")
        drawn = draw_batch(self._data.clouds, rows, self._points_per_cloud, 0, generator)
        return PointBatch(drawn.clouds, self._data.contexts[drawn.index].unsqueeze(1), drawn.mask)


def _with_noise(
    points: Tensor, noise: float, generator: torch.Generator, dtype: torch.dtype, proportions: Tensor | None
) -> Tensor:
    if noise == 0:
        return points
    noises = torch.randn(points.shape, dtype=dtype, generator=generator)
    if proportions is not None:
        noises *= proportions.cpu()
    return points + noise * noises.to(points.device)

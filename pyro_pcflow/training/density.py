"""The road of points: data, batches and exact likelihood of a density."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pyro_pcflow.data import MappedClouds
from pyro_pcflow.ops.hashing import sha256_of
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training.cloud_batches import draw_batch
from pyro_pcflow.training.inputs import as_clouds, as_contexts, as_points, as_tensor, is_pair, stacked, unzipped
from pyro_pcflow.training.objective import (
    Objective,
    context_dim_of,
    dtype_of,
    log_prob_of,
    point_dim_of,
    share_of_rows,
)
from pyro_pcflow.training.options import CloudSampling, noise_scale, whole_number
from pyro_pcflow.training.rows import Epochs, check_share, first_equal, set_apart
from pyro_pcflow.training.sources import Clouds, Source, held_out_clouds, some_points

__all__ = ["ExactLikelihood", "PointBatch"]

POINTS_PER_STEP = 2048
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


class ExactLikelihood(Objective):
    """The mean negative log-density of batches of points: exact maximum likelihood.

    `fit` builds it from its arguments of the same names. A subclass may change what is minimised, as by a penalty:
    `pcf.fit(flow, objective=Mine(flow, points), max_steps=...)`.

    Args:
        module: has `log_prob`, from points of shape `(M, D)` to nats of shape `(M,)`; for data with contexts, from
            points and contexts `(M, C)`, or from clouds `(B, M, D)` and contexts `(B, 1, C)` to nats `(B, M)`.
        data: points, or a pair of points and contexts, see `fit`.
        batch_size: points per step.
        noise: standard deviation of the Gaussian noise that is added afresh to every batch, and once to held-out data.
        held_out: the share of points, or of clouds with a context each, kept for evaluation; or that data itself.
        seed: decides the held-out data, the order and the noise on held-out data.
        sampling: of clouds with one context each, how many points of a cloud are in a batch.

    Attributes:
        held_out: batches that `evaluate` scores.

    Raises:
        TypeError: if the module or the data is of a wrong type.
        ValueError: if an argument, the shape or a value of the data is out of range; if contexts are missing.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> flow = pcf.PointCloudFlow(2, num_couplings=2, hidden_dims=[8])
        >>> objective = ExactLikelihood(flow, torch.randn(100, 2), batch_size=10)
        >>> objective.batch(0).points.shape, objective.loss(objective.batch(0)).shape
        (torch.Size([10, 2]), torch.Size([]))
    """

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        *,
        batch_size: int = POINTS_PER_STEP,
        noise: float = 0.0,
        held_out: Any = 0.1,
        seed: int = 0,
        sampling: CloudSampling | None = None,
    ) -> None:
        self.module = module
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.noise = noise_scale(noise)
        self.seed = whole_number("seed", seed, 0)
        self.sampling = CloudSampling() if sampling is None else sampling
        self._log_prob = log_prob_of(module)
        dtype, context_dim = dtype_of(module), context_dim_of(module)
        self._data = _as_density_data(data, dtype, point_dim_of(module), context_dim, "data")
        evaluated: _Points | _CloudsWithContexts | None
        if isinstance(held_out, Real):
            self._data, evaluated = self._data.split(float(held_out), self.seed)
        else:
            contexts = self._data.contexts
            context_dim = context_dim if contexts is None else contexts.shape[-1]
            evaluated = _as_density_data(held_out, dtype, self._data.point_dim, context_dim, "held_out")
            if type(evaluated) is not type(self._data) or (evaluated.contexts is None) != (contexts is None):
                raise ValueError("held_out: expected the form of data, points or clouds, both with contexts or without")
        if evaluated is not None:
            evaluated = evaluated.with_noise(self.noise, seeded_generator(self.seed, "held-out noise"))
        self._description = {
            **self._data.describe(""),
            **({f"held_out_{self._data.kind}": 0} if evaluated is None else evaluated.describe("held_out_")),
            "batch_size": self.batch_size,
            "noise": self.noise,
            "held_out": float(held_out) if isinstance(held_out, Real) else "given",
            **({"target_points": self.sampling.target_points} if self._data.kind == "clouds" else {}),
        }
        self.evaluates = evaluated is not None
        self.held_out = [] if evaluated is None else evaluated.evaluation()
        self._batches = self._data.batches(self.batch_size, self.sampling.target_points, self.seed)
        self.points_per_step = self._batches.points_per_step

    def batch(self, step: int) -> PointBatch:
        """Points of the step that follows `step` earlier ones, with noise."""
        batch = self._batches.batch(step)
        if self.noise:
            noise = torch.randn_like(batch.points)
            batch = PointBatch(batch.points.add_(noise, alpha=self.noise), batch.contexts, batch.mask)
        return batch

    def share(self, batch: PointBatch, rank: int, size: int) -> PointBatch:
        """The points, or the clouds, of one process."""
        part = batch.part(share_of_rows(len(batch.points), rank, size))
        return part if batch.mask is None else replace(part, mean_count=batch.mask.sum() / size)

    def loss(self, batch: PointBatch) -> Tensor:
        """The mean negative log-density of the points of a batch, in nats per point."""
        log_prob = self.log_prob(batch)
        if batch.mask is None:
            return -log_prob.mean()
        count = batch.mask.sum() if batch.mean_count is None else batch.mean_count
        return -torch.where(batch.mask, log_prob, 0.0).sum() / count.clamp(min=1)

    def evaluate(self) -> dict[str, float]:
        """The mean log-density of the held-out points, `nats_per_point`."""
        if not self.evaluates:
            return {}
        total, count = 0.0, 0
        for batch in self.held_out:
            log_prob = self.log_prob(batch)
            kept = log_prob if batch.mask is None else log_prob[batch.mask]
            total += kept.double().sum().item()
            count += kept.numel()
        return {"nats_per_point": total / max(1, count)}

    def log_prob(self, batch: PointBatch) -> Tensor:
        """Log-densities of the points of a batch, of shape `(M,)`, or `(B, M)` for clouds with a context each.

        Raises:
            ValueError: if the module returns another shape.
        """
        points, contexts = batch.points, batch.contexts
        log_prob = self._log_prob(points) if contexts is None else self._log_prob(points, contexts)
        # Any other shape would be averaged without a word.
        if log_prob.shape != points.shape[:-1]:
            raise ValueError(
                f"{type(self.module).__name__}.log_prob returned the shape {tuple(log_prob.shape)} for points of "
                f"shape {tuple(points.shape)}: expected one log-density for each point, {tuple(points.shape[:-1])}"
            )
        return log_prob

    def points_for_units(self) -> Tensor:
        """Training points, shape `(M, D)`."""
        return self._data.some_points()

    def description(self) -> dict[str, Any]:
        """Numbers and checksums of the points, and what decides the batches."""
        return self._description

    def to(self, device: torch.device) -> None:
        """Move points and contexts to a device."""
        self._data = self._data.to(device)
        self._batches = self._data.batches(self.batch_size, self.sampling.target_points, self.seed)
        self.held_out = [PointBatch(*_moved(device, *vars(batch).values())) for batch in self.held_out]  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Points:
    """Points `(M, D)`, and contexts `(M, C)` or None."""

    points: Tensor
    contexts: Tensor | None = None
    kind = "points"

    @property
    def point_dim(self) -> int:
        return self.points.shape[-1]

    def some_points(self) -> Tensor:
        return self.points

    def to(self, device: torch.device) -> _Points:
        return _Points(*_moved(device, self.points, self.contexts))  # type: ignore[arg-type]

    def split(self, share: float, seed: int) -> tuple[_Points, _Points | None]:
        """Set points apart for evaluation. A point that occurs several times is on one side only."""
        check_share(share, "points")
        if share == 0:
            return self, None
        training, drawn = set_apart(first_equal(self.points), share, MAX_HELD_OUT, seed, "points")
        return self._rows(training), self._rows(drawn)

    def _rows(self, rows: Tensor) -> _Points:
        rows = rows.to(self.points.device)
        return _Points(self.points[rows], None if self.contexts is None else self.contexts[rows])

    def batches(self, batch_size: int, target_points: int, seed: int) -> _PointBatches:
        return _PointBatches(self, batch_size, seed)

    def with_noise(self, noise: float, generator: torch.Generator) -> _Points:
        return replace(self, points=_with_noise(self.points, noise, generator))

    def evaluation(self) -> list[PointBatch]:
        whole = PointBatch(self.points, self.contexts)
        starts = range(0, len(self.points), POINTS_AT_ONCE)
        return [whole.part(slice(start, start + POINTS_AT_ONCE)) for start in starts]

    def describe(self, prefix: str) -> dict[str, Any]:
        return {
            f"{prefix}points": len(self.points),
            **({} if prefix else {"point_dim": self.point_dim}),
            f"{prefix}sha256": sha256_of(self.points),
            **({} if self.contexts is None else {f"{prefix}contexts_sha256": sha256_of(self.contexts)}),
        }


class _PointBatches:
    """Batches of points without replacement."""

    def __init__(self, data: _Points, batch_size: int, seed: int) -> None:
        self._data = data
        self._epochs = Epochs(len(data.points), batch_size, seed, data.points.device)
        self.points_per_step = self._epochs.batch_size

    def batch(self, step: int) -> PointBatch:
        rows = self._epochs.rows(step)
        contexts = self._data.contexts
        points = self._data.points.index_select(0, rows)
        return PointBatch(points, None if contexts is None else contexts.index_select(0, rows))


@dataclass(frozen=True)
class _CloudsWithContexts:
    """Clouds, each with one context of `(S, C)`."""

    clouds: Source
    contexts: Tensor
    kind = "clouds"

    @property
    def point_dim(self) -> int:
        return self.clouds.point_dim

    def some_points(self) -> Tensor:
        return some_points(self.clouds)

    def to(self, device: torch.device) -> _CloudsWithContexts:
        return _CloudsWithContexts(self.clouds.to(device), self.contexts.to(device))

    def split(self, share: float, seed: int) -> tuple[_CloudsWithContexts, _CloudsWithContexts | None]:
        """Set clouds apart for evaluation. A cloud that occurs several times is on one side only."""
        if share == 0:
            return self, None
        training, drawn = held_out_clouds(self.clouds, share, seed)
        return self._rows(training), self._rows(drawn)

    def _rows(self, rows: Tensor) -> _CloudsWithContexts:
        return _CloudsWithContexts(self.clouds.subset(rows), self.contexts[rows.to(self.contexts.device)])

    def batches(self, batch_size: int, target_points: int, seed: int) -> _CloudPointBatches:
        return _CloudPointBatches(self, batch_size, target_points, seed)

    def with_noise(self, noise: float, generator: torch.Generator) -> _CloudsWithContexts:
        every = torch.arange(len(self.clouds), device=self.clouds.device)
        points, mask = self.clouds.take(every), self.clouds.mask_of(every)
        return replace(self, clouds=Clouds(_with_noise(points, noise, generator), mask))

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


class _CloudPointBatches:
    """Batches of clouds without replacement, some points of each, so that a context is used once per cloud."""

    def __init__(self, data: _CloudsWithContexts, batch_size: int, target_points: int, seed: int) -> None:
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


def _as_density_data(
    data: Any, dtype: torch.dtype, point_dim: int | None, context_dim: int | None, name: str
) -> _Points | _CloudsWithContexts:
    if context_dim == 0:
        if is_pair(data):
            raise ValueError(
                f"{name}: a pair of points and contexts, but the flow was built without a context (context_dim=0): "
                "give points alone, or a flow with a context"
            )
        return _Points(as_points(data, dtype, point_dim, name))
    data = unzipped(data)
    if not is_pair(data):
        if context_dim is not None:
            raise ValueError(
                f"{name}: a conditional flow (context_dim={context_dim}) needs contexts: give a pair (points, "
                "contexts), or fit a model that supplies them, as PointCloudVAE does, or build the flow with "
                "context_dim=0"
            )
        return _Points(as_points(data, dtype, point_dim, name))
    values, contexts = data
    if _num_dims(values, name) == 3:
        clouds = as_clouds(values, dtype, point_dim, torch.device("cpu"), name)
        return _CloudsWithContexts(clouds, as_contexts(contexts, len(clouds), dtype, context_dim, name))
    points = as_points(stacked(values, name), dtype, point_dim, name)
    return _Points(points, as_contexts(contexts, len(points), dtype, context_dim, name))


def _num_dims(values: Any, name: str) -> int:
    """2 for points, 3 for clouds, whatever holds them."""
    if isinstance(values, MappedClouds):
        return 3
    if isinstance(values, list | Dataset) and len(values):  # type: ignore[arg-type]
        item = values[0]
        return 1 + as_tensor(item[0] if isinstance(item, tuple) else item, name).dim()
    return as_tensor(values, name).dim()


def _with_noise(points: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    if noise == 0:
        return points
    noises = torch.randn(points.shape, dtype=points.dtype, generator=generator)
    return points + noise * noises.to(points.device)


def _moved(device: torch.device, *tensors: Tensor | None) -> Iterable[Tensor | None]:
    return (None if tensor is None else tensor.to(device) for tensor in tensors)

"""The road of points: the exact likelihood of a density."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training.augmentation import augmented
from pyro_pcflow.training.data_objective import DataObjective
from pyro_pcflow.training.inputs import as_density_data, check_dtype_of_points, dtype_of_points
from pyro_pcflow.training.objective import (
    context_dim_of,
    dtype_of,
    feature_dim_of,
    log_prob_of,
    point_dim_of,
    share_of_rows,
)
from pyro_pcflow.training.options import HELD_OUT, CloudSampling
from pyro_pcflow.training.point_batches import CloudsWithContexts, PointBatch, Points
from pyro_pcflow.transforms.standardize import scales_of

__all__ = ["ExactLikelihood"]

POINTS_PER_STEP = 2048
# So few are learnt by heart within a minute, and a tenth of them takes no longer to evaluate than a step. On eight
# scans of 3,000 points, held-out scores that had not risen for so many evaluations hardly rose again.
FEW_POINTS, EVAL_EVERY, PATIENCE = 20_000, 50, 5


class ExactLikelihood(DataObjective):
    """The mean negative log-density of batches of points: exact maximum likelihood.

    `fit` builds it from its arguments of the same names. A subclass may change what is minimised, as by a penalty:
    `pcf.fit(flow, objective=Mine(flow, points), max_steps=...)`.

    Args:
        module: has `log_prob`, from points of shape `(M, D)` to nats of shape `(M,)`; for data with contexts, from
            points and contexts `(M, C)`, or from clouds `(B, M, D)` and contexts `(B, 1, C)` to nats `(B, M)`.
        data: points, or a pair of points and contexts, see `fit`.
        batch_size: points per step.
        noise: standard deviation of the Gaussian noise that is added afresh to every batch, and once to held-out data;
            "auto" chooses it, see `fit`.
        held_out: the share of points, or of clouds with a context each, kept for evaluation; or that data itself.
        seed: decides the held-out data, the order and the noise on held-out data.
        sampling: of clouds with one context each, how many points of a cloud are in a batch.

    Attributes:
        noise: the standard deviation of the noise, given or chosen.
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
        noise: float | str = 0.0,
        held_out: Any = HELD_OUT,
        seed: int = 0,
        sampling: CloudSampling | None = None,
    ) -> None:
        super().__init__(module, batch_size=batch_size, noise=noise, held_out=held_out, seed=seed, sampling=sampling)
        self._log_prob = log_prob_of(module)
        self._dtype, context_dim = dtype_of(module), context_dim_of(module)
        self._data = as_density_data(data, self._dtype, point_dim_of(module), context_dim, "data")
        evaluated: Points | CloudsWithContexts | None
        if self.held_out_share is not None:
            self._data, evaluated = self._data.split(self.held_out_share, self.seed)
        else:
            contexts = self._data.contexts
            context_dim = context_dim if contexts is None else contexts.shape[-1]
            evaluated = as_density_data(held_out, self._dtype, self._data.point_dim, context_dim, "held_out")
            if type(evaluated) is not type(self._data) or (evaluated.contexts is None) != (contexts is None):
                raise ValueError("held_out: expected the form of data, points or clouds, both with contexts or without")
        # Training points alone decide, as of the units.
        kept = dtype_of_points(module, self._data.some_clouds(), "data")
        if evaluated is not None and self.held_out_share is None:
            check_dtype_of_points(evaluated.some_clouds(), kept, "held_out", feature_dim_of(module))
        self._data, evaluated = self._data.of_dtype(kept), None if evaluated is None else evaluated.of_dtype(kept)
        if self.augmentations and self._data.kind == "points":
            raise ValueError(
                "augment is for many clouds: a density of points would learn that of all changed copies together. "
                "Leave it out, or fit a model of clouds such as PointCloudVAE, or a flow with a context for each cloud"
            )
        self._proportions = _proportions(self._data.some_points(), feature_dim_of(module), self._dtype)
        clouds = self._data.some_clouds()
        if self._proportions is not None:
            clouds = [cloud / self._proportions for cloud in clouds]
        self.settle_noise(clouds)
        if evaluated is not None:
            generator = seeded_generator(self.seed, "held-out noise")
            evaluated = evaluated.with_noise(self.noise, generator, self._dtype, self._proportions)
        self._description = {
            **self._data.describe(""),
            **({f"held_out_{self._data.kind}": 0} if evaluated is None else evaluated.describe("held_out_")),
            **self.describe_options(),
            **({"target_points": self.sampling.target_points} if self._data.kind == "clouds" else {}),
            **self.describe_augment(),
        }
        self.evaluates = evaluated is not None
        if evaluated is not None and isinstance(self._data, Points) and len(self._data.points) <= FEW_POINTS:
            self.eval_every, self.patience = EVAL_EVERY, PATIENCE
        self.held_out = [] if evaluated is None else evaluated.evaluation()
        self._batches = self._data.batches(self.batch_size, self.sampling.target_points, self.seed)
        self.points_per_step = self._batches.points_per_step

    def batch(self, step: int) -> PointBatch:
        """Points of the step that follows `step` earlier ones, with noise."""
        batch = self._batches.batch(step)
        if self.augmentations:
            (points,) = augmented(self.augmentations, self.seed, step, [(batch.points, batch.mask)])
            batch = replace(batch, points=points)
        if self.noise:
            noise = torch.randn_like(batch.points, dtype=self._dtype)
            if self._proportions is not None:
                noise *= self._proportions
            batch = replace(batch, points=batch.points.add_(noise, alpha=self.noise))
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
        """The mean log-density of the held-out points, `nats_per_point`, and its `standard_error` over them."""
        if not self.evaluates:
            return {}
        parts = []
        for batch in self.held_out:
            log_prob = self.log_prob(batch)
            parts.append((log_prob if batch.mask is None else log_prob[batch.mask]).double())
        scores = torch.cat(parts)
        found = {"nats_per_point": scores.mean().item()}
        # A single point says nothing of it.
        return found | ({"standard_error": scores.std().item() / math.sqrt(len(scores))} if len(scores) > 1 else {})

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
        """Move points, contexts and batches to a device."""
        self._data = self._data.to(device)
        self._proportions = None if self._proportions is None else self._proportions.to(device)
        self._batches = self._data.batches(self.batch_size, self.sampling.target_points, self.seed)
        self.held_out = [batch.to(device) for batch in self.held_out]


def _proportions(points: Tensor, feature_dim: int, dtype: torch.dtype) -> Tensor | None:
    """Noise of each coordinate for a unit of noise, shape `(D,)`: that of a feature is as large a share of its scale.

    None without features.
    """
    if not feature_dim:
        return None
    scales = scales_of(points, feature_dim)
    if not (scales > 0).all():
        raise ValueError("data: a feature is the same for all points: leave it out")
    return (scales / scales[0]).to(dtype)

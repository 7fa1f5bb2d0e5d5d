"""What the objectives of models of clouds share: clouds in batches, some of them held out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.training.augmentation import FEW_CLOUDS, automatic_augmentations
from pyro_pcflow.training.cloud_batches import CloudBatch, CloudBatches, evaluation_batches
from pyro_pcflow.training.data_objective import DataObjective
from pyro_pcflow.training.inputs import as_clouds, check_dtype_of_points
from pyro_pcflow.training.objective import (
    dtype_of,
    noise_input_of,
    num_classes_of,
    num_clouds_of,
    point_dim_of,
    share_of_rows,
)
from pyro_pcflow.training.options import AUTO, HELD_OUT, CloudSampling
from pyro_pcflow.training.sources import Source, some_clouds, some_points, split_clouds

__all__ = ["CLOUDS_PER_STEP", "CloudObjective"]

CLOUDS_PER_STEP = 32
# Of few clouds. While the rate is high, scores of a handful of chairs stay below their best for five evaluations, and
# rise again.
EVAL_EVERY, PATIENCE = 100, 10


class CloudObjective(DataObjective):
    """An objective on clouds that `fit` was given, some of them held out.

    The arguments are those of its subclasses, which set before they call this constructor:

    Attributes:
        splits: whether encoder and targets have points of their own, see `CloudBatches`.
        takes_labels: whether the module takes the labels of clouds.
        counts_points: whether the module is told how many points a cloud counts as.
    """

    splits: bool
    takes_labels: bool
    counts_points: bool

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        *,
        batch_size: int = CLOUDS_PER_STEP,
        noise: float | str = 0.0,
        held_out: Any = HELD_OUT,
        seed: int = 0,
        sampling: CloudSampling | None = None,
    ) -> None:
        super().__init__(module, batch_size=batch_size, noise=noise, held_out=held_out, seed=seed, sampling=sampling)
        dtype, cpu = dtype_of(module), torch.device("cpu")
        self._training: Source = as_clouds(data, dtype, point_dim_of(module), cpu)
        self._evaluated: Source | None
        if self.held_out_share is not None:
            self._training, self._evaluated = split_clouds(self._training, self.held_out_share, self.seed)
        else:
            self._evaluated = as_clouds(held_out, dtype, self._training.point_dim, cpu, "held_out")
            check_dtype_of_points(some_clouds(self._evaluated), dtype, "held_out")
        check_dtype_of_points(some_clouds(self._training), dtype, "data")
        self._training = self._training.of_dtype(dtype)
        self._evaluated = None if self._evaluated is None else self._evaluated.of_dtype(dtype)
        self._check()
        self.settle_noise(some_clouds(self._training))
        if self.sampling.augment == AUTO and self.splits and num_clouds_of(module) is None:
            self.augmentations = automatic_augmentations(len(self._training), self.points_for_units())
        self._description = {
            "clouds": len(self._training),
            "points_in_a_cloud": self._training.max_points,
            "point_dim": self._training.point_dim,
            "sha256": self._training.fingerprint(),
            "held_out_clouds": 0 if self._evaluated is None else len(self._evaluated),
            "held_out_sha256": None if self._evaluated is None else self._evaluated.fingerprint(),
            **self.describe_options(),
            "target_points": self.sampling.target_points,
            "encoder_points": self.sampling.encoder_points,
            "kl_warmup_steps": self.sampling.kl_warmup_steps,
            "most_points": self.sampling.most_points,
            **self.describe_augment(),
        }
        self.size = len(self._training)
        self.evaluates = self._evaluated is not None
        if self.evaluates and self.size < FEW_CLOUDS:
            self.eval_every, self.patience = EVAL_EVERY, PATIENCE
        self._make_batches()
        self.points_per_step = self.batches.batch_size * self.sampling.target_points

    def _make_batches(self) -> None:
        self.batches = CloudBatches(
            self._training,
            self.batch_size,
            self.sampling.target_points,
            self.sampling.encoder_points,
            self.seed,
            noise=self.noise,
            varied_noise=noise_input_of(self.module),
            kl_warmup_steps=self.sampling.kl_warmup_steps,
            split=self.splits,
            most_points=self.sampling.most_points if self.counts_points else None,
            augment=self.augmentations,
        )
        self.held_out: list[CloudBatch] = []
        if self._evaluated is not None:
            self.held_out = evaluation_batches(self._evaluated, self.seed, self.noise, split=self.splits)

    def share(self, batch: CloudBatch, rank: int, size: int) -> CloudBatch:
        """The clouds of one process."""
        return batch.part(share_of_rows(len(batch.clouds), rank, size), size)

    def points_for_units(self) -> Tensor:
        """Points of evenly spaced training clouds, shape `(M, D)`."""
        return some_points(self._training)

    def clouds_to_show(self) -> tuple[Source, str]:
        """Held-out clouds, or training clouds where there are none, and what they are called."""
        return (self._training, "trained on") if self._evaluated is None else (self._evaluated, "held out")

    def description(self) -> dict[str, Any]:
        """Numbers and checksums of the clouds, and what decides the batches."""
        return self._description

    def to(self, device: torch.device) -> None:
        """Move clouds and batches to a device."""
        if device != self._training.device:
            self._training = self._training.to(device)
            self._evaluated = None if self._evaluated is None else self._evaluated.to(device)
            self._make_batches()

    def _check(self) -> None:
        """Raise unless model and clouds fit each other, before the first step."""
        name, num_clouds = type(self.module).__name__, num_clouds_of(self.module)
        if num_clouds is not None:
            if self._evaluated is not None:
                raise ValueError(
                    f"{name} has embeddings of its training clouds alone: fit it with held_out=0, and score other "
                    "clouds by its log_prob"
                )
            if len(self._training) != num_clouds:
                raise ValueError(
                    f"{name} has embeddings of num_clouds={num_clouds} training clouds, but there are "
                    f"{len(self._training)}"
                )
        if self.augmentations and num_clouds is not None:
            raise ValueError(
                f"augment changes clouds, and {name} has one embedding for each training cloud: leave it out, or train "
                "a model with an encoder"
            )
        for what, clouds in (("data", self._training), ("held_out", self._evaluated)):
            if clouds is not None:
                _check_labels(what, clouds, num_classes_of(self.module), self.takes_labels)


def _check_labels(what: str, clouds: Source, num_classes: int | None, takes_labels: bool) -> None:
    labels = clouds.labels
    if num_classes is None:
        if labels is not None and not takes_labels:
            raise ValueError(f"{what}: there are labels, but model and guide do not take the option labels")
        return
    if (labels is None) != (num_classes == 0):
        raise ValueError(
            f"{what}: the model has {num_classes} classes, but there are {'no' if labels is None else len(clouds)} "
            "labels: a pair of clouds and labels, of shape (S,), is data for a model with classes"
        )
    if labels is not None and not bool(((labels >= 0) & (labels < num_classes)).all()):
        raise ValueError(f"{what}: expected labels from 0 to {num_classes - 1}, got up to {int(labels.max())}")

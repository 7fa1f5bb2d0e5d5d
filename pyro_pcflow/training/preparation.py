"""Data on its way into a training: points for a density, or clouds for a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.models import AutoDecoder, PointCloudVAE
from pyro_pcflow.ops.hashing import sha256_of
from pyro_pcflow.training.cloud_batches import CloudBatches, evaluation_batches
from pyro_pcflow.training.density import Batches, Split, as_points, split_points
from pyro_pcflow.training.objective import EvidenceLowerBound, ExactLikelihood, Objective, known_options
from pyro_pcflow.training.options import Settings
from pyro_pcflow.training.pictures import (
    PICTURES_OF_CLOUDS,
    PICTURES_OF_POINTS,
    write_cloud_pictures,
    write_pictures,
)
from pyro_pcflow.training.sources import Clouds, Source, as_clouds, some_points, split_clouds

__all__ = ["Prepared", "prepare_clouds", "prepare_points"]


@dataclass(frozen=True)
class Prepared(ABC):
    """Checked and split data, on the device of the training.

    Attributes:
        settings: of the training.
        description: what identifies the data, in plain values.
    """

    settings: Settings
    description: dict[str, Any]

    @abstractmethod
    def points_for_units(self) -> Tensor:
        """Training points that tell the units, shape `(M, D)`."""

    @abstractmethod
    def objective(self, module: nn.Module) -> Objective:
        """What the loop maximises."""

    @abstractmethod
    def pictures(self, module: nn.Module) -> tuple[str, ...]:
        """Names of what `write_pictures` writes."""

    @abstractmethod
    def write_pictures(self, module: nn.Module, folder: Path, **options: Any) -> None:
        """Draw a module that can be drawn, with options of the functions that draw."""


@dataclass(frozen=True)
class PreparedPoints(Prepared):
    """Points to train a density on, and points to evaluate it on."""

    split: Split

    def points_for_units(self) -> Tensor:
        return self.split.training

    def objective(self, module: nn.Module) -> ExactLikelihood:
        batches = Batches(self.split.training, self.settings.batch_size, self.settings.seed, self.settings.noise)
        return ExactLikelihood(module, batches, self.split.held_out)

    def pictures(self, module: nn.Module) -> tuple[str, ...]:
        return PICTURES_OF_POINTS if isinstance(module, PointCloudFlow) else ()

    def write_pictures(self, module: nn.Module, folder: Path, **options: Any) -> None:
        if isinstance(module, PointCloudFlow):
            write_pictures(module, self.split.training.cpu(), folder, seed=self.settings.seed, **options)


@dataclass(frozen=True)
class PreparedClouds(Prepared):
    """Clouds to train a model on, and clouds to evaluate it on."""

    training: Source
    held_out: Source | None

    def points_for_units(self) -> Tensor:
        return some_points(self.training)

    def objective(self, module: nn.Module) -> EvidenceLowerBound:
        settings = self.settings
        whole = "encoder_points" not in known_options(module)
        batches = CloudBatches(
            self.training,
            settings.batch_size,
            settings.points_per_cloud,
            settings.seen_points,
            settings.seed,
            noise=settings.noise,
            varied_noise=getattr(module, "noise_input", False),
            kl_warmup_steps=settings.kl_warmup_steps,
            whole=whole,
        )
        held_out = []
        if self.held_out is not None:
            held_out = evaluation_batches(self.held_out, settings.seed, settings.noise, whole=whole)
        return EvidenceLowerBound(module, batches, held_out)

    def pictures(self, module: nn.Module) -> tuple[str, ...]:
        return PICTURES_OF_CLOUDS if isinstance(module, PointCloudVAE) else ()

    def write_pictures(self, module: nn.Module, folder: Path, **options: Any) -> None:
        if isinstance(module, PointCloudVAE):
            shown = self.training if self.held_out is None else self.held_out
            caption = "trained on" if self.held_out is None else "held out"
            write_cloud_pictures(module, shown, folder, caption=caption, seed=self.settings.seed, **options)


def prepare_points(
    module: nn.Module, data: Any, held_out: Any, settings: Settings, dtype: torch.dtype, device: torch.device
) -> PreparedPoints:
    """Check and split points for a density; arguments as for `fit`."""
    points = as_points(data, dtype, getattr(module, "point_dim", None))
    if not isinstance(held_out, Real):
        held_out = as_points(held_out, dtype, points.shape[-1], "held_out")
    split = split_points(points, held_out, seed=settings.seed, noise=settings.noise)
    description = {
        "points": len(split.training),
        "point_dim": split.training.shape[-1],
        "sha256": sha256_of(split.training),
        "held_out_points": 0 if split.held_out is None else len(split.held_out),
        "held_out_sha256": None if split.held_out is None else sha256_of(split.held_out),
    }
    evaluated = None if split.held_out is None else split.held_out.to(device)
    return PreparedPoints(settings, description, Split(split.training.to(device), evaluated))


def prepare_clouds(
    module: nn.Module, data: Any, held_out: Any, settings: Settings, dtype: torch.dtype, device: torch.device
) -> PreparedClouds:
    """Check and split clouds for a model; arguments as for `fit`."""
    clouds = as_clouds(data, dtype, getattr(module, "point_dim", None), device)
    training: Source = clouds
    evaluated: Source | None
    if isinstance(held_out, Real):
        training, evaluated = split_clouds(clouds, float(held_out), settings.seed)
    else:
        evaluated = as_clouds(held_out, dtype, clouds.point_dim, device, "held_out")
    _check_fit(module, training, evaluated, settings)
    description = {
        "clouds": len(training),
        "points_in_a_cloud": training.max_points,
        "point_dim": training.point_dim,
        "sha256": training.fingerprint(),
        "held_out_clouds": 0 if evaluated is None else len(evaluated),
        "held_out_sha256": None if evaluated is None else evaluated.fingerprint(),
    }
    if isinstance(training, Clouds):
        training = training.to(device)
    if isinstance(evaluated, Clouds):
        evaluated = evaluated.to(device)
    return PreparedClouds(settings, description, training, evaluated)


def _check_fit(module: nn.Module, training: Source, evaluated: Source | None, settings: Settings) -> None:
    """Raise unless model and clouds fit each other, before the first step."""
    if isinstance(module, AutoDecoder):
        if evaluated is not None:
            raise ValueError(
                "an auto-decoder has embeddings of its training clouds alone: fit it with held_out=0, and score other "
                "clouds by its log_prob"
            )
        if len(training) != module.num_clouds:
            raise ValueError(
                f"the auto-decoder has embeddings of num_clouds={module.num_clouds} training clouds, but there are "
                f"{len(training)}"
            )
    if settings.kl_warmup_steps and "kl_weight" not in known_options(module):
        raise ValueError(
            "kl_warmup_steps needs a model and a guide with an argument kl_weight, the weight of their latents; "
            f"those of {type(module).__name__} have none: leave it at 0, or add the argument"
        )
    num_classes = getattr(module, "num_classes", None)
    if num_classes is None:
        return
    for name, clouds in (("data", training), ("held_out", evaluated)):
        if clouds is None:
            continue
        if (clouds.labels is None) != (num_classes == 0):
            raise ValueError(
                f"{name}: the model has {num_classes} classes, but there are "
                f"{'no' if clouds.labels is None else len(clouds)} labels: a pair of clouds and labels, of shape (S,), "
                "is data for a model with classes"
            )
        if clouds.labels is not None and not bool(((clouds.labels >= 0) & (clouds.labels < num_classes)).all()):
            raise ValueError(
                f"{name}: expected labels from 0 to {num_classes - 1}, got up to {int(clouds.labels.max())}"
            )

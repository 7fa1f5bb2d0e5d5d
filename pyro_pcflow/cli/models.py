"""Saved models of any class behind one interface: sampling, scores, likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pyro_pcflow.cli.custom import load_custom
from pyro_pcflow.cli.shared import model_file
from pyro_pcflow.infer import Completer
from pyro_pcflow.metrics import importance_weighted_bound, log_likelihood
from pyro_pcflow.ops.random import seeded
from pyro_pcflow.serialization import load
from pyro_pcflow.training.objective import data_dtype_of, in_units_of, is_cloud_model, missing_attributes
from pyro_pcflow.training.options import as_device

if TYPE_CHECKING:
    from pyro_pcflow.metrics import LogLikelihood

__all__ = ["SavedModel", "load_model"]

# Points scored at a time, so that the memory of a network's activations stays bounded.
POINTS_AT_ONCE = 65_536


class SavedModel(ABC):
    """A model that draws clouds and scores them.

    Args:
        module: as it was saved.
        labels: numbers of classes, none for a model without classes.

    Raises:
        ValueError: if the module lacks what a command calls, or labels do not fit it.
    """

    needs: ClassVar[tuple[str, ...]]

    def __init__(self, module: Any, labels: Sequence[int]) -> None:
        missing = missing_attributes(module, self.needs)
        if missing:
            raise ValueError(
                f"holds a {type(module).__name__} without {', '.join(missing)}: commands need {', '.join(self.needs)}"
            )
        self.module = module
        self.labels = labels
        self.point_dim: int = module.point_dim
        parameter = next(module.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        # Of points, which may have an origin that is subtracted in double precision.
        self.data_dtype = data_dtype_of(module) or self.dtype

    def check_dim(self, dim: int, what: str) -> None:
        """Raise a `ValueError` if points have another number of coordinates than the model."""
        if dim != self.point_dim:
            raise ValueError(f"{what}: points of {dim} coordinates, but the model has points of {self.point_dim}")

    def check_labels(self, num_clouds: int, what: str) -> None:
        """Raise a `ValueError` if there are several labels, but not one per cloud."""
        if len(self.labels) > 1 and len(self.labels) != num_clouds:
            raise ValueError(
                f"--label: expected one for all clouds, or one for each of {num_clouds} of {what}, got "
                f"{len(self.labels)}"
            )

    def away(self, points: Tensor) -> float:
        """How far the centre of points (N, D) lies from that of the training data, in its standard deviations.

        0 where the model does not say.
        """
        exact = in_units_of(self.module, points)
        return 0.0 if exact is None else float(exact.mean(0).norm())

    @abstractmethod
    def sample(self, num_clouds: int, num_points: int) -> Tensor:
        """Sample clouds, (S, N, D); several labels take turns."""

    @abstractmethod
    def score(self, cloud: Tensor, index: int, seed: int) -> tuple[Tensor, float]:
        """Log-densities of the points of a cloud, (N,) on the CPU, and of the cloud, in nats; `index` is its number."""

    @abstractmethod
    def likelihood(self, clouds: Tensor, num_particles: int, seed: int, units: str) -> LogLikelihood | None:
        """The log-likelihood of held-out clouds, (S, N, D); None if it is a bound and `num_particles` is 0."""


class PointModel(SavedModel):
    """A density of points, such as a `PointCloudFlow`."""

    needs = ("point_dim", "context_dim", "sample", "log_prob")

    def __init__(self, module: Any, labels: Sequence[int]) -> None:
        super().__init__(module, labels)
        if labels:
            raise ValueError("holds a model without classes: leave --label out")
        if module.context_dim:
            raise ValueError(
                f"holds a {type(module).__name__} that needs a context of {module.context_dim} numbers for each cloud, "
                "which no command has: call its sample(num_clouds, num_points, context) and log_prob(points, context) "
                "in Python"
            )

    def sample(self, num_clouds: int, num_points: int) -> Tensor:
        return self.module.sample(num_clouds, num_points)

    def score(self, cloud: Tensor, index: int, seed: int) -> tuple[Tensor, float]:
        with torch.no_grad():
            pieces = cloud.to(self.data_dtype).split(POINTS_AT_ONCE)
            scores = torch.cat([self.module.log_prob(piece.to(self.device)).cpu() for piece in pieces])
        return scores, scores.double().sum().item()

    def likelihood(self, clouds: Tensor, num_particles: int, seed: int, units: str) -> LogLikelihood:
        return log_likelihood(self.module, clouds.to(self.device, self.data_dtype), units=units)


class CloudModel(SavedModel):
    """A model with a latent for each cloud, such as a `PointCloudVAE`.

    Points are scored given the mean of the approximate posterior of their cloud's latent. A cloud's own score is an
    importance-weighted bound. An `AutoDecoder` has no encoder: it fits the posterior to each cloud that is scored,
    which is a bound too, and slower.
    """

    needs = ("point_dim", "num_classes", "sample", "log_prob", "encode", "decoder_context", "decoder.log_prob")

    def __init__(self, module: Any, labels: Sequence[int]) -> None:
        super().__init__(module, labels)
        classes = ", ".join(map(str, range(module.num_classes)))
        if module.num_classes and not labels:
            raise ValueError(
                f"holds a model of {module.num_classes} classes, which does not know how frequent they are: give "
                f"--label, one or several of {classes}"
            )
        if labels and not module.num_classes:
            raise ValueError("holds a model without classes: leave --label out")
        if labels and max(labels) >= module.num_classes:
            raise ValueError(f"holds a model of the classes {classes}, got --label {max(labels)}")

    def sample(self, num_clouds: int, num_points: int) -> Tensor:
        return self.module.sample(num_clouds, num_points, labels=self._labels(range(num_clouds)))

    def score(self, cloud: Tensor, index: int, seed: int) -> tuple[Tensor, float]:
        cloud = cloud.to(self.device, self.dtype)
        labels = self._labels([index])
        # The same random numbers for every cloud: a score does not depend on the clouds before it.
        with torch.no_grad(), seeded(seed, self.device):
            posterior = self.module.encode(cloud.unsqueeze(0), labels=labels, check=False)
            context = self.module.decoder_context(posterior.mean, labels)
            pieces = cloud.split(POINTS_AT_ONCE)
            scores = torch.cat([self.module.decoder.log_prob(piece, context).cpu() for piece in pieces])
            bound = self.module.log_prob(cloud.unsqueeze(0), labels=labels, posterior=posterior)
        return scores, bound.item()

    def likelihood(self, clouds: Tensor, num_particles: int, seed: int, units: str) -> LogLikelihood | None:
        if num_particles == 0:
            return None
        clouds = clouds.to(self.device, self.dtype)
        labels = self._labels(range(len(clouds)))
        return importance_weighted_bound(
            self.module, clouds, num_particles=num_particles, labels=labels, seed=seed, units=units
        )

    def _labels(self, clouds: Sequence[int]) -> Tensor | None:
        if not self.labels:
            return None
        return torch.tensor([self.labels[cloud % len(self.labels)] for cloud in clouds], device=self.device)


def load_model(run: Path, device: str, labels: Sequence[int] | None, custom: Sequence[str]) -> SavedModel:
    """The model of a run folder, or of a model file.

    Args:
        run: the folder or the file.
        device: where it is to compute.
        labels: the option `--label`.
        custom: the option `--custom`.

    Raises:
        ValueError: no file of a model, labels that are missing or that it does not have, or a model that needs more
            than a command can give.
        OSError: nothing to read there.
    """
    chosen = as_device(device)
    path = model_file(run)
    module = load(path, device=chosen, custom=load_custom(custom).values())
    module.eval()
    if isinstance(module, Completer):
        module = module.model
    kind = CloudModel if is_cloud_model(module) else PointModel
    try:
        return kind(module, labels or ())
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error

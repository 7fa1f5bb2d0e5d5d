"""The road of clouds: the evidence lower bound of a model and its guide."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_pcflow.models import unregistered
from pyro_pcflow.training.augmentation import FEW_CLOUDS, automatic_augmentations
from pyro_pcflow.training.cloud_batches import CloudBatch, CloudBatches, evaluation_batches
from pyro_pcflow.training.data_objective import DataObjective
from pyro_pcflow.training.inputs import as_clouds
from pyro_pcflow.training.objective import (
    cloud_options,
    corrected_guide_of,
    dtype_of,
    model_and_guide,
    noise_input_of,
    num_classes_of,
    num_clouds_of,
    point_dim_of,
    prior_of,
    share_of_rows,
)
from pyro_pcflow.training.options import AUTO, HELD_OUT, CloudSampling
from pyro_pcflow.training.sources import Source, some_clouds, some_points, split_clouds

__all__ = ["EvidenceLowerBound"]

CLOUDS_PER_STEP = 32
# The share of the training after which a correction of the posterior learns. Beside a decoder that moves it learns
# little, and a decoder that learns from what is corrected learns less as well. The prior goes on, or samples would be
# those of what the encoder alone finds.
CORRECTED_FROM = 0.8
# Of few clouds. While the rate is high, scores of a handful of chairs stay below their best for five evaluations, and
# rise again.
EVAL_EVERY, PATIENCE = 100, 10


class EvidenceLowerBound(DataObjective):
    """The negative evidence lower bound of clouds under a module's `model` and `guide`, by Pyro's `Trace_ELBO`.

    `fit` builds it from its arguments of the same names. Both are called as `model(clouds, mask, dataset_size)`, with
    those keyword options that their signatures name. A module whose signatures name `encoder_points` gets two
    independent samples of each cloud, one for its encoder and one to be scored; any other gets whole clouds. The
    parameters must be the module's own: Pyro's parameter store is left as it was.

    Args:
        module: has `model` and `guide`.
        data: clouds, or a pair of clouds and labels, see `fit`.
        batch_size: clouds per step.
        noise: standard deviation of the Gaussian noise that is added afresh to every point, and once to held-out data;
            "auto" chooses it, see `fit`.
        held_out: the share of clouds kept for evaluation, or clouds in any form of `data`.
        seed: decides the held-out clouds, the order, the points that are drawn and the noise on held-out clouds.
        sampling: how many points of a cloud are in a batch, and the warm-up of the latents' terms.

    Attributes:
        noise: the standard deviation of the noise, given or chosen.
        batches: `batch(step)` of the training clouds.
        held_out: batches that `evaluate` scores.

    Raises:
        TypeError: if the data is of a wrong type, or model and guide name different options.
        ValueError: if an argument, the shape or a value of the data is out of range, or does not fit the module.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> vae = pcf.PointCloudVAE(3, 4, decoder={"num_couplings": 4, "hidden_dims": [16]})
        >>> objective = EvidenceLowerBound(vae, torch.randn(20, 100, 3), batch_size=5)
        >>> with torch.no_grad():
        ...     sorted(objective.evaluate())
        ['kl', 'log_likelihood', 'nats_per_cloud', 'nats_per_point']
    """

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
        self._model, self._guide = model_and_guide(module)
        self._best_guide = self._guide
        self._held_first: list[nn.Parameter] = []
        self._held_then: list[nn.Parameter] = []
        corrected = corrected_guide_of(module)
        if corrected is not None:
            correction, self._best_guide = corrected
            self._held_first = _trained(correction)
            # The prior follows what is corrected.
            goes_on = {*self._held_first, *_trained(prior_of(module))}
            self._held_then = [parameter for parameter in _trained(module) if parameter not in goes_on]
            if self._held_first:
                # From the start, where all else is frozen.
                self.second_phase = CORRECTED_FROM if self._held_then else 0.0
        self._options = cloud_options(module)
        self._splits = "encoder_points" in self._options
        dtype, cpu = dtype_of(module), torch.device("cpu")
        self._training: Source = as_clouds(data, dtype, point_dim_of(module), cpu)
        self._evaluated: Source | None
        if self.held_out_share is not None:
            self._training, self._evaluated = split_clouds(self._training, self.held_out_share, self.seed)
        else:
            self._evaluated = as_clouds(held_out, dtype, self._training.point_dim, cpu, "held_out")
        self._check()
        self.settle_noise(some_clouds(self._training))
        if self.sampling.augment == AUTO and self._splits and num_clouds_of(module) is None:
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
        self._elbo = Trace_ELBO()
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
            split=self._splits,
            most_points=self.sampling.most_points if "num_points" in self._options else None,
            augment=self.augmentations,
        )
        self.held_out: list[CloudBatch] = []
        if self._evaluated is not None:
            self.held_out = evaluation_batches(self._evaluated, self.seed, self.noise, split=self._splits)

    def batch(self, step: int) -> CloudBatch:
        """Two samples of the points of some clouds, or whole clouds.

        A correction learns the posterior given the points that the encoder reads, while a model learns from whole
        clouds, of which the encoder reads some.
        """
        batch = self.batches.batch(step)
        return batch if self.progress < self.second_phase else batch.as_read()

    def share(self, batch: CloudBatch, rank: int, size: int) -> CloudBatch:
        """The clouds of one process."""
        return batch.part(share_of_rows(len(batch.clouds), rank, size), size)

    def loss(self, batch: CloudBatch) -> Tensor:
        """The negative bound over the number of points, in nats per point, the latents' terms weighted by the batch.

        Of a model that corrects its guide's posterior, all but the correction learns first, from the bound without
        corrections; then, in a second phase, the correction and the prior from the bound with them.
        """
        if self.progress < self.second_phase:
            return self._loss(batch, self._guide)
        with _frozen(self.held()):
            return self._loss(batch, self._best_guide)

    def held(self) -> Collection[nn.Parameter]:
        """The correction in the first phase, and all but it and the prior in the second."""
        return self._held_first if self.progress < self.second_phase else self._held_then

    def _loss(self, batch: CloudBatch, guide: Callable[..., Any]) -> Tensor:
        with pyro.get_param_store().scope(), unregistered():
            loss = self._elbo.differentiable_loss(
                self._model, guide, batch.clouds, batch.mask, self.size, **batch.options(self._options)
            )
        # The plate scales the batch to all clouds. A process has a part of a batch, and the mean of the parts is taken.
        return loss * len(batch.clouds) * batch.parts / (self.size * batch.whole_points)

    def evaluate(self) -> dict[str, float]:
        """The bound of the held-out clouds, with corrections of the posterior and never with weighted terms.

        Returns:
            `nats_per_point` and `nats_per_cloud`, the bound, and its parts in nats per cloud: `log_likelihood`, the
            expected log-density of the points, and `kl`, which is taken from it.
        """
        if not self.held_out:
            return {}
        log_likelihood = kl = 0.0
        with pyro.get_param_store().scope(), unregistered():
            for batch in self.held_out:
                arguments, options = (batch.clouds, batch.mask, len(batch.clouds)), batch.options(self._options)
                guide = poutine.trace(self._best_guide).get_trace(*arguments, **options)
                model = poutine.trace(poutine.replay(self._model, trace=guide)).get_trace(*arguments, **options)
                observed = poutine.util.prune_subsample_sites(model).observation_nodes
                likelihood = model.log_prob_sum(lambda name, _, observed=observed: name in observed)
                log_likelihood += float(likelihood)
                kl += float(guide.log_prob_sum() - (model.log_prob_sum() - likelihood))
        clouds = sum(len(batch.clouds) for batch in self.held_out)
        points = max(1, sum(int(batch.num_points.sum()) for batch in self.held_out))
        return {
            "nats_per_point": (log_likelihood - kl) / points,
            "nats_per_cloud": (log_likelihood - kl) / clouds,
            "log_likelihood": log_likelihood / clouds,
            "kl": kl / clouds,
        }

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
        if self.sampling.kl_warmup_steps and "kl_weight" not in self._options:
            raise ValueError(
                f"kl_warmup_steps needs a model and a guide that take kl_weight; those of {name} do not: leave it at "
                "0, or scale the latents in your model"
            )
        for what, clouds in (("data", self._training), ("held_out", self._evaluated)):
            if clouds is not None:
                _check_labels(what, clouds, num_classes_of(self.module), "labels" in self._options)


def _trained(part: nn.Module | None) -> list[nn.Parameter]:
    """The parameters of a part of a module that are trained; none where there is no such part."""
    return [] if part is None else [parameter for parameter in part.parameters() if parameter.requires_grad]


@contextmanager
def _frozen(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Let no gradient reach some parameters."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


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

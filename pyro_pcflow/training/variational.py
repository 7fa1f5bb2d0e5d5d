"""The road of clouds: the evidence lower bound of a model and its guide."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_pcflow.models import unregistered
from pyro_pcflow.training.cloud_batches import CloudBatch
from pyro_pcflow.training.cloud_objective import CLOUDS_PER_STEP, CloudObjective
from pyro_pcflow.training.objective import cloud_options, corrected_guide_of, model_and_guide, prior_of
from pyro_pcflow.training.options import HELD_OUT, CloudSampling

__all__ = ["EvidenceLowerBound"]

# The share of the training after which a correction of the posterior learns. Beside a decoder that moves it learns
# little, and a decoder that learns from what is corrected learns less as well. The prior goes on, or samples would be
# those of what the encoder alone finds.
CORRECTED_FROM = 0.8


class EvidenceLowerBound(CloudObjective):
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
        >>> import torch, pyro_pcflow as pcf
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
        self.splits = "encoder_points" in self._options
        self.takes_labels = "labels" in self._options
        self.counts_points = "num_points" in self._options
        super().__init__(
            module, data, batch_size=batch_size, noise=noise, held_out=held_out, seed=seed, sampling=sampling
        )
        self._elbo = Trace_ELBO()

    def batch(self, step: int) -> CloudBatch:
        """Two samples of the points of some clouds, or whole clouds.

        A correction learns the posterior given the points that the encoder reads, while a model learns from whole
        clouds, of which the encoder reads some.
        """
        batch = self.batches.batch(step)
        return batch if self.progress < self.second_phase else batch.as_read()

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

    def _check(self) -> None:
        super()._check()
        if self.sampling.kl_warmup_steps and "kl_weight" not in self._options:
            raise ValueError(
                "kl_warmup_steps needs a model and a guide that take kl_weight; those of "
                f"{type(self.module).__name__} do not: leave it at 0, or scale the latents in your model"
            )

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

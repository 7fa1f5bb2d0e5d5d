"""What training maximises, and on what."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import pyro
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_pcflow.models import unregistered
from pyro_pcflow.training.cloud_batches import MODEL_OPTIONS, CloudBatch, CloudBatches
from pyro_pcflow.training.density import Batches
from pyro_pcflow.training.distributed import Processes

__all__ = ["EvidenceLowerBound", "ExactLikelihood", "Objective", "check_module", "is_cloud_model", "known_options"]

POINTS_AT_ONCE = 16_384


class Objective(Protocol):
    """What the loop asks: batches, their loss, and an evaluation."""

    points_per_step: int
    evaluates: bool

    def batch(self, step: int) -> Any:
        """The training data of the step that follows `step` earlier ones."""

    def share(self, batch: Any, processes: Processes) -> Any:
        """What one of several processes takes of a batch."""

    def loss(self, batch: Any) -> Tensor:
        """A differentiable scalar to minimise, in nats per point."""

    def evaluate(self) -> dict[str, float]:
        """Scores of the held-out data by name, `nats_per_point` among them; nothing without such data."""


class ExactLikelihood:
    """The mean negative log-density of batches of points under a module's own `log_prob`.

    Args:
        module: has `log_prob`, from points of shape (M, D) to nats of shape (M,).
        batches: the training points.
        held_out: points to evaluate on, shape (K, D), or None.
    """

    def __init__(self, module: nn.Module, batches: Batches, held_out: Tensor | None) -> None:
        self.module = module
        self.batches = batches
        self.held_out = held_out
        self.points_per_step = batches.batch_size
        self.evaluates = held_out is not None
        self._log_prob: Callable[[Tensor], Tensor] = module.log_prob  # type: ignore[assignment]

    def batch(self, step: int) -> Tensor:
        """Points of shape (M, D)."""
        return self.batches.batch(step)

    def share(self, batch: Tensor, processes: Processes) -> Tensor:
        """The points of one process, all of them where it is alone."""
        return batch if processes.size == 1 else batch[processes.share(len(batch))]

    def loss(self, batch: Tensor) -> Tensor:
        """The mean negative log-density of points of shape (M, D), in nats per point."""
        return -self.log_prob(batch).mean()

    def evaluate(self) -> dict[str, float]:
        """The mean log-density of the held-out points, `nats_per_point`."""
        if self.held_out is None:
            return {}
        total = sum(self.log_prob(part).double().sum().item() for part in self.held_out.split(POINTS_AT_ONCE))
        return {"nats_per_point": total / len(self.held_out)}

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-densities of shape (M,) of points of shape (M, D).

        Raises:
            ValueError: if the module returns another shape.
        """
        log_prob = self._log_prob(points)
        # Any other shape would be averaged without a word.
        if log_prob.shape != points.shape[:-1]:
            raise ValueError(
                f"{type(self.module).__name__}.log_prob returned the shape {tuple(log_prob.shape)} for points of "
                f"shape {tuple(points.shape)}: expected one log-density for each point, {tuple(points.shape[:-1])}"
            )
        return log_prob


class EvidenceLowerBound:
    """The negative evidence lower bound of clouds under a module's `model` and `guide`, by Pyro's `Trace_ELBO`.

    Both are called with `(clouds, mask, dataset_size)`, and with those of `CloudBatch.options()` that their signatures
    name. Parameters must be the module's own. Pyro's parameter store is left as it was.

    Args:
        module: has `model` and `guide`.
        batches: the training clouds.
        held_out: batches to evaluate on.
    """

    def __init__(self, module: nn.Module, batches: CloudBatches, held_out: list[CloudBatch]) -> None:
        self.module = module
        self.batches = batches
        self.held_out = held_out
        self.points_per_step = batches.batch_size * batches.num_points
        self.evaluates = bool(held_out)
        self.size = len(batches.clouds)
        self._options = known_options(module)
        self._model, self._guide = module.model, module.guide
        self._elbo = Trace_ELBO()

    def batch(self, step: int) -> CloudBatch:
        """Two samples of the points of some clouds."""
        return self.batches.batch(step)

    def share(self, batch: CloudBatch, processes: Processes) -> CloudBatch:
        """The clouds of one process, all of them where it is alone."""
        return batch if processes.size == 1 else batch.part(processes.share(len(batch.clouds)), processes.size)

    def loss(self, batch: CloudBatch) -> Tensor:
        """The negative bound over the number of points, in nats per point, the latents' terms weighted by the batch."""
        with pyro.get_param_store().scope(), unregistered():
            arguments, options = self._arguments(batch)
            loss = self._elbo.differentiable_loss(self._model, self._guide, *arguments, **options)
        # The plate scales the batch to all clouds. A process has a part of a batch, and the mean of the parts is taken.
        return loss * len(batch.clouds) * batch.parts / (self.size * batch.whole_points)

    def evaluate(self) -> dict[str, float]:
        """The bound of the held-out clouds, never with weighted terms.

        Returns:
            `nats_per_point` and `nats_per_cloud`, the bound, and its parts in nats per cloud: `log_likelihood`, the
            expected log-density of the points, and `kl`, which is taken from it.
        """
        if not self.held_out:
            return {}
        log_likelihood = kl = 0.0
        with pyro.get_param_store().scope(), unregistered():
            for batch in self.held_out:
                arguments, options = self._arguments(batch, size=len(batch.clouds))
                guide = poutine.trace(self._guide).get_trace(*arguments, **options)
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

    def _arguments(self, batch: CloudBatch, size: int | None = None) -> tuple[tuple, dict[str, Any]]:
        size = self.size if size is None else size
        options = {name: value for name, value in batch.options().items() if name in self._options}
        return (batch.clouds, batch.mask, size), options


def known_options(module: nn.Module) -> set[str]:
    """The keyword options of training that a module's `model` and `guide` name, `MODEL_OPTIONS` or some of them.

    Raises:
        TypeError: if they name different ones.
    """
    calls: list[Any] = [module.model, module.guide]
    names = [set(MODEL_OPTIONS) & set(inspect.signature(call).parameters) for call in calls]
    if names[0] != names[1]:
        raise TypeError(
            f"the model and the guide of {type(module).__name__} are called with the same arguments, but only one of "
            f"them names {', '.join(sorted(names[0] ^ names[1]))}"
        )
    return names[0]


def is_cloud_model(module: nn.Module) -> bool:
    """Whether a module is trained on whole clouds, by its `model` and `guide`."""
    return callable(getattr(module, "model", None)) and callable(getattr(module, "guide", None))


def check_module(module: nn.Module) -> None:
    """Raise unless a module can be trained.

    Raises:
        TypeError: if it is no module, or has neither `log_prob` nor `model` and `guide`.
        ValueError: if it is a conditional flow.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to train, got {type(module).__name__}")
    if getattr(module, "context_dim", 0) > 0:
        raise ValueError(
            f"a conditional flow (context_dim={module.context_dim}) needs a model that supplies its contexts: fit "
            "such a model, as PointCloudVAE is one, or a flow built with context_dim=0"
        )
    if not is_cloud_model(module) and not callable(getattr(module, "log_prob", None)):
        raise TypeError(f"{type(module).__name__} has no log_prob(points) to maximise, nor a model and a guide")

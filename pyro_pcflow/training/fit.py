"""Fitting a density or a model of clouds, in one call."""

from __future__ import annotations

import logging as logs
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_pcflow.ops.origin import origin_text
from pyro_pcflow.ops.random import seeded
from pyro_pcflow.ops.signals import interruptible
from pyro_pcflow.training import toml
from pyro_pcflow.training.amortised import LikelihoodOfLatents
from pyro_pcflow.training.callbacks import Callback
from pyro_pcflow.training.data_objective import DataObjective
from pyro_pcflow.training.density import ExactLikelihood
from pyro_pcflow.training.distributed import start_processes
from pyro_pcflow.training.objective import (
    Objective,
    check_module,
    config_of,
    dtype_of,
    is_cloud_model,
    is_completer,
    learning_rate_of,
    origin_of,
    set_units,
    weight_decay_of,
)
from pyro_pcflow.training.optimizer import OptimizerFactory, build, options_of, rate_of, weight_decays
from pyro_pcflow.training.options import AUTO, HELD_OUT, CloudSampling, Logging, Optimization, Settings, as_device
from pyro_pcflow.training.pictures import Pictures
from pyro_pcflow.training.run_config import versions
from pyro_pcflow.training.run_folder import RunFolder
from pyro_pcflow.training.trainer import Trainer
from pyro_pcflow.training.variational import EvidenceLowerBound
from pyro_pcflow.training.warm_up import WarmUp

__all__ = ["FitResult", "fit"]

logger = logs.getLogger(__name__)

# What a user who says nothing of them has; an optimizer of yours has its own.
_BETAS_AND_DECAY = (Optimization().betas, Optimization().weight_decay)


@dataclass(frozen=True, repr=False)
class FitResult:
    """The result of a training.

    Attributes:
        steps: optimiser steps, those before a resumption included.
        seconds: wall time of the training, evaluations and earlier parts of a resumed run included, but not what comes
            before the first step.
        nats_per_point: score of the held-out data under the averaged weights, in the data's units; higher is better.
            For a density its mean log-density, for a model of clouds its evidence lower bound per point. None
            without held-out data.
        history: what was logged, the lines of `metrics.jsonl`.
        out: the run folder, or None.
        device: where the training ran.
        scores: everything that was evaluated last, by name; for a density also the `standard_error` of the score over
            the held-out points, for a model of clouds `nats_per_cloud`, the bound, and its parts, `log_likelihood` and
            `kl`.
        noise: standard deviation of the noise on training and held-out points, given or chosen; None with an objective
            of yours.
    """

    steps: int
    seconds: float
    nats_per_point: float | None
    history: list[dict[str, Any]]
    out: Path | None
    device: str
    scores: dict[str, float] = field(default_factory=dict)
    noise: float | None = None

    def __repr__(self) -> str:
        error = f" ± {self.scores['standard_error']:.3f}" if "standard_error" in self.scores else ""
        score = "" if self.nats_per_point is None else f": {self.nats_per_point:.3f}{error} nats per held-out point"
        if not score and self.scores:
            name, value = next(iter(self.scores.items()))
            score = f": {value:.3f} {name.replace('_', ' ')}"
        folder = "" if self.out is None else f", in {self.out}"
        noise = f", noise {self.noise:.3g}" if self.noise else ""
        return f"FitResult({self.steps} steps in {self.seconds:.1f} s on {self.device}{score}{noise}{folder})"


def fit(
    module: nn.Module,
    data: Any = None,
    *,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    noise: float | str = 0.0,
    held_out: Any = HELD_OUT,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    objective: Objective | None = None,
    optimizer: OptimizerFactory | None = None,
    callbacks: Sequence[Callback] = (),
    optimization: Optimization = Optimization(),  # noqa: B008
    sampling: CloudSampling = CloudSampling(),  # noqa: B008
    logging: Logging = Logging(),  # noqa: B008
) -> FitResult:
    """Fit a density to points by exact maximum likelihood, or a model of many clouds by variational inference.

    For a density, Adam minimises the mean negative log-density of batches of points. For a module with a `model` and a
    `guide`, such as a `PointCloudVAE`, it maximises the evidence lower bound of batches of clouds over their number of
    points; the encoder reads other points of a cloud than those that are scored, where there are enough. Fewer than 400
    clouds are stretched and moved afresh in every step, unless `sampling` says `augment=None`. What a module of yours
    must have is on the page "What fit needs from a module".

    The learning rate rises linearly, then falls to zero along half a cosine by the end of training, which is
    `max_steps` or `max_seconds`, whichever comes first. A running average of the weights is what is evaluated, and what
    the module holds when `fit` ends, however it ends; buffers keep their last values. Few data would be learnt by
    heart: there the average of the best evaluation stays, and training ends when evaluations are no better any more,
    see `patience` of `Optimization`.

    A module with `normalize(points)` that was not normalised before is given the training points first. Log-densities
    are in the data's units. The caller's random numbers, the module's device, its modes and its gradients are left
    as they were.

    Started by `torchrun`, the processes share every batch, through lightning-fabric (extra `distributed`); the first
    one writes files.

    With a folder `out`, a run that was stopped at any moment continues with `resume=True`. On the CPU, with
    `max_steps` alone, it ends with the same weights to the last bit as one that was never stopped. A run may be
    extended, even one that has ended: with `resume=True` and a larger `max_steps` or `max_seconds`, the learning rate
    follows the half cosine of the new length from there on, and rises to it over `warmup_steps` from where it was. Such
    a run ends a little behind one that was planned as long; the run folder says where it was extended.

    Ctrl-C and the signals SIGTERM and SIGHUP write a checkpoint first, between two steps or amid an evaluation. While
    that is written, a second one waits.

    Args:
        module: a `PointCloudFlow`, or any module with `log_prob`, from points (M, D) to nats (M,); or a
            `PointCloudVAE`, or any module with a `model` and a `guide`.
        data: for a density, points of shape (N, D) or (S, N, D): a tensor, an array, or a `Dataset` of items (D,) or
            (N, D). For a conditional density, a pair of points and their contexts: (N, D) and (N, C), or clouds
            (S, N, D) and (S, C), one context per cloud; clouds may also be a list of tensors of any sizes, or a
            `MappedClouds`. For a model, clouds of shape (S, N, D), a tensor or an array; a `MappedClouds`; a list or a
            `Dataset` of clouds (N, D) of any sizes; or a pair of any of these and labels (S,). None with an
            `objective`, which has its own. Coordinates in float64 that the weights' data type would round, as those of
            maps, stay in float64: a flow subtracts its `origin`, which a line of the log names; others refuse them.
        max_steps: steps to train for.
        max_seconds: seconds to train for, evaluations and checkpoints included. What a process does at first use comes
            before: imports, and on a CPU compiling the kernel of `pyro_pcflow.kernels`, once per machine, for which
            training waits as long as `max_seconds` at most. If that takes longer, training starts in torch, and
            changes over to the kernel between two steps. With `max_steps` alone it waits until the kernel is there.
        batch_size: points per step, 2048 by default; for a model, clouds per step, 32 by default.
        lr: the highest learning rate; by default the module's `learning_rate` (0.01 for a `PointCloudFlow`, 0.008 for a
            `PointCloudVAE`), or 0.003 if it has none; with an `optimizer`, the rate that it was made with.
        seed: decides the held-out data, the order of the batches, the noise, and a module's own random numbers.
        noise: standard deviation, in the data's units, of Gaussian noise added afresh to every batch, and once
            to held-out data. Without it, the density of points on a surface has no upper bound, and a warning says so.
            "auto" chooses it from training points, by their spacing and by the likelihood of other points that are not
            thickened, in less than a second, before the clock starts; from there on all is as if you had given the
            number, which the result, the run folder and one line of the log have. A run that is resumed keeps it. A
            model with `noise_input` gets a uniform share of it for each cloud in training, and all of it in evaluation.
        held_out: the share of points, or of clouds, kept for evaluation (at most 20,000 points or 512 clouds; 0 for
            none); or the points or clouds themselves, in any form of `data`. A point or a cloud that occurs several
            times in the data is on one side only, whatever its context. Drawn or given, they are evaluated with noise,
            since the density that is learned is that of points with noise: give them as they are. A score without
            noise, or of points that have theirs already, is `module.log_prob(points).mean()`.
        out: the run folder: `config.toml`, `metrics.jsonl`, `checkpoint.pt`, and at the end `model.pt` and pictures;
            None keeps nothing.
        resume: continue the run in `out`, perhaps to larger limits; starts one if there is none.
        device: where to train: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        objective: what is minimised, on data of its own, in place of what `fit` builds of `data`, `batch_size`,
            `noise`, `held_out` and `sampling`, which are left alone then.
        optimizer: makes the optimizer, as `lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)`; it is given a
            list of one vector that holds all weights, and is called twice. Its learning rate is multiplied by the
            schedule. It must step without a closure, and keep its state per parameter, as those of `torch.optim` do but
            for LBFGS. Adam by default.
        callbacks: told of lines of the metrics, evaluations and the end, see `Callback`.
        optimization: warm-up, clipping, averaging, precision.
        sampling: how many points of a cloud are in a batch.
        logging: how often it reports, evaluates and saves; progress bar and pictures.

    Returns:
        The steps, the seconds and the held-out log-density in nats per point.

    Raises:
        TypeError: if the module, the data or an option is of a wrong type.
        ValueError: if a setting, the shape or a value of the data is out of range; if the flow needs contexts;
            if `out` holds a run with other settings.
        FileExistsError: if `out` holds a run and `resume` is False; if another process trains in it; if it holds a file
            that is not of this run and would be replaced.
        TrainingDivergedError: if a loss, gradient or weight stops being finite. No step is taken with it; the last
            checkpoint stays, and the module holds the last averaged weights that were finite.
        KeyboardInterrupt: by Ctrl-C, SIGTERM (`signum` says which) or SIGHUP, after writing a checkpoint into `out`,
            where the interrupted step can be repeated. Its message says what was kept, and how to go on.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> flow = pcf.PointCloudFlow(point_dim=2, num_couplings=2, hidden_dims=[8])
        >>> points = 5 + 2 * torch.randn(1000, 2)
        >>> result = pcf.fit(flow, points, max_steps=20, batch_size=100, device="cpu")
        >>> result.steps
        20
        >>> result.nats_per_point > -6
        True
    """
    check_module(module)
    if resume and out is None:
        raise ValueError("resume=True needs the folder of the run to continue: give out")
    options_of_optimizer: dict[str, Any] = {}
    if optimizer is not None:
        if lr is not None:
            raise ValueError("lr is that of fit's own optimizer: give yours its learning rate, and leave lr out")
        trial = build(optimizer, nn.Parameter(torch.zeros(1, dtype=dtype_of(module))))
        lr, options_of_optimizer = rate_of(trial), {"optimizer": options_of(trial)}
    lr = learning_rate_of(module) if lr is None else lr
    settings = Settings(max_steps, max_seconds, lr, seed, optimization, logging)
    if optimizer is not None and (optimization.betas, optimization.weight_decay) != _BETAS_AND_DECAY:
        raise ValueError(
            "betas and weight_decay are those of fit's own optimizer: give them to yours, and leave them out of "
            "Optimization"
        )
    weight_decay = optimization.weight_decay
    if weight_decay is None:
        weight_decay = weight_decay_of(module) if optimizer is None else 0.0
    decays = weight_decays(module, weight_decay)
    callbacks = _all_callbacks(callbacks, logging, out)
    processes = start_processes(device)
    chosen_device = as_device(device) if processes.device is None else processes.device
    if objective is None:
        is_chosen, noise = noise == AUTO, _stored_noise(out, noise) if resume else noise
        objective = _objective(module, data, batch_size, noise, held_out, settings.seed, sampling)
        if is_chosen and processes.is_first:
            logger.warning('noise="auto": a standard deviation of %g, in the units of the data', objective.noise)
        if sampling.augment == AUTO and objective.augmentations and processes.is_first:
            changes = " and ".join(map(repr, objective.augmentations))
            logger.warning('augment="auto": few clouds, changed afresh in each step by %s', changes)
    else:
        _check_objective(module, objective, data, batch_size, noise, held_out, sampling)
    # What was settled is what a run folder says, and a resumed run must repeat.
    settings = settings.settled(weight_decay=weight_decay, patience=objective.patience, eval_every=objective.eval_every)
    if settings.optimization.patience is not None and not objective.evaluates:
        raise ValueError(
            "patience compares scores of held-out data, and there is none: leave held_out above 0, give held-out data, "
            "or leave patience out"
        )

    config = {
        "settings": {**settings.plain(), **options_of_optimizer},
        "data": objective.description(),
        "module": _describe(module),
        "environment": {"device": str(chosen_device), "threads": torch.get_num_threads(), **versions()},
    }
    folder = None
    if out is not None:
        files = [file for callback in callbacks for file in callback.files(module)]
        folder = RunFolder(out, config, resume=resume, outputs=files)
    # No process writes before every process has looked into the folder.
    processes.wait()

    trainer: Trainer | None = None

    def kept() -> str:
        if trainer is not None:
            return trainer.kept()
        return "interrupted before the first step: call it again" + (
            "" if folder is None else " with resume=True (on the command line --resume)"
        )

    with interruptible() as interrupts, ExitStack() as until_the_end:
        until_the_end.enter_context(_explained_interrupt(kept))
        with _placed_on(module, chosen_device), seeded(settings.seed + processes.rank, chosen_device):
            objective.to(chosen_device)
            earlier = origin_of(module)
            set_units(module, objective)
            origin = origin_of(module)
            if origin is not None and earlier is None and processes.is_first:
                logger.warning("an origin of %s is subtracted from the points, in float64", origin_text(origin))
            if folder is not None and processes.is_first:
                until_the_end.enter_context(folder.locked())
            warm_up = until_the_end.enter_context(WarmUp(module, chosen_device, settings.max_seconds))
            trainer = Trainer(
                module,
                objective,
                settings,
                folder,
                optimizer=optimizer,
                weight_decays=decays,
                callbacks=callbacks,
                config=config,
                processes=processes,
                interrupts=interrupts,
                warm_up=warm_up,
            )
            until_the_end.enter_context(interrupts.undisguised())
            with trainer:
                trainer.run()
        trainer.end()
    return FitResult(
        steps=trainer.step,
        seconds=trainer.seconds,
        nats_per_point=trainer.scores.get("nats_per_point"),
        scores=trainer.scores,
        history=trainer.history,
        out=None if folder is None else folder.path,
        device=str(chosen_device),
        noise=objective.noise if isinstance(objective, DataObjective) else None,
    )


def _all_callbacks(
    callbacks: Sequence[Callback], logging: Logging, out: str | os.PathLike[str] | None
) -> list[Callback]:
    """The callbacks of the user, and `Pictures` if there is a folder for them."""
    if isinstance(callbacks, Callback):
        raise TypeError(f"callbacks: expected a list, got one {type(callbacks).__name__}: put it into one")
    found = list(callbacks)
    for callback in found:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks: expected instances of pyro_pcflow.training.Callback, got {type(callback).__name__}"
            )
    if logging.pictures and out is not None:
        found.append(Pictures() if logging.pictures is True else logging.pictures)
    return found


def _objective(
    module: nn.Module,
    data: Any,
    batch_size: int | None,
    noise: float | str,
    held_out: Any,
    seed: int,
    sampling: CloudSampling,
) -> DataObjective:
    """Build the objective of the road that a module takes."""
    if data is None:
        raise TypeError("nothing to train on: give data, or an objective")
    options: dict[str, Any] = {"noise": noise, "held_out": held_out, "seed": seed, "sampling": sampling}
    if batch_size is not None:
        options["batch_size"] = batch_size
    road: Callable[..., DataObjective] = ExactLikelihood
    if is_completer(module):
        road = LikelihoodOfLatents
    elif is_cloud_model(module):
        road = EvidenceLowerBound
    return road(module, data, **options)


def _stored_noise(out: str | os.PathLike[str] | None, noise: float | str) -> float | str:
    """The noise that an earlier part of a run has chosen, where it was left to us."""
    path = Path(out or "") / "config.toml"
    if noise != AUTO or not path.is_file():
        return noise
    try:
        data = toml.read(path).get("data")
    except (OSError, ValueError):  # the run folder will say so
        return noise
    stored = data.get("noise") if isinstance(data, dict) else None
    return stored if isinstance(stored, float) else noise


def _check_objective(
    module: nn.Module,
    objective: Objective,
    data: Any,
    batch_size: int | None,
    noise: Any,
    held_out: Any,
    sampling: CloudSampling,
) -> None:
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected a pyro_pcflow.training.Objective, got {type(objective).__name__}")
    given = {
        "data": data is not None,
        "batch_size": batch_size is not None,
        "noise": noise != 0,
        "held_out": not (isinstance(held_out, float) and held_out == HELD_OUT),
        "sampling": sampling != CloudSampling(),
    }
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise ValueError(f"an objective has data and batches of its own: leave out {', '.join(names)}")
    if isinstance(objective, DataObjective) and {*module.parameters()}.isdisjoint(objective.module.parameters()):
        raise ValueError(
            f"the objective evaluates another {type(objective.module).__name__}, none of whose parameters are those of "
            f"the {type(module).__name__} to train: build it with the same module"
        )


def _describe(module: nn.Module) -> dict[str, Any]:
    return {
        "class": type(module).__name__,
        "dtype": str(dtype_of(module)),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "config": config_of(module),
    }


@contextmanager
def _explained_interrupt(kept: Callable[[], str]) -> Iterator[None]:
    """Give an interrupt a message that says what was kept, and how to continue."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = (kept(),)
        raise


@contextmanager
def _placed_on(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module to a device and clear its gradients; afterwards restore device, gradients and modes."""
    parameters = list(module.parameters())
    home = parameters[0].device
    gradients = [parameter.grad for parameter in parameters]
    modes = [(layer, layer.training) for layer in module.modules()]
    for parameter in parameters:
        parameter.grad = None
    try:
        module.to(device)
        # The loop needs gradients whatever the caller's own mode is.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in parameters:
            parameter.grad = None
        module.to(home)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for layer, mode in modes:
            layer.training = mode

"""Fitting a density to points, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_pcflow.ops.random import seeded
from pyro_pcflow.ops.signals import interruptible
from pyro_pcflow.training.distributed import start_processes
from pyro_pcflow.training.objective import check_module, is_cloud_model
from pyro_pcflow.training.options import Settings, as_device
from pyro_pcflow.training.pictures import check_camera
from pyro_pcflow.training.preparation import prepare_clouds, prepare_points
from pyro_pcflow.training.run_folder import RunFolder, versions
from pyro_pcflow.training.trainer import Loop
from pyro_pcflow.training.warm_up import WarmUp

__all__ = ["FitResult", "fit"]

POINTS_PER_STEP = 2048
CLOUDS_PER_STEP = 32


@dataclass(frozen=True, repr=False)
class FitResult:
    """What a training came to.

    Attributes:
        steps: optimiser steps, those before a resumption included.
        seconds: wall time of the training, evaluations and earlier parts of a resumed run included, but not what comes
            before the first step.
        nats_per_point: what the averaged weights make of the held-out data, in the data's units; higher is better.
            For a density its mean log-density, for a model of clouds its evidence lower bound per point. None
            without held-out data.
        history: what was logged, the lines of `metrics.jsonl`.
        out: the run folder, or None.
        device: where the training ran.
        scores: everything that was evaluated last, by name; for a model of clouds also `nats_per_cloud`, the bound,
            and its parts, `log_likelihood` and `kl`.
    """

    steps: int
    seconds: float
    nats_per_point: float | None
    history: list[dict[str, Any]]
    out: Path | None
    device: str
    scores: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        score = "" if self.nats_per_point is None else f": {self.nats_per_point:.3f} nats per held-out point"
        folder = "" if self.out is None else f", in {self.out}"
        return f"FitResult({self.steps} steps in {self.seconds:.1f} s on {self.device}{score}{folder})"


def fit(
    module: nn.Module,
    data: Any,
    *,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    batch_size: int | None = None,
    points_per_cloud: int = 128,
    seen_points: int = 512,
    lr: float = 3e-3,
    seed: int = 0,
    noise: float = 0.0,
    held_out: Any = 0.1,
    warmup_steps: int = 100,
    kl_warmup_steps: int = 0,
    grad_clip: float = 1.0,
    ema_decay: float = 0.999,
    log_every: int = 50,
    eval_every: int = 500,
    checkpoint_every: int = 500,
    checkpoint_seconds: float = 60.0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    pictures: bool | Mapping[str, Any] = True,
    precision: str = "full",
    recompute: bool = False,
    device: str | torch.device = "auto",
    progress: bool | None = None,
) -> FitResult:
    """Fit a density to points by exact maximum likelihood, or a model of many clouds by variational inference.

    For a density, Adam minimises the mean negative log-density of batches of points. For a module with a `model` and a
    `guide`, such as a `PointCloudVAE`, it maximises the evidence lower bound of batches of clouds over their number of
    points; the encoder reads other points of a cloud than those that are scored, where there are enough.

    Adam's rate rises linearly, then falls to zero along half a cosine by the end of training, which is `max_steps` or
    `max_seconds`, whichever comes first. A running average of the weights is what is evaluated, and what the module
    holds when `fit` ends, however it ends; buffers keep their last values.

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
        module: a `PointCloudFlow` without context, or any module with `log_prob`, from points (M, D) to nats (M,); or
            a `PointCloudVAE`, or any module with `model(clouds, mask, size)` and `guide(clouds, mask, size)`.
        data: for a density, points of shape (N, D) or (S, N, D): a tensor, an array, or a `Dataset` of items (D,) or
            (N, D). For a model, clouds of shape (S, N, D), a tensor or an array; a `MappedClouds`; a list or a
            `Dataset` of clouds (N, D) of any sizes; or a pair of any of these and labels (S,).
        max_steps: steps to train for.
        max_seconds: seconds to train for, evaluations and checkpoints included. What a process does at first use comes
            before: imports, and on a CPU compiling the kernel of `pyro_pcflow.kernels`, once for a machine, for which
            training waits as long as `max_seconds` at most. Where that takes longer, training starts in torch, and
            changes over to the kernel between two steps. With `max_steps` alone it waits until the kernel is there.
        batch_size: points per step, 2048 by default; for a model, clouds per step, 32 by default.
        points_per_cloud: for a model, how many points of a cloud are scored in a step, which stand for all.
        seen_points: for a model, how many others its encoder reads, at most half of a cloud. One that was trained on
            few points is at a loss before the many that it is evaluated on.
        lr: the highest learning rate.
        seed: decides the held-out data, the order of the batches, the noise, and a module's own random numbers.
        noise: standard deviation, in the data's units, of Gaussian noise added afresh to every batch, and once
            to held-out data. Without it, the density of points on a surface has no upper bound. A model with
            `noise_input` gets a uniform share of it for each cloud in training, and all of it in evaluation.
        held_out: the share of points, or of clouds, kept for evaluation (at most 20,000 points or 512 clouds; 0 for
            none); or the points or clouds themselves, in any form of `data`. A point or a cloud that occurs several
            times in the data is on one side only. Drawn or given, they are evaluated with noise, since the density
            that is learned is that of points with noise: give them as they are. A score without noise, or of points
            that have theirs already, is `module.log_prob(points).mean()`.
        warmup_steps: steps over which the learning rate rises.
        kl_warmup_steps: for a model, steps over which the weight of the latents' terms rises to 1. What is evaluated is
            always the bound, without weights.
        grad_clip: largest norm of the gradient; infinity for no clipping.
        ema_decay: share of itself that the average keeps at a step, in the long run; 0 for no averaging.
        log_every: steps between lines of the metrics and updates of the progress bar.
        eval_every: steps between evaluations on the held-out points.
        checkpoint_every: steps between checkpoints.
        checkpoint_seconds: seconds after which a checkpoint is written in any case.
        out: the run folder, see `RunFolder`; None keeps nothing.
        resume: continue the run in `out`, perhaps to larger limits; starts one if there is none.
        pictures: draw a `PointCloudFlow` or a `PointCloudVAE` into `out` at the end, which takes some seconds; or the
            camera of these pictures: `up`, the axis that stands upright ("y"), and `azim`, degrees around it.
        precision: `"full"`, or `"bfloat16"` for the hidden layers of networks, which a GPU evaluates faster; shifts and
            log-scales, and with them the log-determinant, keep the precision of the parameters. Scores are always full.
        recompute: let a backward pass evaluate couplings once more instead of keeping their hidden layers: a third
            slower, and memory for coordinates alone grows with the depth of a stack.
        device: where to train: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        progress: True shows a progress bar, or lines in a log; None shows a bar in a terminal or a notebook, and a line
            every half a minute in a log; False shows nothing.

    Returns:
        The steps, the seconds and the held-out log-density in nats per point.

    Raises:
        TypeError: if the module or the data is of a wrong type.
        ValueError: if a setting, the shape or a value of the data is out of range; if the flow needs a context;
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
    camera = check_camera(pictures if isinstance(pictures, Mapping) else {})
    of_clouds = is_cloud_model(module)
    if batch_size is None:
        batch_size = CLOUDS_PER_STEP if of_clouds else POINTS_PER_STEP
    settings = Settings(
        max_steps=max_steps,
        max_seconds=max_seconds,
        batch_size=batch_size,
        points_per_cloud=points_per_cloud,
        seen_points=seen_points,
        lr=lr,
        seed=seed,
        noise=noise,
        warmup_steps=warmup_steps,
        kl_warmup_steps=kl_warmup_steps,
        grad_clip=grad_clip,
        ema_decay=ema_decay,
        log_every=log_every,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        checkpoint_seconds=checkpoint_seconds,
        precision=precision,
        recompute=recompute,
    )
    if resume and out is None:
        raise ValueError("resume=True needs the folder of the run to continue: give out")
    processes = start_processes(device)
    chosen_device = as_device(device) if processes.device is None else processes.device
    prepare = prepare_clouds if of_clouds else prepare_points
    prepared = prepare(module, data, held_out, settings, _dtype_of(module), chosen_device)

    folder = None
    if out is not None:
        share = float(held_out) if isinstance(held_out, Real) else "given"
        description = {
            "settings": {**asdict(settings), "held_out": share},
            "data": prepared.description,
            "module": _describe(module),
            "environment": {"device": str(chosen_device), "threads": torch.get_num_threads(), **versions()},
        }
        folder = RunFolder(
            out,
            description,
            resume=resume,
            compared=("settings", "data", "module"),
            ignored=("log_every", "eval_every", "checkpoint_every", "checkpoint_seconds"),
            limits=("max_steps", "max_seconds"),
            pictures=prepared.pictures(module) if pictures else (),
        )
    # Nobody writes before everybody has looked into the folder.
    processes.wait()

    loop: Loop | None = None

    def kept() -> str:
        if loop is not None:
            return loop.kept()
        return "interrupted before the first step: call it again" + (
            "" if folder is None else " with resume=True (on the command line --resume)"
        )

    with interruptible() as interrupts, ExitStack() as until_the_end:
        until_the_end.enter_context(_telling(kept))
        with _borrowed(module, chosen_device), seeded(settings.seed + processes.rank, chosen_device):
            normalize = getattr(module, "normalize", None)
            if callable(normalize) and not getattr(module, "normalized", False):
                normalize(prepared.points_for_units())
            if folder is not None and processes.is_first:
                until_the_end.enter_context(folder.locked())
            warm_up = until_the_end.enter_context(WarmUp(module, chosen_device, settings.max_seconds))
            loop = Loop(module, prepared.objective(module), settings, folder, processes, interrupts, warm_up)
            until_the_end.enter_context(interrupts.undisguised())
            with loop:
                loop.run(progress)
        if folder is not None and pictures and processes.is_first:
            prepared.write_pictures(module, folder.path, **camera)
    return FitResult(
        steps=loop.step,
        seconds=loop.seconds,
        nats_per_point=loop.scores.get("nats_per_point"),
        scores=loop.scores,
        history=loop.history,
        out=None if folder is None else folder.path,
        device=str(chosen_device),
    )


def _dtype_of(module: nn.Module) -> torch.dtype:
    for parameter in module.parameters():
        if parameter.requires_grad:
            return parameter.dtype
    raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: there is nothing to train")


def _describe(module: nn.Module) -> dict[str, Any]:
    config = getattr(module, "config", None)
    return {
        "class": type(module).__name__,
        "dtype": str(_dtype_of(module)),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "config": config if isinstance(config, Mapping) else None,
    }


@contextmanager
def _telling(kept: Callable[[], str]) -> Iterator[None]:
    """Let an interrupt say what was kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = (kept(),)
        raise


@contextmanager
def _borrowed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a module on a device, without gradients, and give it back where it was and as it was."""
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

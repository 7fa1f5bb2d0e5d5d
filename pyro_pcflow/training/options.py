"""Options of a training, checked where they are made, and its device."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from pyro_pcflow.training.augmentation import Augmentation, as_augmentations
from pyro_pcflow.training.callbacks import Callback

__all__ = [
    "AUTO",
    "HELD_OUT",
    "PRECISIONS",
    "CloudSampling",
    "Logging",
    "Optimization",
    "Settings",
    "as_device",
    "check_kind",
    "noise_scale",
    "real_number",
    "whole_number",
]

Kind = TypeVar("Kind")
# The share of points, or of clouds, that is kept for evaluation unless you say otherwise.
HELD_OUT = 0.1
# The word for noise of the width that suits the data.
AUTO = "auto"
# Names to data types of the hidden layers, None for that of the parameters.
PRECISIONS: dict[str, torch.dtype | None] = {"full": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How `fit` steps, beside its learning rate.

    Args:
        betas: of Adam: the shares of themselves that its averages of gradients and of their squares keep at a step.
        weight_decay: the share that a weight loses at a step, times the learning rate, beside what the gradient does
            (Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019): a number for all weights, or
            names of parts of the module to numbers for theirs, such as `{"prior": 2.0}`; of parts within parts the
            inner one decides, and `""` is the whole module. None for what the module asks for by its attribute
            `weight_decay`: a `PointCloudVAE` for that of its prior, most others for none.
        warmup_steps: steps over which the learning rate rises.
        grad_clip: largest norm of the gradient; infinity for no clipping.
        ema_decay: share of itself that the average of the weights keeps at a step, in the long run; 0 for no averaging.
        patience: early stopping: training ends after so many evaluations in a row without a better held-out score than
            before, and the module is left with the best averaged weights that were evaluated, also if training comes
            to its planned end. None trains to the end, and leaves the last. "auto" ends a training that would learn
            its data by heart: with held-out data it is 5 for a density of at most 20,000 points and 10 for a model of
            fewer than 400 clouds, and None for all else. `Logging(eval_every=...)` decides how far apart evaluations
            are. Of a training in two phases it ends the phase, and the second begins from the best weights of the
            first: when it is due, or at once, for as long as was planned.
        precision: `"full"`, or `"bfloat16"` for the hidden layers of networks, which a GPU evaluates faster; shifts and
            log-scales, and with them the log-determinant, keep the precision of the parameters. Scores are always full.
        recompute: whether a backward pass evaluates couplings once more instead of keeping their hidden layers
            (activation checkpointing): a third slower, and only the coordinates take memory in proportion to depth.

    Raises:
        TypeError: if a number of steps is not an integer.
        ValueError: if an option is out of range; the message names it.

    Examples:
        >>> Optimization(warmup_steps=500, ema_decay=0.9999).grad_clip
        1.0
    """

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float | Mapping[str, float] | None = None
    warmup_steps: int = 50
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    patience: int | str | None = AUTO
    precision: str = "full"
    recompute: bool = False

    def __post_init__(self) -> None:
        _set(self, "betas", _pair_of_shares("betas", self.betas))
        if self.weight_decay is not None:
            _set(self, "weight_decay", _decays(self.weight_decay))
        if self.patience is not None and self.patience != AUTO:
            _set(self, "patience", whole_number("patience", self.patience, 1))
        _set(self, "warmup_steps", whole_number("warmup_steps", self.warmup_steps, 0))
        positive = "positive (infinity for no clipping)"
        _set(self, "grad_clip", real_number("grad_clip", self.grad_clip, lambda value: value > 0, positive))
        share = "at least 0 and below 1"
        _set(self, "ema_decay", real_number("ema_decay", self.ema_decay, lambda value: 0 <= value < 1, share))
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        _set(self, "recompute", bool(self.recompute))


@dataclass(frozen=True, kw_only=True)
class CloudSampling:
    """Which points of a cloud a step of `fit` takes; no concern of a density of single points.

    Args:
        target_points: how many points of a cloud are scored in a step; they stand for all of them.
        encoder_points: how many other points its encoder reads, at most half of the cloud; or a pair, the least and the
            most of them, of which each step draws a number, uniform in its logarithm. An encoder does best with as many
            points as it was trained on.
        kl_warmup_steps: steps over which the weight of the latents' terms rises to 1. What is evaluated is always the
            bound, without weights.
        most_points: what a whole cloud counts as, at most: the scored points stand for this many, even where a cloud
            has more. The more points count, the narrower are posteriors, and the less do latents between those of
            training clouds learn to decode. None for all points, as in the bound that is evaluated.
        augment: changes training clouds afresh in every step, held-out ones never, before noise is added: a function
            from clouds (B, N, D) to clouds of the same shape, or a list of such functions, applied in turn. Ready-made
            are `ScaleAxes`, `Mirror`, `RotateSlightly` and `Shift`. It is given the encoder's points and the scored
            ones of a cloud as one cloud, padded with zeros where sizes differ, and draws from torch's generators,
            whose seed then follows from the seed of the training and the step. "auto" stretches and moves the clouds
            of a model with an encoder if there are fewer than 400 of 2 or 3 coordinates, and says so: an encoder that
            saw few is sure of wrong latents of others. None changes nothing.

    Raises:
        TypeError: if a number is not an integer, or `augment` cannot be called.
        ValueError: if an option is out of range; the message names it.

    Examples:
        >>> CloudSampling(target_points=256).encoder_points
        512
    """

    target_points: int = 128
    encoder_points: int | tuple[int, int] = 512
    kl_warmup_steps: int = 0
    most_points: int | None = 2048
    augment: Augmentation | Sequence[Augmentation] | str | None = AUTO

    def __post_init__(self) -> None:
        if self.augment != AUTO:
            _set(self, "augment", as_augmentations(self.augment) or None)
        if self.most_points is not None:
            _set(self, "most_points", whole_number("most_points", self.most_points, 1))
        for name, least in (("target_points", 1), ("kl_warmup_steps", 0)):
            _set(self, name, whole_number(name, getattr(self, name), least))
        _set(self, "encoder_points", _number_or_range("encoder_points", self.encoder_points))

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """Those that `augment` names, in turn; none for "auto", of which an objective decides."""
        return () if self.augment == AUTO else as_augmentations(self.augment)


@dataclass(frozen=True, kw_only=True)
class Logging:
    """How often `fit` reports, evaluates and saves, and what it shows.

    Args:
        log_every: steps between lines of the metrics and updates of the progress bar.
        eval_every: steps between evaluations on the held-out data; "auto" is 50 for a density of at most 20,000 points,
            100 for a model of fewer than 400 clouds, and 500 for all else.
        checkpoint_every: steps between checkpoints.
        checkpoint_seconds: seconds after which a checkpoint is written in any case; infinity for none by time.
        progress: True shows a progress bar, or lines in a log; None shows a bar in a terminal or a notebook, and a line
            every half a minute in a log; False shows nothing.
        pictures: whether a `PointCloudFlow` or a `PointCloudVAE` is drawn into the run folder at the end, which takes
            some seconds; or how, as `Pictures(up="z")`.

    Raises:
        TypeError: if a number of steps is not an integer, or `pictures` is neither a boolean nor a callback.
        ValueError: if an option is out of range; the message names it.

    Examples:
        >>> Logging(eval_every=100, pictures=False).checkpoint_every
        500
    """

    log_every: int = 50
    eval_every: int | str = AUTO
    checkpoint_every: int = 500
    checkpoint_seconds: float = 60.0
    progress: bool | None = None
    pictures: bool | Callback = True

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every"):
            _set(self, name, whole_number(name, getattr(self, name), 1))
        if self.eval_every != AUTO:
            _set(self, "eval_every", whole_number("eval_every", self.eval_every, 1))
        positive = "positive (infinity for none by time)"
        seconds = real_number("checkpoint_seconds", self.checkpoint_seconds, lambda value: value > 0, positive)
        _set(self, "checkpoint_seconds", seconds)
        if not isinstance(self.pictures, bool | Callback):
            raise TypeError(
                f"pictures must be True, False, or a callback such as Pictures(up='z'), got {self.pictures!r}"
            )


@dataclass(frozen=True)
class Settings:
    """What the loop of a training is told: its end, its rate, and options."""

    max_steps: int | None
    max_seconds: float | None
    lr: float
    seed: int
    optimization: Optimization
    logging: Logging

    def __post_init__(self) -> None:
        check_kind("optimization", self.optimization, Optimization)
        check_kind("logging", self.logging, Logging)
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("training without an end: give max_steps, max_seconds, or both")
        if self.max_steps is not None:
            _set(self, "max_steps", whole_number("max_steps", self.max_steps, 1))
        for name in ("max_seconds", "lr"):
            value = getattr(self, name)
            if value is not None:
                _set(self, name, real_number(name, value, lambda value: 0 < value < math.inf, "positive and finite"))
        _set(self, "seed", whole_number("seed", self.seed, 0))
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2 ** 63, got {self.seed!r}")

    def plain(self) -> dict[str, Any]:
        """As plain values by name, for `config.toml`."""
        own = {"max_steps": self.max_steps, "max_seconds": self.max_seconds, "lr": self.lr, "seed": self.seed}
        logging = {name: value for name, value in vars(self.logging).items() if name not in ("progress", "pictures")}
        return {**own, **vars(self.optimization), **logging}

    def settled(self, *, weight_decay: Any, patience: int | None, eval_every: int) -> Settings:
        """With a weight decay, and with values in the place of "auto"."""
        optimization = replace(self.optimization, weight_decay=weight_decay)
        if optimization.patience == AUTO:
            optimization = replace(optimization, patience=patience)
        logging = self.logging
        if logging.eval_every == AUTO:
            logging = replace(logging, eval_every=eval_every)
        return replace(self, optimization=optimization, logging=logging)


def whole_number(name: str, value: Any, least: int) -> int:
    """An integer of at least `least`, or an error that names it."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}") from error
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return number


def _number_or_range(name: str, value: Any) -> int | tuple[int, int]:
    """A positive integer, or two of them in order, or an error that names them."""
    if not isinstance(value, list | tuple):
        return whole_number(name, value, 1)
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or a pair of numbers, got {value!r}")
    least = whole_number(name, value[0], 1)
    return least, whole_number(f"the second of {name}", value[1], least)


def real_number(name: str, value: Any, holds: Callable[[float], bool], expected: str) -> float:
    """A number that a condition holds for, or an error that names it."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be {expected}, got {value!r}") from error
    if not holds(number):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def _decays(weight_decay: Any) -> float | dict[str, float]:
    """A weight decay of all weights, or of parts of a module by their names."""

    def decay(name: str, value: Any) -> float:
        return real_number(name, value, lambda value: 0 <= value < math.inf, "at least 0 and finite")

    if not isinstance(weight_decay, Mapping):
        return decay("weight_decay", weight_decay)
    # Nothing for no part is what 0 says.
    return {str(part): decay(f"weight_decay of {part!r}", value) for part, value in weight_decay.items()} or 0.0


def _pair_of_shares(name: str, values: Any) -> tuple[float, float]:
    """Two numbers in [0, 1)."""
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise TypeError(f"{name} must be two numbers, such as (0.9, 0.999), got {values!r}")
    first, second = (
        real_number(name, value, lambda value: 0 <= value < 1, "two numbers, at least 0 and below 1")
        for value in values
    )
    return first, second


def noise_scale(noise: Any) -> float | None:
    """The standard deviation of the noise on points, None for the one that suits them."""
    if isinstance(noise, str) and noise == AUTO:
        return None
    expected = f'a standard deviation, at least 0 and finite, or "{AUTO}"'
    return real_number("noise", noise, lambda value: 0 <= value < math.inf, expected)


def check_kind(name: str, options: Any, kind: type[Kind]) -> Kind:
    """Return options, or raise a `TypeError` that names them unless they are of their class."""
    if not isinstance(options, kind):
        raise TypeError(f"{name} must be a pyro_pcflow.training.{kind.__name__}, got {options!r}")
    return options


def _set(options: Any, name: str, value: Any) -> None:
    object.__setattr__(options, name, value)


def as_device(device: str | torch.device) -> torch.device:
    """Turn the name of a device, or "auto", into a device that is there.

    Args:
        device: "auto" (a GPU where torch sees one, else the CPU), "cpu", "cuda", "cuda:1", or a device.

    Raises:
        ValueError: if the name is unknown, or torch does not see the device.

    Examples:
        >>> as_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device {device!r}: expected auto, cpu, cuda, or cuda:0 and so on") from error
    if chosen.type == "cpu":
        return torch.device("cpu")
    if chosen.type != "cuda":
        raise ValueError(f"cannot train on device {device!r}: expected auto, cpu, cuda, or cuda:0 and so on")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees no GPU: use device='cpu' or 'auto'")
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= count:
        raise ValueError(f"device {str(device)!r} was asked for, but torch sees only {count} GPUs, from cuda:0")
    return torch.device("cuda", index)

"""The numbers that a training is described by, checked at the border."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

__all__ = ["PRECISIONS", "Settings", "as_device"]

# Names to data types of the hidden layers, None for that of the parameters.
PRECISIONS: dict[str, torch.dtype | None] = {"full": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """The settings of one training; `fit` documents each.

    Raises:
        TypeError: if a number of steps or points is not an integer.
        ValueError: if a setting is out of range, naming it.
    """

    max_steps: int | None
    max_seconds: float | None
    batch_size: int
    points_per_cloud: int
    seen_points: int
    lr: float
    seed: int
    noise: float
    warmup_steps: int
    kl_warmup_steps: int
    grad_clip: float
    ema_decay: float
    log_every: int
    eval_every: int
    checkpoint_every: int
    checkpoint_seconds: float
    precision: str
    recompute: bool

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("training without an end: give max_steps, max_seconds, or both")
        for field in fields(self):
            value = getattr(self, field.name)
            kind = str(field.type).split()[0]
            if value is not None:
                convert: Any = {"int": operator.index, "float": float, "bool": bool, "str": str}[kind]
                object.__setattr__(self, field.name, convert(value))
        for name in ("max_steps", "batch_size", "points_per_cloud", "seen_points"):
            self._require(name, lambda value: value >= 1, "at least 1")
        for name in ("log_every", "eval_every", "checkpoint_every"):
            self._require(name, lambda value: value >= 1, "at least 1")
        for name in ("max_seconds", "lr"):
            self._require(name, lambda value: 0 < value < math.inf, "positive and finite")
        self._require("checkpoint_seconds", lambda value: value > 0, "positive (infinity for none by time)")
        self._require("grad_clip", lambda value: value > 0, "positive (infinity for no clipping)")
        self._require("noise", lambda value: 0 <= value < math.inf, "a standard deviation, at least 0 and finite")
        for name in ("warmup_steps", "kl_warmup_steps"):
            self._require(name, lambda value: value >= 0, "at least 0")
        self._require("ema_decay", lambda value: 0 <= value < 1, "at least 0 and below 1")
        self._require("precision", lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        self._require("seed", lambda value: 0 <= value < 2**63, "at least 0 and below 2 ** 63")

    def _require(self, name: str, holds: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise ValueError(f"{name} must be {expected}, got {value!r}")


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

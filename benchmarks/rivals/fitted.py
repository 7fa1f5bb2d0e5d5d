"""What a density of one shape comes to after its seconds, and how a flow gets there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

import pyro_pcflow as pcf
from benchmarks.common.meshes import Shape
from benchmarks.common.scores import Density, count_parameters


@dataclass(frozen=True)
class Fitted:
    """A density, how many numbers it stores, the steps (iterations, trials) that it took, and where it diverged."""

    density: Density
    stored: int
    steps: int
    diverged_at: int | None = None


def fit_flow(
    make: Callable[..., Any],
    shape: Shape,
    seconds: float,
    seed: int,
    *,
    noise: float | str,
    lr: float | None = None,
    held_out: bool = True,
    options: Mapping[str, Any] | None = None,
    **sizes: Any,
) -> Fitted:
    """Train a flow with the loop that users have.

    Args:
        make: from sizes to an untrained flow.
        shape: what it learns.
        seconds: training time.
        seed: of the flow's weights and of the training.
        noise: standard deviation of the noise that thickens the points afresh in every batch, or `"auto"`.
        lr: learning rate; None for the default.
        held_out: train on all points and evaluate on those for validation; otherwise a share is held out by default.
        options: passed to `pyro_pcflow.fit`.
        sizes: passed to `make`.
    """
    torch.manual_seed(seed)
    flow = make(**sizes)
    given: dict[str, Any] = {"lr": lr, **(options or {}), **({"held_out": shape.validation} if held_out else {})}
    quiet = pcf.training.Logging(progress=False)
    diverged_at = None
    try:
        steps = pcf.fit(flow, shape.train, max_seconds=seconds, seed=seed, noise=noise, logging=quiet, **given).steps
    except pcf.training.TrainingDivergedError as error:
        steps = diverged_at = error.step
    return Fitted(flow, count_parameters(flow), steps, diverged_at)

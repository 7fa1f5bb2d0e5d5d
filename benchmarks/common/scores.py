"""What trained models score."""

from __future__ import annotations

import math
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor, nn

import pyro_pcflow as pcf


class Density(Protocol):
    """What has log-densities of points."""

    def log_prob(self, points: Tensor) -> Tensor:
        """From points (N, D) to nats (N,)."""


def count_parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def nats_per_point(density: Density, points: Tensor) -> float:
    """Mean log-density of points; minus infinity for what is no density any more."""
    with torch.no_grad(), pyro.validation_enabled(False):
        mean = float(density.log_prob(points).mean())
    return mean if math.isfinite(mean) else -math.inf


def evidence_lower_bound(module: nn.Module, clouds: Any, noise: float) -> dict[str, float]:
    """The bound of whole clouds, as ``pcf.fit`` scores clouds that are held out.

    Args:
        module: a model of many clouds.
        clouds: shape `(S, N, D)`, or a pair of them and their labels.
        noise: standard deviation of the Gaussian noise that thickens all points.

    Returns:
        `nats_per_point` and `nats_per_cloud`, the bound, and its parts; nothing if one of them is not finite.
    """
    objective = pcf.training.EvidenceLowerBound(module, clouds, held_out=clouds, noise=noise)
    with torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(0)
        scores = objective.evaluate()
    return scores if all(map(math.isfinite, scores.values())) else {}

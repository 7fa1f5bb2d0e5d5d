"""What trained models score."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from benchmarks.common.randomness import generator_for

CLOUDS_AT_ONCE = 64


def count_parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def nats_per_point(module: nn.Module, points: Tensor) -> float:
    """Mean log-density of points; minus infinity for a module that is no density any more."""
    with torch.no_grad(), pyro.validation_enabled(False):
        mean = float(module.log_prob(points).mean())  # type: ignore[operator]
    return mean if math.isfinite(mean) else -math.inf


@torch.no_grad()
def evidence_lower_bound(module: Any, clouds: Tensor, noise: float) -> dict[str, float]:
    """The bound of whole clouds from one latent each, as ``pcf.fit`` scores clouds that are held out.

    Half of a cloud's points are for the encoder, and the other half is scored and stands for all.

    Args:
        module: a model with `encode`, `decode` and a prior over latents, such as a ``PointCloudVAE``.
        clouds: shape `(S, N, D)`.
        noise: standard deviation of the Gaussian noise that thickens all points.

    Returns:
        `nats_per_point` and `nats_per_cloud`, the bound, and `kl`, the latent's part of it in nats per cloud; nothing
        if one of them is not finite.
    """
    count, num_points = clouds.shape[:2]
    half, generator = num_points // 2, generator_for(0, "held-out points")
    halves = []
    log_likelihood = kl = 0.0
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(0)
        for some in clouds.split(CLOUDS_AT_ONCE):
            order = torch.rand(some.shape[:2], generator=generator).to(some.device).argsort(-1, descending=True)
            sample = some.take_along_dim(order.unsqueeze(-1), 1)
            encoder_points, targets = sample[:, :half], sample[:, half:]
            targets = targets + noise * torch.randn_like(targets)
            halves.append((encoder_points + noise * torch.randn_like(encoder_points), targets))
        torch.manual_seed(0)
        for encoder_points, targets in halves:
            posterior = module.encode(encoder_points)
            z = posterior.sample()
            share = targets.shape[1] / num_points
            log_likelihood += float(module.decode(z, targets.shape[1]).log_prob(targets).sum()) / share
            kl += float((posterior.log_prob(z) - module.latent_prior().log_prob(z)).sum())
    bound = log_likelihood - kl
    scores = {"nats_per_point": bound / (count * num_points), "nats_per_cloud": bound / count, "kl": kl / count}
    return scores if all(map(math.isfinite, scores.values())) else {}

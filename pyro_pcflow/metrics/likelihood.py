"""Held-out log-likelihood of clouds, exact or as an importance-weighted bound, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.random import seeded

__all__ = ["LogLikelihood", "importance_weighted_bound", "log_likelihood"]

# Points scored at a time, so that the memory of a network's activations stays bounded.
POINTS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log-densities of clouds.

    A log-density depends on the unit: with coordinates `c` times as large it is `D log c` nats per point lower. Compare
    only numbers of one unit.

    Args:
        nats_per_cloud: (S,) of float64.
        num_points: points of each cloud.
        kind: `"exact"`, or which bound.
        units: the unit of coordinates that the density is per.

    Examples:
        >>> result = LogLikelihood(torch.tensor([100.0, 300.0]), 100, "exact", "metres")
        >>> result.nats_per_point, result.standard_error
        (2.0, 1.0)
    """

    nats_per_cloud: Tensor
    num_points: int
    kind: str
    units: str = "the data's units"

    @property
    def nats_per_point(self) -> float:
        """Mean over all points of all clouds. NaN or infinite if one of them is."""
        return float(self.per_point.mean())

    @property
    def per_point(self) -> Tensor:
        """Mean over the points of each cloud, (S,)."""
        return self.nats_per_cloud.double() / self.num_points

    @property
    def standard_error(self) -> float:
        """Of `nats_per_point`, from the spread between clouds; NaN for one cloud."""
        if len(self.nats_per_cloud) < 2:
            return math.nan
        return float(self.per_point.std()) / math.sqrt(len(self.nats_per_cloud))


def log_likelihood(
    flow: Any, clouds: Tensor, *, context: Tensor | None = None, units: str = "the data's units"
) -> LogLikelihood:
    """Held-out log-likelihood of a density of points, exactly.

    Args:
        flow: anything with `log_prob(points)`, as a `PointCloudFlow` or a distribution over points.
        clouds: (S, N, D), that the flow was not trained on.
        context: (S, C), one for each cloud, passed to `log_prob` as its second argument, for a flow that needs one.
        units: the unit of the coordinates, as reports are to name it.

    Returns:
        Nats per cloud and per point.

    Raises:
        ValueError: clouds or contexts of another shape, or a `log_prob` that does not give one number per point.

    Examples:
        >>> normal = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
        >>> result = log_likelihood(normal, torch.randn(20, 500, 3))
        >>> entropy = 1.5 * math.log(2 * math.pi * math.e)
        >>> abs(result.nats_per_point + entropy) < 0.1
        True
    """
    _check(clouds)
    if context is not None and (context.dim() != 2 or len(context) != len(clouds)):
        raise ValueError(f"context: expected shape ({len(clouds)}, C), one per cloud, got {tuple(context.shape)}")
    totals = []
    with torch.no_grad():
        for some in _pieces(clouds):
            given = () if context is None else (context[some].unsqueeze(-2),)
            values = flow.log_prob(clouds[some], *given)
            if values.shape != clouds[some].shape[:-1]:
                raise ValueError(
                    f"log_prob: expected one number per point, shape {tuple(clouds[some].shape[:-1])}, got "
                    f"{tuple(values.shape)}; for a model of whole clouds take importance_weighted_bound"
                )
            totals.append(values.double().sum(-1).cpu())
    return LogLikelihood(torch.cat(totals), clouds.shape[1], "exact", units)


def importance_weighted_bound(
    model: Any,
    clouds: Tensor,
    *,
    num_particles: int = 64,
    refine_steps: int = 0,
    labels: Tensor | None = None,
    seed: int = 0,
    units: str = "the data's units",
) -> LogLikelihood:
    """Importance-weighted lower bound of the log-likelihood of held-out clouds.

    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, ICLR 2016. In expectation it is below the
    log-likelihood, and rises to it with the number of particles: compare only bounds of one number.

    Args:
        model: anything with `log_prob(clouds, num_particles=...)` in nats per cloud, as a `PointCloudVAE`.
        clouds: (S, N, D), that the model was not trained on.
        num_particles: latents drawn for each cloud.
        refine_steps: steps by which the posterior of each cloud is refined before, see `PointCloudVAE.refine`; passed
            to `log_prob` by that name if there are any.
        labels: numbers of classes, (S,), passed to `log_prob` by that name, for a model that has classes.
        seed: of these draws.
        units: the unit of the coordinates, as reports are to name it.

    Returns:
        Nats per cloud and per point.

    Raises:
        ValueError: clouds or labels of another shape, no particle, or a `log_prob` that does not give one number per
            cloud.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> bodies = pcf.data.load_example("body", num_points=128, split="test")[:4]
        >>> bound = importance_weighted_bound(pcf.load_pretrained("body"), bodies, num_particles=8)
        >>> bound.kind, bound.nats_per_cloud.shape
        ('importance-weighted bound, K = 8', torch.Size([4]))
    """
    _check(clouds)
    if num_particles < 1:
        raise ValueError(f"num_particles: expected at least 1, got {num_particles}")
    if labels is not None and labels.shape != (len(clouds),):
        raise ValueError(f"labels: expected shape ({len(clouds)},), one per cloud, got {tuple(labels.shape)}")
    totals = []
    with torch.no_grad(), seeded(seed):
        for some in _pieces(clouds):
            given: dict[str, Any] = {} if labels is None else {"labels": labels[some]}
            if refine_steps:
                given["refine_steps"] = refine_steps
            values = model.log_prob(clouds[some], num_particles=num_particles, **given)
            if values.shape != (len(clouds[some]),):
                raise ValueError(
                    f"log_prob: expected one number per cloud, shape ({len(clouds[some])},), got {tuple(values.shape)}"
                )
            totals.append(values.double().cpu())
    kind = f"importance-weighted bound, K = {num_particles}"
    if refine_steps:
        kind += f", posteriors refined by {refine_steps} step{'s' * (refine_steps > 1)}"
    return LogLikelihood(torch.cat(totals), clouds.shape[1], kind, units)


def _check(clouds: Tensor) -> None:
    if clouds.dim() != 3 or 0 in clouds.shape:
        raise ValueError(f"clouds: expected shape (S, N, D), got {tuple(clouds.shape)}")


def _pieces(clouds: Tensor) -> list[slice]:
    step = max(1, POINTS_AT_ONCE // clouds.shape[1])
    return [slice(first, first + step) for first in range(0, len(clouds), step)]

"""A rival: one Gaussian over points, in closed form."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class Gaussian(nn.Module):
    """A Gaussian with full covariance, at its closed-form maximum likelihood estimate.

    Args:
        points: training points, shape ``(M, D)``.
        noise: standard deviation of the noise that thickens the points, in the data's units.
    """

    def __init__(self, points: Tensor, noise: float = 0.0) -> None:
        super().__init__()
        points = points.double()
        covariance = points.mT.cov() + noise**2 * torch.eye(points.shape[-1], dtype=torch.float64)
        self.density = dist.MultivariateNormal(points.mean(0), covariance)

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density in nats, shape ``(*batch,)``."""
        return self.density.log_prob(points.double())

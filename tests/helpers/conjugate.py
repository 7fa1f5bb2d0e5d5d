"""A point cloud flow with nontrivial couplings whose posterior over contexts is known in closed form.

The couplings ignore the context and the base is normal with a mean that is linear in it, so a point is
`x = f(W c + b + s * noise)` with a fixed bijection `f`. Given `u = f^-1(x)` the context is the weight of a
Bayesian linear regression: with `c ~ N(0, I)` its posterior and the evidence are those of the textbook
(Bishop, Pattern Recognition and Machine Learning, 2006, section 2.3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributions import MultivariateNormal

import pyro_pcflow as pcf


@dataclass
class Conjugate:
    """The flow and what is known about it; prior `c ~ N(0, I)`."""

    flow: pcf.PointCloudFlow
    loc: torch.Tensor  # (D, C), what the base makes of a context
    bias: torch.Tensor  # (D,)
    scale: torch.Tensor  # (D,)

    def posterior(self, clouds, mask=None):
        """`N(mean, covariance)` over contexts of clouds of shape `(*batch, N, D)`, batch shape `(*batch,)`."""
        noise, _ = self._noise(clouds)
        mask = torch.ones(noise.shape[:-1], dtype=torch.bool) if mask is None else mask.expand(noise.shape[:-1])
        weighted = self.loc.T / self.scale.square()  # (C, D)
        count = mask.sum(-1).to(noise.dtype)
        precision = torch.eye(self.loc.shape[1], dtype=noise.dtype) + count[..., None, None] * (weighted @ self.loc)
        total = torch.where(mask.unsqueeze(-1), noise - self.bias, torch.zeros_like(noise)).sum(-2)
        mean = torch.linalg.solve(precision, (total @ weighted.T).unsqueeze(-1)).squeeze(-1)
        return MultivariateNormal(mean, precision_matrix=precision)

    def log_evidence(self, cloud, mask=None):
        """`log p(cloud)` of one cloud of shape `(N, D)`, with the context integrated out."""
        noise, log_det = self._noise(cloud)
        if mask is not None:
            noise, log_det = noise[mask], log_det[mask]
        num_points = len(noise)
        if num_points == 0:
            return noise.new_zeros(())
        ones = torch.ones(num_points, num_points, dtype=noise.dtype)
        covariance = torch.kron(ones, self.loc @ self.loc.T)
        covariance = covariance + torch.diag(self.scale.square().repeat(num_points))
        mean = self.bias.repeat(num_points)
        return MultivariateNormal(mean, covariance).log_prob(noise.reshape(-1)) + log_det.sum()

    def _noise(self, clouds):
        with torch.no_grad():
            context = torch.zeros(self.flow.context_dim, dtype=clouds.dtype)
            return self.flow.transform.condition(context).inverse_and_log_det(clouds)


def make_conjugate(point_dim=3, context_dim=2, *, num_couplings=3, strength=1.0, dtype=torch.float64, seed=0):
    """Make a flow with a known posterior; `strength` scales how much of a context a point shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = pcf.PointCloudFlow(
            point_dim, context_dim, num_couplings=num_couplings, hidden_dims=[8], activation="tanh", base="conditional"
        )
        pcf.testing.randomize_parameters(flow, 0.3)
        flow.normalize(3 + 2 * torch.randn(50, point_dim))
        flow = flow.to(dtype)
        with torch.no_grad():
            for name, parameter in flow.transform.named_parameters():
                if name.endswith("conditioner.shift.weight"):
                    parameter.zero_()
            network = flow.base.network
            network.weight[:point_dim] = strength * torch.randn(point_dim, context_dim, dtype=dtype)
            network.weight[point_dim:] = 0
        loc, bias = network.weight[:point_dim].detach().clone(), network.bias[:point_dim].detach().clone()
        scale = network.bias[point_dim:].detach().tanh().exp()
    return Conjugate(flow.eval().requires_grad_(False), loc, bias, scale)

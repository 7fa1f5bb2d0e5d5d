"""A rival: the variational autoencoder whose decoder is a mixture of Gaussians, for ``pcf.fit``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from benchmarks.rivals.foreign_decoder import ForeignDecoder, ForeignDecoderVAE
from benchmarks.rivals.point_generators import perceptron


class GaussianVAE(ForeignDecoderVAE):
    """A ``PointCloudVAE`` whose decoder is no flow, but has a density all the same, so that its bound is a true one.

    Encoder, latent and prior are ours. The points of a cloud are independent draws from a mixture of round Gaussians,
    whose weights, centres and widths a network writes from the latent:

        p(x_1, ..., x_n | z) = prod_i sum_k w_k(z) N(x_i; m_k(z), s_k(z)^2 I)

    It is what is left of the original text's adversary, the autoencoder that writes points, when its matching is
    replaced by a likelihood.

    Args:
        num_gaussians: number of Gaussians `K`.
        point_dim: number of coordinates ``D``.
        latent_dim: size of a latent.
        hidden_dims: widths of the hidden layers.
    """

    def __init__(
        self, num_gaussians: int = 128, point_dim: int = 3, latent_dim: int = 64, hidden_dims: tuple[int, ...] = (256,)
    ) -> None:
        super().__init__(
            point_dim, latent_dim, lambda: GaussianWriter(num_gaussians, point_dim, latent_dim, hidden_dims)
        )


class GaussianWriter(ForeignDecoder):
    """The decoder of a `GaussianVAE`, with the same arguments."""

    def __init__(self, num_gaussians: int, point_dim: int, latent_dim: int, hidden_dims: tuple[int, ...]) -> None:
        super().__init__(point_dim)
        self.network = perceptron([latent_dim, *hidden_dims, num_gaussians * (point_dim + 2)])
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        # The Gaussians start apart from one another: a mixture of equal parts would stay one.
        with torch.no_grad():
            last.bias.unflatten(0, (num_gaussians, -1))[:, :point_dim].normal_()

    def forward(self, z: Tensor, num_points: int) -> GaussianPoints:
        """Clouds of `num_points` points for latents of shape `(*batch, latent_dim)`."""
        written = self.network(z).unflatten(-1, (-1, self.point_dim + 2))
        centres, widths, logits = written.split([self.point_dim, 1, 1], -1)
        unit = self.units.scale
        return GaussianPoints(
            self.units.loc + unit * centres,
            unit * torch.exp(widths - 1),
            logits.squeeze(-1).log_softmax(-1),
            num_points,
        )


class GaussianPoints(TorchDistribution):
    """Independent points from a mixture of round Gaussians, with one product of matrices for all of their densities.

    Args:
        centres: shape `(*batch, K, D)`.
        widths: standard deviations, shape `(*batch, K, 1)`.
        log_weights: shape `(*batch, K)`.
        num_points: points of a cloud.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own spelling
    support = dist.constraints.independent(dist.constraints.real, 2)

    def __init__(self, centres: Tensor, widths: Tensor, log_weights: Tensor, num_points: int) -> None:
        self.centres, self.widths, self.log_weights = centres, widths, log_weights
        event_shape = torch.Size([num_points, centres.shape[-1]])
        super().__init__(centres.shape[:-2], event_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> GaussianPoints:
        """The same for every part of a larger batch."""

        def larger(part: Tensor) -> Tensor:
            return part.expand(*batch_shape, *part.shape[len(self.batch_shape) :])

        return GaussianPoints(larger(self.centres), larger(self.widths), larger(self.log_weights), self.event_shape[0])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Clouds of shape `(*sample_shape, *batch, N, D)`."""
        with torch.no_grad():
            batch = torch.Size(sample_shape) + self.batch_shape
            weights = self.log_weights.exp().expand(*batch, -1)
            chosen = weights.reshape(-1, weights.shape[-1]).multinomial(self.event_shape[0], replacement=True)
            chosen = chosen.view(*batch, -1, 1)
            dim = self.event_shape[1]
            centres = self.centres.expand(*batch, -1, -1).take_along_dim(chosen.expand(*chosen.shape[:-1], dim), -2)
            widths = self.widths.expand(*batch, -1, -1).take_along_dim(chosen, -2)
            return centres + widths * torch.randn_like(centres)

    def log_prob(self, value: Tensor) -> Tensor:
        """Shape `(*batch,)`."""
        dim = self.event_shape[1]
        # |x - m|^2 multiplied out, around a point amid the centres so that little cancels.
        middle = self.centres.detach().flatten(0, -2).mean(0)
        x, m = value - middle, self.centres - middle
        precisions = self.widths**-2
        constants = (
            self.log_weights.unsqueeze(-1)
            - 0.5 * precisions * m.square().sum(-1, keepdim=True)
            - dim * (self.widths.log() + 0.5 * math.log(2 * math.pi))
        )
        features = torch.cat([x, x.square().sum(-1, keepdim=True), torch.ones_like(x[..., :1])], -1)
        factors = torch.cat([precisions * m, -0.5 * precisions, constants], -1)
        terms = features @ factors.mT
        # Exponentials that underflow are several times as slow on a CPU.
        least = terms.detach().amax(-1, keepdim=True) - 60.0
        return terms.clamp(min=least).logsumexp(-1).sum(-1)

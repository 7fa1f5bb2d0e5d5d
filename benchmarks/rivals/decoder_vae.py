"""A rival: the variational autoencoder with a decoder that is no flow, for ``pcf.fit``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

import pyro_pcflow as pcf
from benchmarks.rivals.foreign_decoder import ForeignDecoder, ForeignDecoderVAE
from benchmarks.rivals.point_generators import FixedPoints, Folding

DECODERS = ("fixed", "folding")


class DecoderVAE(ForeignDecoderVAE):
    """A ``PointCloudVAE`` whose decoder writes points instead of a density. It has no nats per point.

    Encoder, latent and prior are ours. For a cloud of `P` points, of which `x_1, ..., x_n` are drawn, and the points
    `y_1, ..., y_m` that the decoder writes, training maximises

        P / 2 * ( mean_i log N(x_i; y_near(i), s^2)  +  mean_j log N(y_j; x_near(j), s^2) )  -  KL( q(z | x) || p(z) )

    where *near* is the nearest point of the other set, and `s^2` is the variance that is best for the batch (Rybkin,
    Daniilidis and Levine, Simple and effective VAE training with calibrated decoders, ICML 2021). The first factor has
    the form of a Gaussian observation of each point, but is none: which decoded point an observed one belongs to is
    chosen after both are seen, without the price of the choice, and the second mean scores what the decoder wrote, not
    the data. It is minus the Chamfer distance within `s`, a matching, and does not integrate to one over clouds. So
    the sum bounds no log-density, and `log_prob` raises.

    Args:
        num_points: number of points `m` that a decoder of the kind "fixed" writes.
        point_dim: number of coordinates ``D``.
        latent_dim: size of a latent.
        decoder_kind: `"fixed"`, see `FixedPoints`, or `"folding"`, see `Folding`.
    """

    def __init__(
        self, num_points: int, point_dim: int = 3, latent_dim: int = 64, *, decoder_kind: str = "fixed"
    ) -> None:
        if decoder_kind not in DECODERS:
            raise ValueError(f"decoder_kind must be one of {', '.join(DECODERS)}, got {decoder_kind!r}")
        super().__init__(point_dim, latent_dim, lambda: PointWriter(num_points, point_dim, latent_dim, decoder_kind))
        self.num_points = num_points

    def log_prob(self, *_: Any, **__: Any) -> NoReturn:
        """There is none.

        Raises:
            TypeError: always.
        """
        raise TypeError("DecoderVAE writes points and has no density over clouds: there are no nats to report")


class PointWriter(ForeignDecoder):
    """The decoder of a `DecoderVAE`, with the same arguments."""

    def __init__(self, num_points: int, point_dim: int, latent_dim: int, decoder_kind: str) -> None:
        super().__init__(point_dim)
        self.network: nn.Module
        if decoder_kind == "fixed":
            self.network = FixedPoints(latent_dim, num_points, point_dim)
        else:
            self.network = Folding(latent_dim, point_dim)

    def forward(self, z: Tensor, num_points: int) -> WrittenPoints:
        """Clouds of `num_points` points for latents of shape `(*batch, latent_dim)`."""
        return WrittenPoints(self.network(z, num_points), self.units)


class WrittenPoints(TorchDistribution):
    """Points that a decoder wrote, as the distribution that Pyro asks for. It is none: see `DecoderVAE`.

    Args:
        points: in standard units, shape `(*batch, M, D)`.
        units: from standard units to those of the data.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own spelling
    support = dist.constraints.independent(dist.constraints.real, 2)

    def __init__(self, points: Tensor, units: pcf.transforms.Standardize) -> None:
        self.points, self.units = points, units
        super().__init__(points.shape[:-2], points.shape[-2:], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The points themselves, `(*sample_shape, *batch, M, D)`, in the data's units."""
        return self.units.transform_and_log_det(self.points)[0].expand(*sample_shape, *self.points.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """What training maximises in place of a log-density, for one batch of clouds, shape `(B,)`."""
        return value.shape[-2] * matched_gaussian(self.units.inverse_and_log_det(value)[0], self.points)


def matched_gaussian(x: Tensor, y: Tensor) -> Tensor:
    """Half of both means of `log N(point; its nearest of the other set, s^2)`, `s^2` the best for the whole batch.

    Args:
        x: clouds of shape `(B, N, D)`.
        y: clouds of shape `(B, M, D)`.

    Returns:
        Shape `(B,)`, in nats per point by its form alone.
    """
    squared = squared_to_nearest(x, y).mean(-1) + squared_to_nearest(y, x).mean(-1)
    dim = x.shape[-1]
    variance = squared.detach().mean() / (2 * dim)
    return -0.5 * dim * torch.log(2 * math.pi * variance) - squared / (4 * variance)


def squared_to_nearest(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances `(*batch, N)` of points `(*batch, N, D)` to the nearest of `y`, `(*batch, M, D)`."""
    with torch.no_grad():
        nearest = torch.cdist(x, y).argmin(-1, keepdim=True)
    return (x - y.take_along_dim(nearest, -2)).square().sum(-1)

"""A rival: the variational autoencoder with a decoder that is no flow, for ``pcf.fit``."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from benchmarks.rivals.foreign_decoder import ForeignDecoderVAE
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
        super().__init__(point_dim, latent_dim)
        self.num_points = num_points
        self.writer: nn.Module
        if decoder_kind == "fixed":
            self.writer = FixedPoints(latent_dim, num_points, point_dim)
        else:
            self.writer = Folding(latent_dim, point_dim)

    def decode(self, z: Tensor, num_points: int | None = None, **_: Any) -> Any:
        """The points themselves, as a distribution without spread, `event_shape (num_points, D)`."""
        points = self.writer(z, self.num_points if num_points is None else num_points)
        return dist.Delta(self.units.transform_and_log_det(points)[0], event_dim=2)

    def model(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        dataset_size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        encoder_points: Tensor | None = None,
        encoder_mask: Tensor | None = None,
    ) -> Tensor:
        """The site `z` and a factor `x`, which is what the class says, not a likelihood; arguments as of our models."""
        if mask is not None:
            raise ValueError("this rival takes clouds of one size, got a mask")
        whole = clouds.shape[-2] if num_points is None else num_points
        count = len(clouds)
        subsample = torch.arange(count, device=clouds.device)
        with pyro.plate("clouds", count if dataset_size is None else dataset_size, subsample=subsample):
            with poutine.scale(scale=kl_weight):
                z = pyro.sample("z", self.latent_prior())
            written = self.writer(z, min(self.num_points, clouds.shape[-2]))
            pyro.factor("x", whole * matched_gaussian(self.units.inverse_and_log_det(clouds)[0], written))
            return z

    def log_prob(self, *_: Any, **__: Any) -> Tensor:
        """There is none.

        Raises:
            TypeError: always.
        """
        raise TypeError("DecoderVAE writes points and has no density over clouds: there are no nats to report")


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

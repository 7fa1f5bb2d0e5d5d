"""What the rivals of our model have in common: its encoder, latent and prior, and a decoder that is not our flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

import pyro_pcflow as pcf


class ForeignDecoder(nn.Module):
    """What a ``PointCloudVAE`` asks of its decoder.

    A subclass defines `forward(z, num_points)`, the distribution of clouds given latents.

    Args:
        point_dim: number of coordinates ``D``.
    """

    def __init__(self, point_dim: int) -> None:
        super().__init__()
        self.point_dim = point_dim
        self.units = pcf.transforms.standardize(point_dim)

    @property
    def normalized(self) -> bool:
        """Whether the units are set."""
        return self.units.fitted

    def normalize(self, points: Tensor, mask: Tensor | None = None) -> None:
        """Set the units."""
        self.units.fit(points if mask is None else points[mask])

    def cloud(self, context: Tensor, *, num_points: int | None, mask: Tensor | None) -> Distribution:
        """The distribution of clouds given latents, `batch_shape (*batch,)` and `event_shape (num_points, D)`.

        Raises:
            ValueError: if there is a mask, or no number of points.
        """
        if num_points is None or mask is not None:
            raise ValueError("this rival takes clouds of one size: give num_points, and no mask")
        return self(context, num_points)


class ForeignDecoderVAE(pcf.PointCloudVAE):
    """A ``PointCloudVAE`` with another decoder.

    Args:
        point_dim: number of coordinates ``D``.
        latent_dim: size of a latent.
        make_decoder: builds the decoder, after encoder and prior.
        **options: others of a ``PointCloudVAE``.
    """

    def __init__(
        self, point_dim: int, latent_dim: int, make_decoder: Callable[[], ForeignDecoder], **options: Any
    ) -> None:
        # A PointCloudVAE always builds a flow: the smallest, which makes room.
        super().__init__(point_dim, latent_dim, decoder={"num_couplings": 1, "hidden_dims": [1]}, **options)
        del self.decoder
        self.decoder = make_decoder()  # type: ignore[assignment]

    def encode(
        self, clouds: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None, check: bool = True
    ) -> Distribution:
        """As of a ``PointCloudVAE``, and never checked: such a decoder need not have a density of points."""
        return super().encode(clouds, mask, labels=labels, check=False)

"""What the rivals of our model have in common: its encoder, latent and units, and another decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import pyro_pcflow as pcf


class ForeignDecoderVAE(pcf.PointCloudVAE):
    """A ``PointCloudVAE`` without its flow over points; what extends it says how to `decode`.

    Args:
        point_dim: number of coordinates ``D``.
        latent_dim: size of a latent.
        **options: others of a ``PointCloudVAE``, but for its decoder.
    """

    def __init__(self, point_dim: int = 3, latent_dim: int = 64, **options: Any) -> None:
        super().__init__(point_dim, latent_dim, decoder={"num_couplings": 1, "hidden_dims": [1]}, **options)
        del self.decoder

    @property
    def normalized(self) -> bool:
        """Whether the units are set."""
        return self.units.fitted

    def normalize(self, points: Tensor, mask: Tensor | None = None) -> None:
        """Set the units."""
        self.units.fit(points if mask is None else points[mask])

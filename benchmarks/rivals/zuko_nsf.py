"""A rival: zuko's neural spline flow, for ``pcf.fit``."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from benchmarks.rivals.standardized import Standardized


class ZukoNSF(Standardized):
    """Autoregressive rational-quadratic splines over noise that is normal, in the units of the data.

    Args:
        point_dim: number of coordinates ``D``.
        transforms: number of autoregressive transforms.
        hidden_dims: widths of the hidden layers of each.
    """

    def __init__(self, point_dim: int = 3, transforms: int = 3, hidden_dims: Sequence[int] = (64, 64)) -> None:
        super().__init__(point_dim)
        # Importing zuko switches the validation of all distributions off; leaving this brings it back.
        with pyro.validation_enabled():
            import zuko
        self.flow = zuko.flows.NSF(point_dim, transforms=transforms, hidden_features=tuple(hidden_dims))

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density in nats, shape ``(*batch,)``."""
        return self.flow().log_prob((points - self.loc) / self.scale) - self.scale.log().sum()

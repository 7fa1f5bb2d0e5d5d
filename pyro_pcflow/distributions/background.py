"""Points of a thing among points of nothing in particular."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions.mixture import PointMixture

__all__ = ["with_background"]


def with_background(point_distribution: Distribution, share: Tensor | float, low: Tensor, high: Tensor) -> PointMixture:
    """Mix a point distribution with a uniform background, so that outliers cost little.

    `p(x) = (1 - share) p_0(x) + share U(x; low, high)`, exact. A robust observation model of a scan: `share` may be
    a latent. `responsibilities(x)[..., 1]` is the posterior probability that a point is background.

    Args:
        point_distribution: a distribution with `event_shape (D,)`.
        share: probability that a point is background, in (0, 1), a number or shape `(*batch,)`.
        low: corner of the background's box, shape `(D,)` or `(*batch, D)`.
        high: the opposite corner. Outside the closed box the background has no density; that of a scan is
            `scan.amin(0), scan.amax(0)`.

    Returns:
        A `PointMixture` of two components: the thing, then the background.

    Raises:
        ValueError: if the box is empty, or the share not in (0, 1).

    Examples:
        >>> thing = dist.Normal(torch.zeros(3), 0.1).to_event(1)
        >>> scan = with_background(thing, 0.05, low=torch.full((3,), -1.0), high=torch.ones(3))
        >>> scan.responsibilities(torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9]]))[:, 1].round(decimals=2).tolist()
        [0.0, 1.0]
    """
    share = torch.as_tensor(share, dtype=low.dtype, device=low.device)
    if Distribution._validate_args:
        if not (low < high).all():
            raise ValueError(f"expected low < high in every coordinate, got {low.tolist()} and {high.tolist()}")
        if not ((share > 0) & (share < 1)).all():
            raise ValueError(f"expected a share of background points in (0, 1), got {share.tolist()}")
    # Outside its box the background has the density 0, which is no error. torch leaves the upper faces out of it, but
    # a box that was read off a scan has points there, which are outliers more often than not.
    above = torch.nextafter(high, torch.full_like(high, torch.inf))
    background = dist.Uniform(low, above, validate_args=False).to_event(1)
    background = dist.Independent(background.base_dist, 1, validate_args=False)
    logits = torch.stack([torch.log1p(-share), share.log()], -1)
    return PointMixture(logits, [point_distribution, background])

"""Sensors that are not quite known: a background share and a noise width as latents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import PointMixture, with_background, with_noise

__all__ = ["UnknownBackground", "UnknownNoise"]


@dataclass(frozen=True, eq=False)
class UnknownBackground:
    """Uniform outlier (contamination) model whose share of outliers is a latent: robust inference.

    A function from point distribution to point distribution, such as `complete` takes as `observe`. It samples the
    share and mixes the point distribution with a uniform one, see `with_background`, so that a point that the object
    cannot explain costs a bounded number of nats. In a plate of clouds there is a share of each cloud.

    Outliers are no points of the object, so let the sensor look first: `background(one_sided(point, direction))`.

    Args:
        low: corner of the box that outliers lie in, shape `(D,)` or `(*batch, D)`; see `around` for that of a scan.
        high: the opposite corner.
        share: prior over the share of outliers, a distribution over numbers between 0 and 1; by default
            `Beta(1, 20)`, whose mean is 0.05.
        name: of the latent.

    Raises:
        TypeError: if a corner is not a tensor, or the prior is not a distribution.
        ValueError: if the corners differ in shape, the box is empty, or the prior is not one over single numbers.

    Examples:
        >>> scan = torch.cat([0.1 * torch.randn(95, 3), 2 * torch.rand(5, 3) - 1])
        >>> background = UnknownBackground.around(scan)
        >>> def model():
        ...     loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        ...     point = background(dist.Normal(loc, 0.1).to_event(1))
        ...     with pyro.plate("points", 100):
        ...         pyro.sample("scan", point, obs=scan)
        >>> pyro.poutine.trace(model).get_trace().stochastic_nodes
        ['loc', 'background_share', 'points']
    """

    low: Tensor
    high: Tensor
    share: Distribution | None = None
    name: str = "background_share"

    def __post_init__(self) -> None:
        if not isinstance(self.low, Tensor) or not isinstance(self.high, Tensor):
            raise TypeError(
                "expected the corners of a box as tensors of shape (*batch, D), got "
                f"{type(self.low).__name__} and {type(self.high).__name__}"
            )
        if self.low.shape != self.high.shape or self.low.dim() < 1:
            raise ValueError(
                "expected the corners of a box, both of shape (D,) or (*batch, D), got "
                f"{tuple(self.low.shape)} and {tuple(self.high.shape)}"
            )
        if not (self.low < self.high).all():
            raise ValueError(
                f"expected low < high in every coordinate, got {self.low.tolist()} and {self.high.tolist()}"
            )
        if self.share is not None:
            _check_prior("share", self.share)

    @classmethod
    def around(
        cls,
        points: Tensor,
        mask: Tensor | None = None,
        *,
        margin: float = 0.1,
        share: Distribution | None = None,
        name: str = "background_share",
    ) -> UnknownBackground:
        """With the bounding box of each cloud, and some room around it.

        Args:
            points: recorded points, shape `(*batch, N, D)`, in the data's units.
            mask: True at points, shape `(*batch, N)`; all of them by default.
            margin: room on every side, as a share of the longest side of the box.
            share: see the class.
            name: see the class.

        Raises:
            ValueError: if a shape does not fit, a cloud has no finite box, or the margin is negative.
        """
        if not margin >= 0:
            raise ValueError(f"expected a margin of at least 0, got {margin}")
        low, high = _bounding_box(points, mask)
        room = margin * (high - low).amax(-1, keepdim=True)
        return cls(low - room, high + room, share, name)

    def __call__(self, point_distribution: Distribution) -> PointMixture:
        """Sample the share, and mix the point distribution with the background."""
        prior = dist.Beta(self.low.new_tensor(1.0), self.low.new_tensor(20.0)) if self.share is None else self.share
        return with_background(point_distribution, pyro.sample(self.name, prior), self.low, self.high)


@dataclass(frozen=True, eq=False)
class UnknownNoise:
    """Gaussian sensor noise whose width is a latent.

    A function from point distribution to point distribution, such as `complete` takes as `observe`. It samples the
    width and adds round Gaussian noise to points, see `with_noise`: exact where they come from a mixture of Gaussians,
    by quadrature otherwise. In a plate of clouds there is a width of each cloud.

    Noise moves a point before a sensor that works on coordinates sees it: `one_sided(noise(point), direction)`. It adds
    to the width that the model has learned, so data as noisy as those of the training have none.

    Args:
        width: prior over the standard deviation, a distribution over positive numbers in the data's units; see `around`
            for one that follows from the size of a scan.
        name: of the latent.
        nodes: quadrature nodes per coordinate where there is no exact density, see `NoisyPoint`.

    Raises:
        TypeError: if the prior is not a distribution.
        ValueError: if the prior is not one over single numbers, or `nodes` less than 1.

    Examples:
        >>> noise = UnknownNoise(dist.LogNormal(-3.0, 1.0))
        >>> def model(scan):
        ...     point = noise(dist.Normal(torch.zeros(3), 0.1).to_event(1))
        ...     with pyro.plate("points", len(scan)):
        ...         pyro.sample("scan", point, obs=scan)
        >>> pyro.poutine.trace(model).get_trace(0.2 * torch.randn(50, 3)).stochastic_nodes
        ['noise_width', 'points']
    """

    width: Distribution
    name: str = "noise_width"
    nodes: int = 3

    def __post_init__(self) -> None:
        _check_prior("width", self.width)
        if self.nodes < 1:
            raise ValueError(f"expected at least one quadrature node per coordinate, got nodes={self.nodes}")

    @classmethod
    def around(
        cls,
        points: Tensor,
        mask: Tensor | None = None,
        *,
        relative: float = 0.01,
        spread: float = 1.0,
        name: str = "noise_width",
        nodes: int = 3,
    ) -> UnknownNoise:
        """With a log-normal prior that follows from the size of each cloud.

        Args:
            points: recorded points, shape `(*batch, N, D)`, in the data's units.
            mask: True at points, shape `(*batch, N)`; all of them by default.
            relative: median of the width, as a share of the longest side of the bounding box.
            spread: standard deviation of the width's logarithm.
            name: see the class.
            nodes: see the class.

        Raises:
            ValueError: if a shape does not fit, a cloud has no finite box, or a number is not positive.
        """
        if not (relative > 0 and spread > 0):
            raise ValueError(f"expected positive numbers, got relative={relative} and spread={spread}")
        low, high = _bounding_box(points, mask)
        median = math.log(relative) + (high - low).amax(-1).log()
        return cls(dist.LogNormal(median, median.new_tensor(spread)), name, nodes)

    def __call__(self, point_distribution: Distribution) -> Distribution:
        """Sample the width, and add the noise."""
        return with_noise(point_distribution, pyro.sample(self.name, self.width), self.nodes)


def _check_prior(name: str, prior: Distribution) -> None:
    if not isinstance(prior, Distribution):
        raise TypeError(f"expected a distribution as the prior {name}, got {type(prior).__name__}")
    if prior.event_shape != ():
        raise ValueError(f"expected a prior {name} over single numbers, got the event shape {tuple(prior.event_shape)}")


def _bounding_box(points: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Corners of the bounding boxes of clouds, shape `(*batch, D)` each."""
    if not isinstance(points, Tensor) or points.dim() < 2:
        got = f"shape {tuple(points.shape)}" if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"expected points as a tensor of shape (*batch, N, D), got {got}")
    if mask is None:
        mask = torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)
    if mask.dtype != torch.bool or mask.shape != points.shape[:-1]:
        raise ValueError(
            f"expected a mask of booleans of shape {tuple(points.shape[:-1])}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    if not mask.any(-1).all() or not points[mask].isfinite().all():
        raise ValueError(
            "expected at least one point in every cloud, and finite ones, to take a box around: leave out empty clouds "
            "and points that are NaN or infinite, or give the box, or the prior, yourself"
        )
    inside = mask.unsqueeze(-1)
    low, high = points.where(inside, torch.inf).amin(-2), points.where(inside, -torch.inf).amax(-2)
    if not (high > low).any(-1).all():
        raise ValueError("a cloud of one place has no size to take a box from: give the box, or the prior, yourself")
    return low, high

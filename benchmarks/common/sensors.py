"""Sensors that record a part of each of some clouds, and stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

import pyro_pcflow as pcf
from pyro_pcflow.distributions import SoftHalfSpace, one_sided

# The width of the edge of a half-space, in units of half of the longest side of a cloud of a category file.
SOFTNESS = 0.05
# Sides of the box of outliers, as a multiple of those of the cloud.
MARGIN = 1.2


@dataclass(frozen=True)
class Trouble:
    """What a sensor does to points, of which inference knows the kind and not the size.

    Attributes:
        outliers: share of recorded points that are anywhere in a box around the cloud.
        noise: standard deviation of what is added to the points, in their units.
    """

    outliers: float = 0.0
    noise: float = 0.0


VIEWS = {
    "half": Trouble(),
    "half, 1% outliers": Trouble(outliers=0.01),
    "half, 5% outliers": Trouble(outliers=0.05),
    "half, noisy": Trouble(noise=0.05),
    "depth": Trouble(),
    "crop": Trouble(),
}


@dataclass(frozen=True)
class Sensor:
    """A sensor of some clouds.

    Attributes:
        records: from points of whole clouds, shape `(B, N, 3)`, to which of them it recorded, at random.
        log_hidden: from points `(*lead, B, 3)` to the log-probabilities that it does not record them, as far as they
            are the same for all clouds of a kind.
        observe: from the density of a point to that of a recorded one, where it has a closed form.
    """

    records: Callable[[Tensor], Tensor]
    log_hidden: Callable[[Tensor], Tensor]
    observe: Callable[[Distribution], Distribution] | None


def half_space(direction: Tensor) -> Sensor:
    """What lies on the side of a plane through the origin that a unit vector points to."""
    retention = SoftHalfSpace(direction, softness=SOFTNESS)

    def records(points: Tensor) -> Tensor:
        return torch.rand_like(points[..., 0]) < retention(points).exp()

    def log_hidden(points: Tensor) -> Tensor:
        return torch.special.log_ndtr(-(points @ direction) / SOFTNESS)

    return Sensor(records, log_hidden, lambda point: one_sided(point, direction, softness=SOFTNESS))


def depth_camera(towards: Tensor) -> Sensor:
    """What a camera sees that is far away in a direction of each cloud, shape `(B, 3)`."""
    camera = pcf.infer.DepthCamera(towards=towards)

    def records(points: Tensor) -> Tensor:
        return camera(points, torch.ones(points.shape[:-1], dtype=torch.bool))[1]

    return Sensor(records, lambda points: torch.zeros_like(points[..., 0]), None)


def box(middle: Tensor, sides: Tensor) -> Sensor:
    """What lies in a box of each cloud, of some half lengths of its sides, shape `(B, 3)` each."""

    def inside(points: Tensor, middle: Tensor, sides: Tensor) -> Tensor:
        return ((points - middle).abs() <= sides).all(-1)

    def records(points: Tensor) -> Tensor:
        return inside(points, middle.unsqueeze(1), sides.unsqueeze(1))

    def log_hidden(points: Tensor) -> Tensor:
        return torch.where(inside(points, middle, sides), -torch.inf, 0.0)

    return Sensor(records, log_hidden, None)


def make_sensor(view: str, clouds: Tensor, up: Tensor) -> Sensor:
    """The sensor of a view, in a random place for each cloud unless it is a half-space, which sees the upper half."""
    if view.startswith("half"):
        return half_space(up)
    if view == "depth":
        return depth_camera(torch.nn.functional.normalize(torch.randn(len(clouds), 3), dim=-1))
    middle = clouds[torch.arange(len(clouds)), torch.randint(clouds.shape[1], (len(clouds),))]
    return box(middle, torch.empty(len(clouds), 3).uniform_(0.3, 1.0))


def draw_points(points: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most so many of the chosen points of each cloud `(B, N, 3)`, and where they are points, `(B, count)`."""
    keys = torch.where(chosen, torch.rand_like(points[..., 0]), -1.0).topk(min(count, points.shape[1]), -1)
    return points.gather(1, keys.indices.unsqueeze(-1).expand(-1, -1, 3)), keys.values >= 0


def box_of_outliers(clouds: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of the box in which the outliers of clouds lie, shape `(B, 3)` each."""
    low, high = clouds.amin(1), clouds.amax(1)
    middle, half = 0.5 * (low + high), 0.5 * MARGIN * (high - low)
    return middle - half, middle + half


def with_outliers(points: Tensor, share: float, low: Tensor, high: Tensor) -> Tensor:
    """Points of shape `(B, N, 3)` of which each is, with some probability, anywhere in a box of its cloud instead."""
    places = low.unsqueeze(1) + torch.rand_like(points) * (high - low).unsqueeze(1)
    return torch.where((torch.rand_like(points[..., 0]) < share).unsqueeze(-1), places, points)

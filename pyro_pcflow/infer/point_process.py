"""Finite point processes: clouds whose number of points is random."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import PointCloud

__all__ = ["sample_point_process"]


def sample_point_process(
    name: str,
    size: Distribution,
    point: Distribution,
    *,
    max_points: int | None = None,
    obs: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample or observe a finite point process: a random number of points, independent and identically distributed.

    The number of points is a site of its own: it carries evidence, and can be conditioned on, predicted or enumerated.
    The density of a cloud, as an ordered list, is

        p(x_1, ..., x_n) = p(n) p(x_1) ... p(x_n)

    and that of the set of its points is `n!` times as large (the Janossy density: Daley and Vere-Jones, An
    Introduction to the Theory of Point Processes, 2003, section 5.3), a factor that no posterior depends on. With a
    Poisson size, this is a Poisson process of intensity `rate * p(x)`.

    | site | value |
    | --- | --- |
    | `{name}_size` | number of points, shape `(*batch,)` |
    | `{name}` | padded cloud, a `PointCloud` event of shape `(max_points, D)` |

    Args:
        name: name of the cloud's site.
        size: distribution over numbers of points, such as `Poisson(rate)` or `Categorical(probs)`.
        point: distribution over points, `event_shape (D,)`.
        max_points: number of rows of the padded clouds; may be left out if clouds are observed.
        obs: observed clouds, shape `(*batch, max_points, D)`.
        mask: True at the points of observed clouds, shape `(*batch, max_points)`; all of them by default.

    Returns:
        Clouds of shape `(*batch, max_points, D)`, zero in their padding, and their mask.

    Raises:
        ValueError: if a drawn size is above `max_points`, or `max_points` is missing.

    Examples:
        >>> import pyro.distributions as dist
        >>> point = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> cloud, mask = sample_point_process("x", dist.Poisson(20.0), point, max_points=100)
        >>> cloud.shape, bool((cloud[~mask] == 0).all())
        (torch.Size([100, 3]), True)
    """
    if obs is not None:
        mask = torch.ones(obs.shape[:-1], dtype=torch.bool, device=obs.device) if mask is None else mask
        max_points = obs.shape[-2]
    elif mask is not None:
        raise ValueError("a mask belongs to observed clouds: give obs, or leave the mask out")
    if max_points is None:
        raise ValueError("max_points is missing: give the number of rows of the padded clouds")
    observed = None if mask is None else _like(size, mask.sum(-1))
    count = pyro.sample(f"{name}_size", size, obs=observed)
    if mask is None:
        if (count > max_points).any():
            raise ValueError(f"drew a cloud of {int(count.max())} points, more than max_points={max_points}: raise it")
        mask = torch.arange(max_points, device=count.device) < count.unsqueeze(-1)
    cloud = pyro.sample(name, PointCloud(point, mask=mask), obs=obs)
    return cloud, mask


def _like(size: Distribution, count: Tensor) -> Tensor:
    # torch's Poisson scores floating-point counts, its Categorical integers.
    return count if size.has_enumerate_support else count.to(torch.get_default_dtype())

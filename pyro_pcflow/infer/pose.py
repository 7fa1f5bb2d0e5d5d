"""Pose estimation: priors over rotation, translation and scale."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import UniformRotation
from pyro_pcflow.transforms import Similarity, similarity

__all__ = ["pose_of", "sample_pose"]

# Standard deviation of a quaternion's length, which has no meaning: so narrow that the singular length 0 is far away,
# and no narrower than a rotation is usually known, since a sampler's steps fit the narrowest direction.
LENGTH_SCALE = 0.1


def sample_pose(
    name: str = "pose",
    *,
    around: Tensor | None = None,
    spread: float | None = None,
    translation: Distribution | None = None,
    scale: Distribution | None = None,
) -> Similarity:
    """Sample a pose from its prior, as Pyro sites that any inference can work on.

    A rotation is given by the direction of a quaternion in space, or of a vector of 2 numbers in the plane, see
    `rotation_matrix`. The latent is the offset of this quaternion from `around`, so that an offset of zero, where
    Pyro's guides start, is the rotation `around`. The length of a quaternion has no meaning; a narrow prior keeps it
    near 1, away from the singular length 0. A quaternion and its negative are one rotation, so compare chains by the
    rotation, not by the offset.

    | site | value | there |
    | --- | --- | --- |
    | `{name}_quaternion_offset` | shape `(*batch, 4)`, or `(*batch, 2)` in the plane | always |
    | `{name}_rotation` | the matrix, deterministic, shape `(*batch, D, D)` | always |
    | `{name}_translation` | shape `(*batch, D)` | with a prior `translation` |
    | `{name}_scale` | shape `(*batch,)` | with a prior `scale` |

    Args:
        name: prefix of the sites.
        around: quaternion of the rotation to start from, of any positive length, shape `(*batch, 4)`, or
            `(*batch, 2)` in the plane; by default the identity of space. A posterior that is far away is found faster
            from a start near it.
        spread: standard deviation of the rotation's angle about each axis, in radians, for small spreads. By default
            every rotation is equally likely, whatever `around` is.
        translation: prior with `event_shape (D,)`, in the data's units; None for an object at the origin.
        scale: prior over positive numbers, such as `LogNormal(0, 0.1)`; None for an object of known size.

    Returns:
        The pose as a transform: `dist.TransformedDistribution(point, [pose])` is the posed point distribution.

    Raises:
        ValueError: if the spread is not positive, or a shape does not fit.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> flow = pcf.PointCloudFlow(point_dim=3, num_couplings=2, hidden_dims=[8])
        >>> def model(scan):
        ...     pose = sample_pose(spread=0.2, translation=dist.Normal(torch.zeros(3), 0.5).to_event(1))
        ...     posed = dist.TransformedDistribution(flow.condition(), [pose])
        ...     pyro.sample("scan", pcf.PointCloud(posed, num_points=len(scan)), obs=scan)
        >>> sorted(pyro.poutine.trace(model).get_trace(torch.randn(10, 3)).stochastic_nodes)
        ['pose_quaternion_offset', 'pose_translation']
    """
    around = _quaternion(around)
    if spread is not None and not spread > 0:
        raise ValueError(f"expected a positive spread in radians, got {spread}")
    point_dim = 2 if around.shape[-1] == 2 else 3
    if translation is not None and translation.event_shape != (point_dim,):
        raise ValueError(
            f"expected a prior over translations of event shape ({point_dim},), got "
            f"{tuple(translation.event_shape)}; .to_event(1) declares the last dimension an event"
        )
    if scale is not None and scale.event_shape != ():
        raise ValueError(f"expected a prior over one scale, of event shape (), got {tuple(scale.event_shape)}")
    prior = UniformRotation(around, LENGTH_SCALE) if spread is None else _near(around, spread)
    pose = similarity(
        around + pyro.sample(f"{name}_quaternion_offset", prior),
        None if translation is None else pyro.sample(f"{name}_translation", translation),
        None if scale is None else pyro.sample(f"{name}_scale", scale),
    )
    pyro.deterministic(f"{name}_rotation", pose.rotation, event_dim=2)
    return pose


def pose_of(samples: Mapping[str, Tensor], name: str = "pose", *, around: Tensor | None = None) -> Similarity:
    """The poses of draws of `sample_pose`'s sites: rotations, translations and scales.

    `MCMC.get_samples()` has the stochastic sites alone, without the deterministic `{name}_rotation`; `Predictive` and
    guides may have either.

    Args:
        samples: values of sites by name, shape `(*draws, *batch, ...)`.
        name: prefix of the sites.
        around: the quaternion that `sample_pose` was given, shape `(*batch, 4)` or `(*batch, 2)`; the identity of space
            by default.

    Returns:
        The poses, of batch shape `(*draws, *batch)`: `pose_of(samples).rotation` has the matrices.

    Raises:
        ValueError: if the site of the rotation is missing, or does not fit `around`.

    Examples:
        >>> from pyro.infer import MCMC, NUTS
        >>> def model():
        ...     pose = sample_pose(spread=0.2)
        ...     pyro.sample("x", dist.Normal(pose.rotation, 1.0).to_event(2), obs=torch.eye(3))
        >>> chain = MCMC(NUTS(model), num_samples=4, warmup_steps=4, disable_progbar=True)
        >>> chain.run()
        >>> pose_of(chain.get_samples()).rotation.shape
        torch.Size([4, 3, 3])
    """
    site = f"{name}_quaternion_offset"
    if site not in samples:
        raise ValueError(
            f"expected draws of the site {site!r}, which sample_pose({name!r}) makes, got {', '.join(sorted(samples))}"
        )
    around = _quaternion(around).to(samples[site].device)
    if samples[site].shape[-1] != around.shape[-1]:
        raise ValueError(
            f"{site!r} holds {samples[site].shape[-1]} numbers and around {around.shape[-1]}: give the around that "
            "sample_pose was given"
        )
    return similarity(around + samples[site], samples.get(f"{name}_translation"), samples.get(f"{name}_scale"))


def _quaternion(around: Tensor | None) -> Tensor:
    """The rotation that offsets are counted from, as a quaternion of length 1."""
    around = torch.tensor([1.0, 0.0, 0.0, 0.0]) if around is None else around
    if not isinstance(around, Tensor) or around.dim() < 1 or around.shape[-1] not in (2, 4):
        got = f"shape {tuple(around.shape)}" if isinstance(around, Tensor) else type(around).__name__
        raise ValueError(f"expected a quaternion as a tensor of 4 numbers for space or of 2 for the plane, got {got}")
    return around / around.norm(dim=-1, keepdim=True)


def _near(around: Tensor, spread: float) -> dist.MultivariateNormal:
    """Quaternion offsets of rotations near one, their angles about each axis normal."""
    # A quaternion holds half of the angle; along it, an offset changes the length alone.
    across = spread if around.shape[-1] == 2 else spread / 2
    along = around.unsqueeze(-1) * around.unsqueeze(-2)
    rest = torch.eye(around.shape[-1]).to(around) - along
    return dist.MultivariateNormal(torch.zeros_like(around), LENGTH_SCALE**2 * along + across**2 * rest)

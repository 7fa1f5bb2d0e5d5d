"""Priors over the pose of a thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_pcflow.transforms import Similarity, similarity

__all__ = ["UniformTurn", "sample_pose"]

# Deviation of a quaternion's length, which means nothing: so narrow that the singular length 0 is far away, and no
# narrower than a rotation is usually known, since a sampler's steps fit the narrowest direction.
LENGTH_DEVIATION = 0.1


def sample_pose(
    name: str = "pose",
    *,
    around: Tensor | None = None,
    spread: float | None = None,
    translation: Distribution | None = None,
    scale: Distribution | None = None,
) -> Similarity:
    """Sample a pose from its prior, as Pyro sites that any inference can work on.

    A rotation is the direction of a vector, its quaternion: a quaternion in space, see `rotation_matrix`. The latent is
    the turn that is added to the quaternion of a rotation to start from, so that a turn of zero, where Pyro's guides
    begin, is that rotation. Its length near 1 means nothing and has a narrow prior, which keeps the one singular place,
    length 0, out of reach. A quaternion and its negative are one rotation, so compare chains by the rotation, never by
    the turn.

    | site | value | where |
    | --- | --- | --- |
    | `{name}_turn` | shape `(*batch, 4)`, or `(*batch, 2)` in the plane | always |
    | `{name}_rotation` | the matrix, deterministic, shape `(*batch, D, D)` | always |
    | `{name}_translation` | shape `(*batch, D)` | with a prior `translation` |
    | `{name}_scale` | shape `(*batch,)` | with a prior `scale` |

    Args:
        name: prefix of the sites.
        around: quaternion of the rotation to start from, shape `(*batch, 4)`, or `(*batch, 2)` in the plane, of any
            positive length; the identity of space by default. A posterior that is far away is found faster from a
            start near it.
        spread: standard deviation of the rotation's angle about each axis, in radians, for small spreads. By default
            every rotation is equally likely, whatever `around` says.
        translation: prior with `event_shape (D,)`, in the data's units; left out for a thing at the origin.
        scale: prior over positive numbers, such as `LogNormal(0, 0.1)`; left out for a thing of known size.

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
        ['pose_translation', 'pose_turn']
    """
    around = torch.tensor([1.0, 0.0, 0.0, 0.0]) if around is None else around
    if around.dim() < 1 or around.shape[-1] not in (2, 4):
        raise ValueError(
            "expected a quaternion of 2 numbers for the plane or of 4 for space, got a tensor of shape "
            f"{tuple(around.shape)}"
        )
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
    around = around / around.norm(dim=-1, keepdim=True)
    turn = pyro.sample(f"{name}_turn", UniformTurn(around) if spread is None else _turn_near(around, spread))
    pose = similarity(
        around + turn,
        None if translation is None else pyro.sample(f"{name}_translation", translation),
        None if scale is None else pyro.sample(f"{name}_scale", scale),
    )
    pyro.deterministic(f"{name}_rotation", pose.rotation, event_dim=2)
    return pose


class UniformTurn(TorchDistribution):
    """The turn from one quaternion to another that may have any direction, all equally likely, and a length near 1.

    So the rotation is uniform over the group. The length is log-normal around 1. Standard normals would give the same
    rotations, but their length varies so much more than a rotation that is known well that a sampler has to take many
    small steps.

    Args:
        around: quaternion that the turn starts from, of length 1, shape `(*batch, 2)` or `(*batch, 4)`.

    Examples:
        >>> turns = UniformTurn(torch.tensor([1.0, 0.0, 0.0, 0.0])).sample((1000,))
        >>> bool(((turns + torch.tensor([1.0, 0.0, 0.0, 0.0])).norm(dim=-1).mean() - 1).abs() < 0.02)
        True
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own spelling
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, around: Tensor, *, validate_args: bool | None = None) -> None:
        self.around = around
        self._length = dist.LogNormal(torch.zeros_like(around[..., 0]), LENGTH_DEVIATION)
        super().__init__(around.shape[:-1], around.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> UniformTurn:
        """Return the distribution with its batch shape broadcast to `batch_shape`."""
        around = self.around.expand(*batch_shape, *self.event_shape)
        return UniformTurn(around, validate_args=self.__dict__.get("_validate_args"))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw turns, shape `(*sample_shape, *batch_shape, 2 or 4)`."""
        length = self._length.rsample(torch.Size(sample_shape)).unsqueeze(-1)
        direction = torch.randn_like(length.expand(*length.shape[:-1], *self.event_shape))
        return length * direction / direction.norm(dim=-1, keepdim=True) - self.around

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of turns of shape `(*batch, 2 or 4)`: that of the length, over the area of its sphere."""
        if self._validate_args:
            self._validate_sample(value)
        size = self.event_shape[0]
        length = (self.around + value).norm(dim=-1)
        log_area = math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2) + (size - 1) * length.log()
        return self._length.log_prob(length) - log_area


def _turn_near(around: Tensor, spread: float) -> dist.MultivariateNormal:
    # A quaternion holds half of the angle; along the quaternion a turn changes nothing but the length.
    across = spread if around.shape[-1] == 2 else spread / 2
    along = around.unsqueeze(-1) * around.unsqueeze(-2)
    rest = torch.eye(around.shape[-1]).to(around) - along
    return dist.MultivariateNormal(torch.zeros_like(around), LENGTH_DEVIATION**2 * along + across**2 * rest)

"""A normalizing flow over points, with the units of its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.distributions.bases import ConditionalNormal, StandardNormal
from pyro_pcflow.distributions.notebook import flow_html
from pyro_pcflow.distributions.point_cloud import PointCloud, sample_clouds
from pyro_pcflow.distributions.pushforward import Pushforward
from pyro_pcflow.ops.options import check_options
from pyro_pcflow.transforms import (
    ConditionalPointTransform,
    ConditionedPointTransform,
    PointTransform,
    Standardize,
    coupling_stack,
    standardize,
)
from pyro_pcflow.transforms.base import check_context, check_points
from pyro_pcflow.transforms.stack import STACK_OPTIONS

__all__ = ["PointCloudFlow"]

BASES = ("normal", "conditional")
# What a flow takes beside the sizes of its points and its context.
FLOW_OPTIONS = ("base", *(name for name in STACK_OPTIONS if name != "context_dim"))


class PointCloudFlow(nn.Module):
    """A density over points that a coupling stack carries from noise, given a context or none.

    The module owns parameters; `condition` and `cloud` return throw-away Pyro distributions over a point
    and over a cloud. Both are exact densities in the data's own units: the change of units that `normalize`
    sets is the last part of the stack.

    Args:
        point_dim: number of coordinates `D` of a point, at least 2.
        context_dim: size `C` of a context, 0 for none.
        num_couplings: number of couplings `L`.
        hidden_dims: widths of every conditioner's hidden layers.
        base: `"normal"`, standard normal noise; `"conditional"`, normal noise whose mean and scale come from the
            context.
        **stack_options: any other option of `coupling_stack`.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> flow = PointCloudFlow(point_dim=3, context_dim=8, num_couplings=4, hidden_dims=[16])
        >>> clouds = flow.cloud(torch.randn(5, 8), num_points=2048)
        >>> clouds.batch_shape, clouds.event_shape
        (torch.Size([5]), torch.Size([2048, 3]))
    """

    def __init__(
        self,
        point_dim: int = 3,
        context_dim: int = 0,
        num_couplings: int = 12,
        hidden_dims: Sequence[int] = (64, 64),
        *,
        base: str = "normal",
        **stack_options: Any,
    ) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")
        if base == "conditional" and context_dim == 0:
            raise ValueError("a conditional base needs a context: give context_dim of at least 1")
        check_options(stack_options, ["point_dim", "context_dim", *FLOW_OPTIONS], type(self).__name__)
        self.point_dim = point_dim
        self.context_dim = context_dim
        self.config = {
            "point_dim": point_dim,
            "context_dim": context_dim,
            "num_couplings": num_couplings,
            "hidden_dims": list(hidden_dims),
            "base": base,
            **stack_options,
        }
        self.transform = coupling_stack(
            point_dim,
            num_couplings=num_couplings,
            hidden_dims=hidden_dims,
            context_dim=context_dim,
            **stack_options,
        )
        self.base = StandardNormal(point_dim) if base == "normal" else ConditionalNormal(point_dim, context_dim)
        self.transform.parts.append(standardize(point_dim))

    @property
    def units(self) -> Standardize:
        """The change of units: the last part of `transform`."""
        return self.transform.parts[-1]

    @property
    def normalized(self) -> bool:
        """Whether `normalize` has set the units."""
        return self.units.fitted

    def normalize(self, points: Tensor) -> None:
        """Set the units of the flow: one mean a coordinate and one standard deviation, of training points only.

        Args:
            points: shape `(*batch, D)`, in the data's units.

        Raises:
            ValueError: if the points are not finite, or all the same.
        """
        self.units.fit(points)

    def condition(self, context: Tensor | None = None) -> Pushforward:
        """Return the density of a point, given a context.

        Args:
            context: shape `(*batch, C)`; left out for a flow without context.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (D,)`, in the data's units.

        Raises:
            TypeError: if a context is missing or is not a tensor.
            ValueError: if its size is not `C`, or the flow takes none.
        """
        context = self._check_context(context)
        return Pushforward(self.base.distribution(context), self._stack(context))

    def cloud(
        self, context: Tensor | None = None, *, num_points: int | None = None, mask: Tensor | None = None
    ) -> PointCloud:
        """Return the density of a cloud, given a context.

        Args:
            context: shape `(*batch, C)`, one for each cloud; left out for a flow without context.
            num_points: number of points `N`; may be left out when there is a mask.
            mask: booleans of shape `(*batch, N)`, see `PointCloud`.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (N, D)`.
        """
        return PointCloud(self.condition(context), num_points, mask)

    def log_prob(self, points: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-density of points in nats, as `condition(context).log_prob(points)` and a little faster.

        Points are taken as they are: one that is not finite has a density that is not finite.

        Args:
            points: shape `(*batch, D)`, in the data's units.
            context: shape `(*context_batch, C)`; the batch shapes broadcast.

        Returns:
            Shape `(*batch,)`.
        """
        context = self._check_context(context)
        check_points(points, self.point_dim)
        stack = self._stack(context)
        noise, log_det = stack.inverse_and_log_det(points)
        return self.base.distribution(context).log_prob(noise) + log_det

    def sample(self, num_clouds: int, num_points: int, context: Tensor | None = None) -> Tensor:
        """Draw clouds.

        Args:
            num_clouds: number of clouds `S`.
            num_points: number of points `N` of each.
            context: shape `(C,)`, one for all clouds, or `(S, C)`, one for each; left out for a flow without context.

        Returns:
            Shape `(S, N, D)`, in the data's units, without gradients.

        Raises:
            TypeError: if a context is missing.
            ValueError: if it has another shape, or the flow takes none, or a number is negative.
        """
        return sample_clouds(self.cloud(context, num_points=num_points), num_clouds)

    def trajectory(self, num_points: int, context: Tensor | None = None) -> Tensor:
        """Carry fresh noise to data and keep every state on the way.

        Args:
            num_points: number of points `N`.
            context: shape `(*batch, C)`, one for each cloud.

        Returns:
            Shape `(1 + L, *batch, N, D)` of a stack of `L` couplings alone, the noise first and one more state for each
            other part, all in the data's units.
        """
        context = self._check_context(context)
        with torch.no_grad():
            noise = self.base.distribution(context)
            if context is not None:
                noise = noise.expand(context.shape[:-1])
            noise = noise.sample(torch.Size((num_points,)))
            states = self.transform.trajectory(noise, context)[:-1]
            return self.units.transform_and_log_det(states)[0].movedim(1, -2)

    def _stack(self, context: Tensor | None) -> PointTransform | ConditionedPointTransform:
        if isinstance(self.transform, ConditionalPointTransform):
            assert context is not None  # as _check_context made sure
            return self.transform.condition(context)
        return self.transform

    def _check_context(self, context: Tensor | None) -> Tensor | None:
        if isinstance(self.transform, ConditionalPointTransform):
            if context is None:
                raise TypeError(f"the flow needs a context of shape (*batch, {self.context_dim}), got none")
            return check_context(context, self.context_dim)
        if context is not None:
            raise ValueError(
                "the flow was built without a context (context_dim=0), but was given one: leave it out, or build the "
                "flow with context_dim"
            )
        return None

    def _repr_html_(self) -> str:
        return flow_html(self)

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        units = "in the data's units" if self.normalized else "units not set"
        return f"point_dim={self.point_dim}, context_dim={self.context_dim}, {parameters:,} parameters, {units}"

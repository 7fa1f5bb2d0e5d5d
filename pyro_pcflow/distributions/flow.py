"""A normalizing flow over points, with the units of its data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.distributions.base import select_points
from pyro_pcflow.distributions.bases import ConditionalNormal, MixtureOfGaussians, StandardNormal
from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture
from pyro_pcflow.distributions.notebook import flow_html
from pyro_pcflow.distributions.point_cloud import PointCloud, sample_clouds
from pyro_pcflow.distributions.pushforward import MixturePushforward, Pushforward
from pyro_pcflow.ops.options import check_options
from pyro_pcflow.ops.origin import origin_text
from pyro_pcflow.ops.tracing import is_traced
from pyro_pcflow.transforms import (
    ConditionalCouplingStack,
    ConditionalPointTransform,
    ConditionedPointTransform,
    CouplingStack,
    PointTransform,
    Standardize,
    coupling_stack,
    standardize,
)
from pyro_pcflow.transforms.checks import check_context, check_points
from pyro_pcflow.transforms.stack import STACK_OPTIONS

__all__ = ["PointCloudFlow"]

BASES = ("normal", "conditional", "mixture")
MIXTURE_OPTIONS: dict[str, Any] = {
    "num_components": 128,
    "points_per_component": 1,
    "min_width": 1e-3,
    "max_width": math.inf,
    "base_hidden_dims": [256],
}
# What a flow is made of, and where it is of one shape and nothing is said of its couplings, which is the sharpest in
# the same seconds by `benchmarks.family`, on meshes and on scans of few points.
STACK: dict[str, Any] = {"num_couplings": 12, "hidden_dims": [64, 64]}
SHARP_STACK: dict[str, Any] = {"num_couplings": 8, "hidden_dims": [64, 64], "coupling": "cubic"}
SHARP_MIXTURE: dict[str, Any] = {"num_components": 1024, "points_per_component": 190}
# A context that is unlike those of the training must not write a cloud of any size.
WRITTEN_MIXTURE: dict[str, Any] = {"max_width": 3.0}
# Mean absolute coordinate, in the flow's own units, of points that a flow with the right units would not see.
FAR = 100.0
# What a flow takes beside the sizes of its points and its context, where it makes its own transform.
FLOW_OPTIONS = ("base", *MIXTURE_OPTIONS, *(name for name in STACK_OPTIONS if name != "context_dim"))


class PointCloudFlow(nn.Module):
    """Normalizing flow over points, with or without a context: noise that a stack of couplings carries to data.

    `PointCloudFlow(3)`, without a context and without a word about noise or couplings, is what describes one shape best
    in the same seconds: a mixture of Gaussians under eight cubic-rational couplings. Its samples carry no gradients.
    With `base="normal"`, a context or any option of the couplings, it is standard normal noise under affine couplings
    (RealNVP), of which every option may be chosen.

    The module owns parameters; `condition` and `cloud` return short-lived Pyro distributions over a point and over a
    cloud. Both are exact densities in the data's own units: the change of units that `normalize` sets is the last part
    of the stack.

    Points and contexts of a narrower data type than the weights are converted to that of the weights, as torch promotes
    types; those of a wider one, such as float64 points of a float32 flow, are refused. A flow without units warns if
    the first points that it scores lie hundreds of standard deviations away. Where coordinates are so large that the
    weights' type would round them, as those of maps, `normalize` finds an `origin`: then points are float64, those that
    it scores and those that it samples, and narrower ones are refused.

    Args:
        point_dim: number of coordinates `D` of a point, at least 2.
        context_dim: size `C` of a context, 0 for none.
        num_couplings: number of couplings `L`, 12 by default; 8 under the mixture of one shape.
        hidden_dims: widths of the hidden layers of every conditioner, `(64, 64)` by default.
        base: `"normal"`, standard normal noise; `"conditional"`, normal noise whose mean and scale come from the
            context; `"mixture"`, a mixture of Gaussians with full covariances, which come from the context if there is
            one, and which `normalize` starts from clusters of the data. Couplings above it are optional:
            `num_couplings` may be 0. By default `"mixture"` for one shape, if nothing is said of couplings, and
            `"normal"` otherwise.
        num_components: number of Gaussians of a mixture, 128 by default, 1024 for one shape if nothing is said of
            couplings.
        points_per_component: points for each Gaussian that `normalize` needs to put all to use, 1 by default, 190 where
            there are 1024; of fewer points, the others have weight 0, so that small scans are not learnt by heart.
        min_width: floor of their widths, in standard deviations of the data, 1e-3 by default.
        max_width: bound of the width of a coordinate given the ones before it, and of that which these give it, in
            standard deviations of the data: 3 by default with a context, so that one that training never saw makes no
            cloud of any size; infinity, for no bound of the latter, without.
        base_hidden_dims: widths of the hidden layers of the network that writes them from a context, `[256]` by
            default.
        feature_dim: how many of the last coordinates are features of a point, such as its intensity or its colour: each
            has a unit of its own, while the others share one.
        transform: a point transform from noise to data, such as a `CouplingStack` of your own parts, instead of the
            options of `coupling_stack`. The flow adds the change of units to it and shares its parameters.
        **stack_options: any other option of `coupling_stack`.

    Raises:
        TypeError: if an option is unknown, or if both a transform and options of `coupling_stack` are given.
        ValueError: if a size or a name is out of range, or is not that of the transform.

    Examples:
        >>> flow = PointCloudFlow(point_dim=3, context_dim=8, num_couplings=4, hidden_dims=[16])
        >>> clouds = flow.cloud(torch.randn(5, 8), num_points=2048)
        >>> clouds.batch_shape, clouds.event_shape
        (torch.Size([5]), torch.Size([2048, 3]))
        >>> mixture = PointCloudFlow(3, base="mixture", num_components=16, num_couplings=0)
        >>> mixture.condition().responsibilities(torch.randn(100, 3)).shape
        torch.Size([100, 16])
        >>> from pyro_pcflow.transforms import affine_point_coupling, lu_linear
        >>> parts = [affine_point_coupling(3), lu_linear(3), affine_point_coupling(3, mask=[False, True, True])]
        >>> flow = PointCloudFlow(3, transform=CouplingStack(parts))
        >>> flow.sample(num_clouds=2, num_points=100).shape
        torch.Size([2, 100, 3])
    """

    # What `pyro_pcflow.fit` takes if it is given none.
    learning_rate = 1e-2
    _has_scored_nothing = True

    def __init__(
        self,
        point_dim: int = 3,
        context_dim: int = 0,
        num_couplings: int | None = None,
        hidden_dims: Sequence[int] | None = None,
        *,
        base: str | None = None,
        num_components: int | None = None,
        points_per_component: int | None = None,
        min_width: float | None = None,
        max_width: float | None = None,
        base_hidden_dims: Sequence[int] | None = None,
        feature_dim: int = 0,
        transform: PointTransform | ConditionalPointTransform | None = None,
        **stack_options: Any,
    ) -> None:
        super().__init__()
        if num_couplings is not None:
            stack_options["num_couplings"] = num_couplings
        if hidden_dims is not None:
            stack_options["hidden_dims"] = list(hidden_dims)
        is_sharp = context_dim == 0 and transform is None and not stack_options and base in (None, "mixture")
        if base is None:
            base = "mixture" if is_sharp else "normal"
        if base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")
        if base == "conditional" and context_dim == 0:
            raise ValueError("a conditional base needs a context: give context_dim of at least 1")
        check_options(stack_options, ["point_dim", "context_dim", "transform", *FLOW_OPTIONS], type(self).__name__)
        self.point_dim = point_dim
        self.context_dim = context_dim
        self.config = {"point_dim": point_dim, "context_dim": context_dim, "base": base}
        mixture: dict[str, Any] = {
            "num_components": num_components,
            "points_per_component": points_per_component,
            "min_width": min_width,
            "max_width": max_width,
            "base_hidden_dims": base_hidden_dims,
        }
        mixture = {name: value for name, value in mixture.items() if value is not None}
        units = standardize(point_dim, feature_dim)
        if feature_dim:
            self.config["feature_dim"] = feature_dim
        if transform is None:
            stack_options = {**(SHARP_STACK if is_sharp else STACK), **stack_options}
            self.config |= stack_options
            if stack_options["num_couplings"] == 0 and base != "normal":
                self.transform = _stack_of(units, point_dim, context_dim, base)
            else:
                self.transform = coupling_stack(point_dim, context_dim=context_dim, **stack_options)
                self.transform.parts.append(units)
        else:
            if stack_options:
                raise TypeError(
                    "expected either a transform or options of coupling_stack, got a transform and "
                    f"{', '.join(sorted(stack_options))}"
                )
            self.config["transform"] = transform
            self.transform = _stack_of(transform, point_dim, context_dim, base)
            self.transform.parts.append(units)
        self.base: StandardNormal | ConditionalNormal | MixtureOfGaussians
        if base == "mixture":
            # Who counts the Gaussians gets as many.
            usual = SHARP_MIXTURE if is_sharp and num_components is None else {}
            written = WRITTEN_MIXTURE if context_dim else {}
            mixture = {**MIXTURE_OPTIONS, **usual, **written, **mixture}
            self.config |= mixture
            mixture["hidden_dims"] = mixture.pop("base_hidden_dims")
            self.base = MixtureOfGaussians(point_dim, context_dim, **mixture)
        elif mixture:
            raise TypeError(f"{', '.join(mixture)}: options of base='mixture', got base={base!r}")
        else:
            self.base = StandardNormal(point_dim) if base == "normal" else ConditionalNormal(point_dim, context_dim)
        weight = None if transform is None else next(transform.parameters(), None)
        if weight is not None:
            self.to(device=weight.device, dtype=weight.dtype)

    @property
    def units(self) -> Standardize:
        """The change of units: the last part of `transform`."""
        return self.transform.parts[-1]

    @property
    def feature_dim(self) -> int:
        """How many of the last coordinates are features."""
        return self.units.feature_dim

    @property
    def normalized(self) -> bool:
        """Whether `normalize` has set the units."""
        return self.units.fitted

    @property
    def origin(self) -> Tensor | None:
        """What is subtracted from points in float64 before all else, shape `(D,)`; None where nothing is."""
        return self.units.origin

    @property
    def data_dtype(self) -> torch.dtype:
        """The data type of samples, and of the points that the flow scores: float64 with an `origin`."""
        return self.units.data_dtype

    def normalize(self, points: Tensor, mask: Tensor | None = None, *, origin: Tensor | None = None) -> None:
        """Set the units of the flow: one mean per coordinate and one standard deviation, of training points only.

        A mixture as base starts anew from the clusters of these points; the state of torch's generators stays as it is.

        Args:
            points: shape `(*batch, D)`, in the data's units.
            mask: booleans of shape `(*batch,)`, True at the points of a cloud; all of them by default.
            origin: what is subtracted from points in float64, shape `(D,)`; by default the centre of points in float64
                that the weights' data type would round, and none of others.

        Raises:
            TypeError: if the points are not a tensor, or the mask is not boolean.
            ValueError: if the points are not finite, or all the same, or the mask does not fit.
        """
        check_points(points, self.point_dim)
        points = select_points(points, mask)
        self.units.fit(points, origin)
        if isinstance(self.base, MixtureOfGaussians):
            points = points.to(self.units.loc.device, self.data_dtype)
            self.base.start(self.units.inverse_and_log_det(points)[0])

    def condition(self, context: Tensor | None = None) -> Pushforward:
        """Return the density of a point, given a context.

        Args:
            context: shape `(*batch, C)`; left out for a flow without context.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (D,)`, in the data's units.

        Raises:
            TypeError: if a context is missing, is not a tensor, or has a wider data type than the weights.
            ValueError: if its size is not `C`, or the flow takes none.
        """
        context = self._check_context(context)
        kind = MixturePushforward if isinstance(self.base, MixtureOfGaussians) else Pushforward
        return kind(self.base.distribution(context), self._stack(context), self._check_points)

    def cloud(
        self, context: Tensor | None = None, *, num_points: int | None = None, mask: Tensor | None = None
    ) -> PointCloud:
        """Return the density of a cloud, given a context.

        Args:
            context: shape `(*batch, C)`, one per cloud; left out for a flow without context.
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

        Raises:
            TypeError: if the points are not a tensor, or have a wider data type than the weights.
            ValueError: if a shape does not fit.
        """
        context = self._check_context(context)
        self._check_points(points)
        noise, log_det = self._stack(context).inverse_and_log_det(points)
        return self.base.distribution(context).log_prob(noise) + log_det

    def sample(self, num_clouds: int, num_points: int, context: Tensor | None = None) -> Tensor:
        """Sample clouds.

        Args:
            num_clouds: number of clouds `S`.
            num_points: number of points `N` per cloud.
            context: shape `(C,)`, one for all clouds, or `(S, C)`, one per cloud; left out for a flow without context.

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
            context: shape `(*batch, C)`, one per cloud.

        Returns:
            Shape `(1 + L, *batch, N, D)`, the noise first and then one state per part of the stack: `L` for couplings
            alone. A mixture makes one more of them, `(2 + L, *batch, N, D)`: what its Gaussians make of the noise. All
            are in the data's units.
        """
        context = self._check_context(context)
        with torch.no_grad():
            noise = self.base.distribution(context)
            if context is not None:
                noise = noise.expand(context.shape[:-1])
            shape = torch.Size((num_points,))
            if isinstance(noise, GaussianMixture):
                first, points, _ = noise.sample_with_noise(shape)
                before = [first]
            else:
                before, points = [], noise.sample(shape)
            states = torch.stack([*before, *self.transform.trajectory(points, context)[:-1]])
            return self.units.transform_and_log_det(states)[0].movedim(1, -2)

    def _stack(self, context: Tensor | None) -> PointTransform | ConditionedPointTransform:
        if isinstance(self.transform, ConditionalPointTransform):
            assert context is not None  # as _check_context made sure
            return self.transform.condition(context)
        return self.transform

    def _check_points(self, points: Tensor) -> None:
        check_points(points, self.point_dim)
        if self.origin is None:
            self._check_dtype(points, "points")
        elif points.is_floating_point() and points.dtype != torch.float64:
            raise TypeError(
                f"expected points in float64, from which the flow subtracts its origin {origin_text(self.origin)}, got "
                f"{points.dtype}, which rounds such coordinates: read them in float64, and do not convert them"
            )
        # Later points need not be looked at: reading a value waits for a GPU, and a sampler that adapts goes anywhere.
        if not is_traced(points) and self._has_scored_nothing:
            self._has_scored_nothing = False
            if not self.normalized:
                _warn_if_far(points)

    def _check_dtype(self, tensor: Tensor, name: str) -> torch.dtype:
        dtype = self.units.loc.dtype
        if torch.promote_types(tensor.dtype, dtype) != dtype:
            raise TypeError(
                f"expected {name} of the flow's data type, {dtype}, or a narrower one, got {tensor.dtype}: "
                f"{name}.to({dtype}) converts them, or flow.to({tensor.dtype}) the flow"
            )
        return dtype

    def _check_context(self, context: Tensor | None) -> Tensor | None:
        if isinstance(self.transform, ConditionalPointTransform):
            if context is None:
                raise TypeError(f"the flow needs a context of shape (*batch, {self.context_dim}), got none")
            check_context(context, self.context_dim)
            return context.to(self._check_dtype(context, "contexts"))
        if context is not None:
            raise ValueError(
                "the flow was built without a context (context_dim=0), but was given one: leave it out, or build the "
                "flow with context_dim"
            )
        return None

    def _repr_html_(self) -> str:
        context = self.units.loc.new_zeros(self.context_dim) if self.context_dim else None
        title = "noise to shape" + (", at a context of zeros" if self.context_dim else "")
        summary = f"PointCloudFlow({self.extra_repr()})"
        return flow_html(summary, repr(self), lambda count: self.trajectory(count, context), title)

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        units = "in the data's units" if self.normalized else "units not set"
        origin = "" if self.origin is None else f", origin {origin_text(self.origin)}"
        return f"point_dim={self.point_dim}, context_dim={self.context_dim}, {parameters:,} parameters, {units}{origin}"


def _warn_if_far(points: Tensor) -> None:
    distance = points.detach().abs().mean(dtype=torch.float32).item()
    if FAR < distance < math.inf:
        warnings.warn(
            f"the points lie {distance:.4g} standard deviations from the noise on average, and the flow's units were "
            "never set: flow.normalize(training_points) sets them, or normalize of the model that the flow is part of",
            UserWarning,
            stacklevel=4,
        )


def _stack_of(
    transform: PointTransform | ConditionalPointTransform, point_dim: int, context_dim: int, base: str
) -> CouplingStack | ConditionalCouplingStack:
    """A stack of a given transform, or of the parts of a given stack, to which the units can be added."""
    if not isinstance(transform, PointTransform | ConditionalPointTransform):
        raise TypeError(f"expected a point transform of this library as transform, got {type(transform).__name__}")
    if transform.point_dim != point_dim:
        raise ValueError(f"point_dim={point_dim}, but the transform has point_dim={transform.point_dim}")
    conditional = isinstance(transform, ConditionalPointTransform)
    needed = transform.context_dim if conditional else 0
    # A plain transform under a base that takes the context: it acts on the noise alone.
    if needed != context_dim and (conditional or base == "normal"):
        raise ValueError(f"context_dim={context_dim}, but the transform takes contexts of size {needed}")
    is_stack = type(transform) in (CouplingStack, ConditionalCouplingStack)
    parts = list(transform.parts) if is_stack else [transform]
    stack = ConditionalCouplingStack(parts, context_dim) if context_dim else CouplingStack(parts)
    if is_stack:
        stack.backend, stack.recompute = transform.backend, transform.recompute
    return stack

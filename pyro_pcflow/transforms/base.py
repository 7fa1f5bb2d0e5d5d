"""Base classes of all point transforms: value and log-determinant in one pass, and a cache that cannot go stale."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform, _InverseTransform

from pyro_pcflow.transforms.cache import CacheEntry
from pyro_pcflow.transforms.checks import check_context, check_point_shape

__all__ = ["ConditionalPointTransform", "ConditionedPointTransform", "PointTransform"]

POINT = constraints.independent(constraints.real, 1)


class Bijection(Transform):
    """A bijection of points that computes a value and its log-determinant together.

    Subclasses define `transform_and_log_det` and `inverse_and_log_det`; everything that torch and
    Pyro ask of a `Transform` follows from these two.

    torch's own cache is not used, since it outlives the parameters that filled it. Instead, a transform caches its
    last *output*, for as long as that tensor lives, and believes the cache only while every parameter is unchanged.
    So `log_prob` costs one network pass, and none for a fresh sample.
    """

    domain = POINT
    codomain = POINT
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=0)
        self._called: CacheEntry | None = None
        self._inverted: CacheEntry | None = None

    @property
    def is_affine(self) -> bool:
        """Whether it carries a Gaussian to a Gaussian."""
        return False

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Carry noise to data.

        Args:
            x: points, shape `(*batch, D)`.

        Returns:
            The image, shape `(*batch, D)`, and `log |det dy/dx|`, shape `(*batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define transform_and_log_det")

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Carry data to noise.

        Args:
            y: points, shape `(*batch, D)`.

        Returns:
            The preimage, shape `(*batch, D)`, and `log |det dx/dy|`, shape `(*batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define inverse_and_log_det")

    def _dependencies(self) -> list[Tensor]:
        """Every tensor that the transform's value depends on, beside its argument."""
        raise NotImplementedError(f"{type(self).__name__} does not define _dependencies")

    def _call(self, x: Tensor) -> Tensor:
        if self._inverted is not None and (y := self._inverted.source_of(x, self._dependencies)) is not None:
            return y
        y, log_det = self.transform_and_log_det(x)
        self._called = CacheEntry.make(y, x, log_det, self._dependencies)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        if self._called is not None and (x := self._called.source_of(y, self._dependencies)) is not None:
            return x
        x, log_det = self.inverse_and_log_det(y)
        self._inverted = CacheEntry.make(x, y, log_det, self._dependencies)
        return x

    def cached_inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `inverse_and_log_det`, without a network if `y` is the last output.

        Args:
            y: points, shape `(*batch, D)`.
        """
        # Where nothing may be cached, as in torch.compile, `_inverse` and then `log_abs_det_jacobian` would
        # evaluate every network twice.
        if self._called is not None and (origin := self._called.origin_of(y, self._dependencies)) is not None:
            x, log_det = origin
            return x, -log_det
        return self.inverse_and_log_det(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-determinant `log |det dy/dx|`, shape `(*batch,)`.

        Args:
            x: points on the noise side, shape `(*batch, D)`.
            y: their images on the data side, shape `(*batch, D)`.
        """
        if self._called is not None:
            forward = self._called.log_det_between(x, y, self._dependencies)
            if forward is not None:
                return forward
        if self._inverted is not None:
            backward = self._inverted.log_det_between(y, x, self._dependencies)
            if backward is not None:
                return -backward
        return -self.inverse_and_log_det(y)[1]

    @property
    def inv(self) -> Transform:
        """The transform from data to noise."""
        # torch keeps the inverse in a reference cycle with its transform, so that a conditioned view, with the
        # graph of its context, would wait for the garbage collector. A fresh inverse costs a microsecond.
        return _InverseTransform(self)

    def with_cache(self, cache_size: int = 1) -> Bijection:
        """Return the transform itself, which has a cache of its own."""
        return self

    def clear_cache(self) -> None:
        """Forget the last outputs."""
        self._called = self._inverted = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_called": None, "_inverted": None}


class PointTransform(Bijection, TransformModule):
    """A learnable bijection of points in `D` dimensions: the base class of the plain transforms.

    Args:
        point_dim: number of coordinates `D` of a point.

    Examples:
        >>> class Swap(PointTransform):
        ...     def transform_and_log_det(self, x):
        ...         return x.flip(-1), x.new_zeros(x.shape[:-1])
        ...
        ...     def inverse_and_log_det(self, y):
        ...         return y.flip(-1), y.new_zeros(y.shape[:-1])
        >>> Swap(2)(torch.tensor([1.0, 2.0])).tolist()
        [2.0, 1.0]
    """

    # torch's transforms come first in the method order and would print a bare class name.
    __repr__ = torch.nn.Module.__repr__

    def __init__(self, point_dim: int) -> None:
        super().__init__()
        self.point_dim = point_dim

    def __hash__(self) -> int:
        # As torch.nn.Module's, in words that torch.compile can trace where compiled code walks the parameters.
        return id(self)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the image of points of `shape`."""
        check_point_shape(shape, self.point_dim)
        return torch.Size(shape)

    inverse_shape = forward_shape

    def _call(self, x: Tensor) -> Tensor:
        check_point_shape(x.shape, self.point_dim)
        return super()._call(x)

    def _inverse(self, y: Tensor) -> Tensor:
        check_point_shape(y.shape, self.point_dim)
        return super()._inverse(y)

    def _dependencies(self) -> list[Tensor]:
        return [*self.parameters(), *self.buffers()]


class ConditionalPointTransform(ConditionalTransformModule):
    """A learnable bijection of points that depends on a context: the base class of the conditional transforms.

    Args:
        point_dim: number of coordinates `D` of a point.
        context_dim: size `C` of a context.

    Examples:
        >>> class Move(ConditionalPointTransform):
        ...     def transform_and_log_det(self, x, context):
        ...         return x + context, x.new_zeros((x + context).shape[:-1])
        ...
        ...     def inverse_and_log_det(self, y, context):
        ...         return y - context, y.new_zeros((y - context).shape[:-1])
        >>> Move(2, 2).condition(torch.ones(5, 2))(torch.zeros(2)).shape
        torch.Size([5, 2])
    """

    domain = POINT
    codomain = POINT
    bijective = True

    def __init__(self, point_dim: int, context_dim: int) -> None:
        super().__init__()
        self.point_dim = point_dim
        self.context_dim = context_dim

    @property
    def is_affine(self) -> bool:
        """Whether it carries a Gaussian to a Gaussian, under any context."""
        return False

    def __hash__(self) -> int:
        return id(self)  # see PointTransform

    def transform_and_log_det(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Carry noise to data; see `transform_and_log_det`.

        Args:
            x: points, shape `(*batch, D)`.
            context: contexts, shape `(*context_batch, C)`; both batch shapes broadcast.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define transform_and_log_det")

    def inverse_and_log_det(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Carry data to noise; see `inverse_and_log_det`."""
        raise NotImplementedError(f"{type(self).__name__} does not define inverse_and_log_det")

    def condition(self, context: Tensor) -> ConditionedPointTransform:
        """Return the transform under a context. No network is evaluated yet.

        Args:
            context: shape `(*batch, C)`.

        Raises:
            TypeError: if the context is not a tensor.
            ValueError: if its last dimension is not `C`.
        """
        return ConditionedPointTransform(self, check_context(context, self.context_dim))

    def clear_cache(self) -> None:
        """Do nothing: only conditioned views have a cache."""


class ConditionedPointTransform(Bijection):
    """A `ConditionalPointTransform` under one batch of contexts: a throw-away view without parameters.

    The context's share of the networks is computed at each call, once per cloud, so that the view never
    disagrees with the weights.

    Args:
        transform: the transform, which owns the parameters.
        context: shape `(*batch, C)`.

    Examples:
        >>> from pyro_pcflow.transforms import conditional_affine_point_coupling
        >>> view = conditional_affine_point_coupling(3, 8).condition(torch.randn(5, 8))
        >>> type(view).__name__, view(torch.randn(5, 3)).shape
        ('ConditionedPointTransform', torch.Size([5, 3]))
    """

    def __init__(self, transform: ConditionalPointTransform, context: Tensor) -> None:
        super().__init__()
        self.transform = transform
        self.context = context

    @property
    def is_affine(self) -> bool:
        """Whether it carries a Gaussian to a Gaussian."""
        return self.transform.is_affine

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._expand(x)
        return self.transform.transform_and_log_det(x, self.context)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = self._expand(y)
        return self.transform.inverse_and_log_det(y, self.context)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the image of points of `shape`: the batch broadcasts with that of the context."""
        check_point_shape(shape, self.transform.point_dim)
        try:
            batch_shape = torch.broadcast_shapes(shape[:-1], self.context.shape[:-1])
        except RuntimeError as error:
            raise ValueError(
                f"points of batch shape {tuple(shape[:-1])} do not broadcast with contexts of batch shape "
                f"{tuple(self.context.shape[:-1])}: a context of each cloud needs a trailing dimension of "
                "size 1 where the cloud has its points, as in context.unsqueeze(-2)"
            ) from error
        return torch.Size((*batch_shape, shape[-1]))

    inverse_shape = forward_shape

    def _expand(self, points: Tensor) -> Tensor:
        return points.expand(self.forward_shape(points.shape))

    def _dependencies(self) -> list[Tensor]:
        return [self.context, *self.transform.parameters(), *self.transform.buffers()]

    def __repr__(self) -> str:
        return f"{type(self.transform).__name__}.condition(<context of shape {tuple(self.context.shape)}>)"

"""Stacks of coupling layers as one transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_pcflow.ops.backends import HasBackend, check_backend
from pyro_pcflow.ops.options import check_options, option_names
from pyro_pcflow.transforms.actnorm import ActNorm
from pyro_pcflow.transforms.backend import choose_backend, is_lowerable, run_lowered
from pyro_pcflow.transforms.base import ConditionalPointTransform, PointTransform
from pyro_pcflow.transforms.coupling import (
    CONDITIONER_OPTIONS,
    CONTEXT_OPTIONS,
    conditional_point_coupling,
    point_coupling,
)
from pyro_pcflow.transforms.elementwise import COUPLINGS, Elementwise, check_elementwise
from pyro_pcflow.transforms.grouping import Groups
from pyro_pcflow.transforms.lu_linear import LULinear
from pyro_pcflow.transforms.masks import MASK_PATTERNS, check_mask, iterate_masks
from pyro_pcflow.transforms.standardize import Standardize

__all__ = ["ConditionalCouplingStack", "CouplingStack", "coupling_stack"]


class _Stack(HasBackend, nn.Module):
    """The parts of a stack, from the noise to the data, walked in either direction in one pass."""

    parts: Any  # a torch.nn.ModuleList of point transforms, a type that torch cannot express
    # Whether a backward pass evaluates each part once more instead of keeping its hidden layers, so that memory holds
    # the coordinates between the parts and the hidden layers of one.
    recompute = False

    def _set_up(self, parts: Sequence[nn.Module]) -> None:
        self.parts = nn.ModuleList(parts)

    @property
    def is_affine(self) -> bool:
        """Whether all of its parts are."""
        return all(part.is_affine for part in self.parts)

    def transform_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._walk(x, context, inverse=False)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._walk(y, context, inverse=True)

    def _walk(self, points: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        if context is not None:
            points = points.expand(*torch.broadcast_shapes(points.shape[:-1], context.shape[:-1]), points.shape[-1])
        groups = Groups(points.shape[:-1], None if context is None else context.shape[:-1])
        parts, moved = list(reversed(self.parts) if inverse else self.parts), None
        if inverse and isinstance(parts[0], Standardize) and parts[0].origin is not None:
            # Before anything of the data type of weights sees the points.
            points, moved = parts.pop(0).inverse_and_log_det(points)
        weight = next(self.parameters(), None)
        if weight is not None:
            # A compiled kernel would read the memory of wider weights as that of the points' type.
            points = points.to(torch.promote_types(points.dtype, weight.dtype))
        backend = choose_backend(self.backend, points, groups.count)
        total = points.new_zeros(points.shape[:-1])
        for lowerable, members in groupby(parts, key=lambda part: is_lowerable(part, backend)):
            if lowerable:
                points, log_det = run_lowered(list(members), points, groups, context, inverse, backend)
                total = total + log_det
                continue
            for part in members:
                method = part.inverse_and_log_det if inverse else part.transform_and_log_det
                points, log_det = self._evaluate(method, points, *_context_of(part, context))
                total = total + log_det
        return points, total if moved is None else total + moved

    def _evaluate(self, method: Callable, *arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(method, *arguments, use_reentrant=False, preserve_rng_state=False)
        return method(*arguments)

    def trajectory(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Every state on the way from noise to data.

        Args:
            x: noise, shape `(*batch, D)`.
            context: shape `(*context_batch, C)` that broadcasts to `batch`; None for a plain stack.

        Returns:
            Shape `(1 + parts, *batch, D)`: the noise first, the data last.
        """
        states = [x]
        for part in self.parts:
            states.append(part.transform_and_log_det(states[-1], *_context_of(part, context))[0])
        return torch.stack(states)

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"{len(self.parts)} parts from noise to data, {parameters:,} parameters"


class CouplingStack(_Stack, PointTransform):
    """A sequence of plain transforms as one transform: one pass, one cache.

    Args:
        parts: transforms from the noise to the data, all of the same `point_dim`.

    Raises:
        ValueError: if there are none, or they disagree about `point_dim`.
        TypeError: if one is not a plain point transform.

    Examples:
        >>> from pyro_pcflow.transforms import affine_point_coupling, lu_linear
        >>> stack = CouplingStack([affine_point_coupling(3), lu_linear(3)])
        >>> stack(torch.randn(100, 3)).shape
        torch.Size([100, 3])
    """

    def __init__(self, parts: Sequence[PointTransform]) -> None:
        super().__init__(point_dim=_common_point_dim(parts, PointTransform))
        self._set_up(parts)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"parts": list(self.parts)}


class ConditionalCouplingStack(_Stack, ConditionalPointTransform):
    """A sequence of plain and conditional transforms under one context as one transform.

    Args:
        parts: transforms from the noise to the data, all of the same `point_dim`.
        context_dim: size `C` of the context, the same for every conditional part.

    Raises:
        ValueError: if there are none, or they disagree about `point_dim` or `context_dim`.

    Examples:
        >>> from pyro_pcflow.transforms import conditional_affine_point_coupling, lu_linear
        >>> stack = ConditionalCouplingStack([conditional_affine_point_coupling(3, 8), lu_linear(3)], 8)
        >>> stack.condition(torch.randn(5, 8))(torch.randn(100, 5, 3)).shape
        torch.Size([100, 5, 3])
    """

    def __init__(self, parts: Sequence[PointTransform | ConditionalPointTransform], context_dim: int) -> None:
        point_dim = _common_point_dim(parts, (PointTransform, ConditionalPointTransform))
        for part in parts:
            if isinstance(part, ConditionalPointTransform) and part.context_dim != context_dim:
                raise ValueError(
                    f"expected parts with a context of size {context_dim}, got {type(part).__name__} with "
                    f"context_dim={part.context_dim}"
                )
        super().__init__(point_dim=point_dim, context_dim=context_dim)
        self._set_up(parts)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"parts": list(self.parts), "context_dim": self.context_dim}


def coupling_stack(
    point_dim: int,
    *,
    num_couplings: int = 12,
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    coupling: str | Elementwise = "affine",
    masks: str | Sequence[Sequence[bool]] = "move_one",
    num_frequencies: int = 3,
    max_log_scale: float = 1.0,
    max_total_log_scale: float = 12.0,
    separate_networks: bool = False,
    act_norm: bool = False,
    lu_linear: bool = False,
    backend: str = "auto",
    **conditioner: Any,
) -> CouplingStack | ConditionalCouplingStack:
    """Make a stack of couplings whose masks take turns.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        num_couplings: number of couplings `L`.
        hidden_dims: widths of every conditioner's hidden layers.
        context_dim: size `C` of a context; 0 makes a plain `CouplingStack`.
        coupling: what happens to a moved coordinate: `"affine"` (RealNVP), `"additive"` (NICE), `"spline"`
            (`RationalQuadraticSpline`), `"cubic"` (`CubicRational`), or an `Elementwise`, which is taken as it is, with
            a bound of its log-scale of its own.
        masks: a pattern of `coupling_masks`, or masks that are repeated in turn.
        num_frequencies: Fourier features of the kept coordinates, see `fourier_features`.
        max_log_scale: smooth bound of each layer's log-scale.
        max_total_log_scale: bound of the sum of the log-scales over the stack. Deep stacks lower the bound of each
            layer to `max_total_log_scale / L`, without which their inverse is lost in float32.
        separate_networks: one conditioner for each parameter of a coordinate, such as one for the shift and one for
            the log-scale, instead of one for all.
        act_norm: put an `ActNorm` on the data's side of every coupling.
        lu_linear: put an `LULinear` on the data's side of every coupling but the last.
        backend: how the stack is run, see `pyro_pcflow.kernels.set_backend`.
        **conditioner: `residual` and `activation` and, for what a context does, `conditioning`, `context_dims` and
            `context_layers` of `pyro_pcflow.nn.Conditioner`.

    Raises:
        TypeError: if an option is unknown, or `coupling` is neither a name nor an `Elementwise`.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> stack = coupling_stack(3, num_couplings=12, hidden_dims=[64, 64], context_dim=8)
        >>> stack.condition(torch.randn(4, 1, 8))(torch.randn(4, 100, 3)).shape
        torch.Size([4, 100, 3])
    """
    check_options(conditioner, STACK_OPTIONS, "coupling_stack")
    if context_dim < 0:
        raise ValueError(f"context_dim must not be negative, got {context_dim}")
    if num_couplings < 1:
        raise ValueError(f"num_couplings must be at least 1, got {num_couplings}")
    if not (max_log_scale > 0 and max_total_log_scale > 0):
        raise ValueError(
            f"max_log_scale and max_total_log_scale must be positive, got {max_log_scale} and {max_total_log_scale}"
        )
    limit = min(max_log_scale, max_total_log_scale / num_couplings)
    elementwise = _elementwise(coupling, limit)
    options: dict[str, Any] = {
        "hidden_dims": hidden_dims,
        "num_frequencies": num_frequencies,
        "separate_networks": separate_networks,
        **conditioner,
    }
    if not context_dim:
        options = {name: value for name, value in options.items() if name not in CONTEXT_OPTIONS}

    parts: list[PointTransform | ConditionalPointTransform] = []
    for layer, mask in enumerate(_masks(masks, point_dim, num_couplings)):
        if context_dim:
            parts.append(conditional_point_coupling(point_dim, context_dim, elementwise, mask=mask, **options))
        else:
            parts.append(point_coupling(point_dim, elementwise, mask=mask, **options))
        if lu_linear and layer < num_couplings - 1:
            parts.append(LULinear(point_dim, max_log_scale=limit))
        if act_norm:
            parts.append(ActNorm(point_dim, max_log_scale=limit))
    stack = ConditionalCouplingStack(parts, context_dim) if context_dim else CouplingStack(parts)
    stack.backend = check_backend(backend)
    return stack


STACK_OPTIONS = tuple(dict.fromkeys((*option_names(coupling_stack, without=["point_dim"]), *CONDITIONER_OPTIONS)))


def _context_of(part: nn.Module, context: Tensor | None) -> tuple[Tensor | None, ...]:
    return (context,) if isinstance(part, ConditionalPointTransform) else ()


def _elementwise(coupling: str | Elementwise, limit: float) -> Elementwise:
    if not isinstance(coupling, str):
        return check_elementwise(coupling)
    if coupling not in COUPLINGS:
        raise ValueError(f"coupling must be one of {', '.join(COUPLINGS)}, or an Elementwise, got {coupling!r}")
    return COUPLINGS[coupling](limit)


def _masks(masks: str | Sequence[Sequence[bool]], point_dim: int, num_couplings: int) -> Iterator[tuple[bool, ...]]:
    if isinstance(masks, str):
        return iterate_masks(point_dim, num_couplings, masks)
    checked = [check_mask(mask, point_dim) for mask in masks]
    if not checked:
        raise ValueError(f"masks must name a pattern ({', '.join(MASK_PATTERNS)}) or hold at least one mask")
    return (checked[layer % len(checked)] for layer in range(num_couplings))


def _common_point_dim(parts: Sequence[Any], kinds: type | tuple[type, ...]) -> int:
    if not parts:
        raise ValueError("a stack needs at least one part")
    for part in parts:
        if not isinstance(part, kinds):
            raise TypeError(f"a part of a stack must be a point transform of this library, got {type(part).__name__}")
    dims = {part.point_dim for part in parts}
    if len(dims) > 1:
        raise ValueError(f"the parts of a stack must share point_dim, got {sorted(dims)}")
    return parts[0].point_dim

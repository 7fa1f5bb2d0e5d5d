"""Couplings by name: an elementwise map of this library with its conditioner."""

from __future__ import annotations

from typing import Any

from pyro_pcflow.ops.options import check_options
from pyro_pcflow.transforms.coupling import (
    CONDITIONAL_OPTIONS,
    PLAIN_OPTIONS,
    ConditionalPointCoupling,
    PointCoupling,
    conditional_point_coupling,
    point_coupling,
)
from pyro_pcflow.transforms.elementwise import Additive, Affine, CubicRational, RationalQuadraticSpline

__all__ = [
    "additive_point_coupling",
    "affine_point_coupling",
    "conditional_additive_point_coupling",
    "conditional_affine_point_coupling",
    "conditional_cubic_point_coupling",
    "conditional_spline_point_coupling",
    "cubic_point_coupling",
    "spline_point_coupling",
]


def affine_point_coupling(point_dim: int, *, max_log_scale: float = 1.0, **options: Any) -> PointCoupling:
    """Make an affine coupling (RealNVP) with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        max_log_scale: smooth bound of the log-scale.
        **options: as for `point_coupling`.

    Examples:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> coupling = affine_point_coupling(3, hidden_dims=[64, 64])
        >>> noise = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> dist.TransformedDistribution(noise, [coupling]).log_prob(torch.randn(100, 3)).shape
        torch.Size([100])
    """
    check_options(options, ["max_log_scale", *PLAIN_OPTIONS], "affine_point_coupling")
    return point_coupling(point_dim, Affine(max_log_scale), **options)


def conditional_affine_point_coupling(
    point_dim: int, context_dim: int, *, max_log_scale: float = 1.0, **options: Any
) -> ConditionalPointCoupling:
    """Make a conditional affine coupling with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        context_dim: size `C` of a context, at least 1.
        max_log_scale: smooth bound of the log-scale.
        **options: as for `conditional_point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = conditional_affine_point_coupling(3, 8, hidden_dims=[64, 64])
        >>> clouds, contexts = torch.randn(4, 100, 3), torch.randn(4, 1, 8)
        >>> coupling.condition(contexts)(clouds).shape
        torch.Size([4, 100, 3])
    """
    check_options(options, ["max_log_scale", *CONDITIONAL_OPTIONS], "conditional_affine_point_coupling")
    return conditional_point_coupling(point_dim, context_dim, Affine(max_log_scale), **options)


def additive_point_coupling(point_dim: int, **options: Any) -> PointCoupling:
    """Make an additive coupling (NICE), which preserves volume, with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        **options: as for `point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = additive_point_coupling(2, hidden_dims=[16])
        >>> x = torch.randn(10, 2)
        >>> float(coupling.log_abs_det_jacobian(x, coupling(x)).abs().max())
        0.0
    """
    return point_coupling(point_dim, Additive(), **options)


def conditional_additive_point_coupling(point_dim: int, context_dim: int, **options: Any) -> ConditionalPointCoupling:
    """Make a conditional additive coupling with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        context_dim: size `C` of a context, at least 1.
        **options: as for `conditional_point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = conditional_additive_point_coupling(3, 8, hidden_dims=[16])
        >>> coupling.condition(torch.randn(4, 1, 8))(torch.randn(10, 3)).shape
        torch.Size([4, 10, 3])
    """
    return conditional_point_coupling(point_dim, context_dim, Additive(), **options)


def spline_point_coupling(
    point_dim: int, *, num_bins: int = 8, bound: float = 3.0, max_log_scale: float = 1.0, **options: Any
) -> PointCoupling:
    """Make a coupling of rational-quadratic splines (neural spline flows), behind an affine map, with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        num_bins: number of bins of a spline.
        bound: where a spline ends, in units of the noise.
        max_log_scale: smooth bound of the log-scale of the affine map.
        **options: as for `point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = spline_point_coupling(3, num_bins=8, hidden_dims=[64, 64])
        >>> coupling(torch.randn(100, 3)).shape
        torch.Size([100, 3])
    """
    check_options(options, ["num_bins", "bound", "max_log_scale", *PLAIN_OPTIONS], "spline_point_coupling")
    return point_coupling(point_dim, RationalQuadraticSpline(num_bins, bound, max_log_scale), **options)


def conditional_spline_point_coupling(
    point_dim: int,
    context_dim: int,
    *,
    num_bins: int = 8,
    bound: float = 3.0,
    max_log_scale: float = 1.0,
    **options: Any,
) -> ConditionalPointCoupling:
    """Make a conditional coupling of rational-quadratic splines, behind an affine map, with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        context_dim: size `C` of a context, at least 1.
        num_bins: number of bins of a spline.
        bound: where a spline ends, in units of the noise.
        max_log_scale: smooth bound of the log-scale of the affine map.
        **options: as for `conditional_point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = conditional_spline_point_coupling(3, 8, hidden_dims=[16])
        >>> coupling.condition(torch.randn(4, 1, 8))(torch.randn(10, 3)).shape
        torch.Size([4, 10, 3])
    """
    known = ["num_bins", "bound", "max_log_scale", *CONDITIONAL_OPTIONS]
    check_options(options, known, "conditional_spline_point_coupling")
    spline = RationalQuadraticSpline(num_bins, bound, max_log_scale)
    return conditional_point_coupling(point_dim, context_dim, spline, **options)


def cubic_point_coupling(
    point_dim: int, *, num_terms: int = 4, max_log_scale: float = 1.0, **options: Any
) -> PointCoupling:
    """Make a coupling of cubic-rational maps, behind an affine map, with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        num_terms: number of terms of a map.
        max_log_scale: smooth bound of the log-scale of the affine map.
        **options: as for `point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = cubic_point_coupling(3, num_terms=4, hidden_dims=[64, 64])
        >>> coupling(torch.randn(100, 3)).shape
        torch.Size([100, 3])
    """
    check_options(options, ["num_terms", "max_log_scale", *PLAIN_OPTIONS], "cubic_point_coupling")
    return point_coupling(point_dim, CubicRational(num_terms, max_log_scale), **options)


def conditional_cubic_point_coupling(
    point_dim: int, context_dim: int, *, num_terms: int = 4, max_log_scale: float = 1.0, **options: Any
) -> ConditionalPointCoupling:
    """Make a conditional coupling of cubic-rational maps, behind an affine map, with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        context_dim: size `C` of a context, at least 1.
        num_terms: number of terms of a map.
        max_log_scale: smooth bound of the log-scale of the affine map.
        **options: as for `conditional_point_coupling`.

    Examples:
        >>> import torch
        >>> coupling = conditional_cubic_point_coupling(3, 8, hidden_dims=[16])
        >>> coupling.condition(torch.randn(4, 1, 8))(torch.randn(10, 3)).shape
        torch.Size([4, 10, 3])
    """
    known = ["num_terms", "max_log_scale", *CONDITIONAL_OPTIONS]
    check_options(options, known, "conditional_cubic_point_coupling")
    return conditional_point_coupling(point_dim, context_dim, CubicRational(num_terms, max_log_scale), **options)

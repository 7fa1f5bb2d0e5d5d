"""Affine (RealNVP) and additive (NICE) couplings of the coordinates of a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners
from pyro_pcflow.ops.coupling import affine_map, merge, split, tanh_bound
from pyro_pcflow.transforms.base import ConditionalPointTransform, PointTransform
from pyro_pcflow.transforms.masks import check_mask, coupling_masks

__all__ = [
    "AdditivePointCoupling",
    "AffinePointCoupling",
    "ConditionalAdditivePointCoupling",
    "ConditionalAffinePointCoupling",
    "additive_point_coupling",
    "affine_point_coupling",
    "conditional_additive_point_coupling",
    "conditional_affine_point_coupling",
]


class _PointCoupling(nn.Module):
    """The mathematics shared by plain and conditional couplings.

    Dinh, Krueger and Bengio, NICE, ICLR 2015 workshop; Dinh, Sohl-Dickstein and Bengio, Density estimation using
    Real NVP, ICLR 2017. From data to noise, with shift `A` and log-scale `M` read off the kept coordinates:

        z_moved = x_moved * exp(M) + A        log |det dz/dx| = sum of M over the moved coordinates
    """

    mask: tuple[bool, ...]
    max_log_scale: float

    def _set_up(self, mask: tuple[bool, ...], conditioner: nn.Module, max_log_scale: float) -> None:
        if not 0 < max_log_scale < float("inf"):
            raise ValueError(f"max_log_scale must be positive and finite, got {max_log_scale}")
        self.mask = mask
        self.max_log_scale = max_log_scale
        self.conditioner = conditioner

    def _shift_and_log_scale(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """`A` and `M` of the moved coordinates, each of shape `(*batch, moved)`."""
        shift, log_scale = self.conditioner(kept, context)
        return shift, tanh_bound(log_scale, self.max_log_scale)

    def transform_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._move(x, context, inverse=False)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._move(y, context, inverse=True)

    def _move(self, points: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        kept, moved = split(self.mask, points)
        moved, log_det = affine_map(moved, *self._shift_and_log_scale(kept, context), inverse)
        return merge(self.mask, kept, moved), log_det

    def extra_repr(self) -> str:
        return f"mask={mask_repr(self.mask)}, max_log_scale={self.max_log_scale:.3g}"


class _AdditiveCoupling(_PointCoupling):
    """A coupling with `M = 0`: its Jacobian determinant is one."""

    def _shift_and_log_scale(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        (shift,) = self.conditioner(kept, context)
        return shift, torch.zeros_like(shift)

    def extra_repr(self) -> str:
        return f"mask={mask_repr(self.mask)}"


class AffinePointCoupling(_PointCoupling, PointTransform):
    """An affine coupling of the coordinates of a point (RealNVP).

    Args:
        mask: `D` booleans, `True` where a coordinate is kept.
        conditioner: a module that maps kept coordinates, shape `(*batch, kept)`, and None to a shift and a
            log-scale, each of shape `(*batch, moved)`.
        max_log_scale: smooth bound of the log-scale.

    Raises:
        ValueError: if the mask keeps all or no coordinates, or the bound is not positive.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> coupling = AffinePointCoupling([True, False, False], Conditioner(1, [2, 2], [16]))
        >>> point = torch.tensor([1.0, 2.0, 3.0])
        >>> float(coupling(point)[0].detach())  # kept
        1.0
    """

    def __init__(self, mask: Sequence[bool], conditioner: nn.Module, *, max_log_scale: float = 1.0) -> None:
        super().__init__(point_dim=len(mask))
        self._set_up(check_mask(mask, len(mask)), conditioner, max_log_scale)


class ConditionalAffinePointCoupling(_PointCoupling, ConditionalPointTransform):
    """An affine coupling that depends on a context.

    Args:
        mask: `D` booleans, `True` where a coordinate is kept.
        conditioner: as for `AffinePointCoupling`, called with a context of shape `(*context_batch, C)`
            instead of None.
        context_dim: size `C` of a context.
        max_log_scale: smooth bound of the log-scale.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> conditioner = Conditioner(1, [2, 2], [16], context_dim=8)
        >>> coupling = ConditionalAffinePointCoupling([True, False, False], conditioner, 8)
        >>> coupling.condition(torch.randn(5, 8))(torch.randn(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self, mask: Sequence[bool], conditioner: nn.Module, context_dim: int, *, max_log_scale: float = 1.0
    ) -> None:
        super().__init__(point_dim=len(mask), context_dim=context_dim)
        self._set_up(check_mask(mask, len(mask)), conditioner, max_log_scale)


class AdditivePointCoupling(_AdditiveCoupling, PointTransform):
    """An additive coupling of the coordinates of a point (NICE), which preserves volume.

    Args:
        mask: `D` booleans, `True` where a coordinate is kept.
        conditioner: a module that maps kept coordinates, shape `(*batch, kept)`, and None to a tuple of one
            shift of shape `(*batch, moved)`.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> coupling = AdditivePointCoupling([True, False], Conditioner(1, [1], [16]))
        >>> x = torch.randn(10, 2)
        >>> float(coupling.log_abs_det_jacobian(x, coupling(x)).abs().max())
        0.0
    """

    def __init__(self, mask: Sequence[bool], conditioner: nn.Module) -> None:
        super().__init__(point_dim=len(mask))
        self._set_up(check_mask(mask, len(mask)), conditioner, max_log_scale=1.0)


class ConditionalAdditivePointCoupling(_AdditiveCoupling, ConditionalPointTransform):
    """An additive coupling that depends on a context.

    Args:
        mask: `D` booleans, `True` where a coordinate is kept.
        conditioner: as for `AdditivePointCoupling`, called with a context of shape
            `(*context_batch, C)` instead of None.
        context_dim: size `C` of a context.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> conditioner = Conditioner(1, [1], [16], context_dim=8)
        >>> coupling = ConditionalAdditivePointCoupling([True, False], conditioner, 8)
        >>> coupling.condition(torch.randn(5, 8))(torch.randn(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, mask: Sequence[bool], conditioner: nn.Module, context_dim: int) -> None:
        super().__init__(point_dim=len(mask), context_dim=context_dim)
        self._set_up(check_mask(mask, len(mask)), conditioner, max_log_scale=1.0)


def affine_point_coupling(
    point_dim: int,
    *,
    hidden_dims: Sequence[int] = (64, 64),
    mask: Sequence[bool] | None = None,
    residual: bool = False,
    activation: str = "relu",
    num_frequencies: int = 0,
    max_log_scale: float = 1.0,
    separate_networks: bool = False,
) -> AffinePointCoupling:
    """Make an affine coupling with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        hidden_dims: widths of the conditioner's hidden layers.
        mask: `D` booleans, `True` where a coordinate is kept; the default moves the first.
        residual: skip connections, see `Conditioner`.
        activation: see `Conditioner`.
        num_frequencies: see `fourier_features`.
        max_log_scale: smooth bound of the log-scale.
        separate_networks: one conditioner for the shift and one for the log-scale, instead of one for both.

    Examples:
        >>> import pyro.distributions as dist
        >>> coupling = affine_point_coupling(3, hidden_dims=[64, 64])
        >>> noise = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> dist.TransformedDistribution(noise, [coupling]).log_prob(torch.randn(100, 3)).shape
        torch.Size([100])
    """
    mask = _mask_or_default(mask, point_dim)
    conditioner = _conditioner(
        mask,
        [1, 1] if separate_networks else [2],
        hidden_dims,
        residual=residual,
        activation=activation,
        num_frequencies=num_frequencies,
    )
    return AffinePointCoupling(mask, conditioner, max_log_scale=max_log_scale)


def conditional_affine_point_coupling(
    point_dim: int,
    context_dim: int,
    *,
    hidden_dims: Sequence[int] = (64, 64),
    mask: Sequence[bool] | None = None,
    conditioning: str = "bias",
    context_dims: Sequence[int] = (),
    context_layers: Sequence[int] | None = None,
    residual: bool = False,
    activation: str = "relu",
    num_frequencies: int = 0,
    max_log_scale: float = 1.0,
    separate_networks: bool = False,
) -> ConditionalAffinePointCoupling:
    """Make a conditional affine coupling with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        context_dim: size `C` of a context, at least 1.
        hidden_dims: widths of the conditioner's hidden layers.
        mask: `D` booleans, `True` where a coordinate is kept; the default moves the first.
        conditioning: how the context acts, see `Conditioner`.
        context_dims: hidden layers between the context and what it does, see `Conditioner`.
        context_layers: hidden layers that the context acts on, see `Conditioner`.
        residual: skip connections, see `Conditioner`.
        activation: see `Conditioner`.
        num_frequencies: see `fourier_features`.
        max_log_scale: smooth bound of the log-scale.
        separate_networks: one conditioner for the shift and one for the log-scale, instead of one for both.

    Examples:
        >>> coupling = conditional_affine_point_coupling(3, 8, hidden_dims=[64, 64])
        >>> clouds, contexts = torch.randn(4, 100, 3), torch.randn(4, 1, 8)
        >>> coupling.condition(contexts)(clouds).shape
        torch.Size([4, 100, 3])
    """
    check_context_dim(context_dim)
    mask = _mask_or_default(mask, point_dim)
    conditioner = _conditioner(
        mask,
        [1, 1] if separate_networks else [2],
        hidden_dims,
        context_dim=context_dim,
        conditioning=conditioning,
        context_dims=context_dims,
        context_layers=context_layers,
        residual=residual,
        activation=activation,
        num_frequencies=num_frequencies,
    )
    return ConditionalAffinePointCoupling(mask, conditioner, context_dim, max_log_scale=max_log_scale)


def additive_point_coupling(
    point_dim: int,
    *,
    hidden_dims: Sequence[int] = (64, 64),
    mask: Sequence[bool] | None = None,
    residual: bool = False,
    activation: str = "relu",
    num_frequencies: int = 0,
) -> AdditivePointCoupling:
    """Make an additive coupling with its conditioner; arguments as for `affine_point_coupling`.

    Examples:
        >>> coupling = additive_point_coupling(2, hidden_dims=[16])
        >>> coupling(torch.randn(10, 2)).shape
        torch.Size([10, 2])
    """
    mask = _mask_or_default(mask, point_dim)
    conditioner = _conditioner(
        mask, [1], hidden_dims, residual=residual, activation=activation, num_frequencies=num_frequencies
    )
    return AdditivePointCoupling(mask, conditioner)


def conditional_additive_point_coupling(
    point_dim: int,
    context_dim: int,
    *,
    hidden_dims: Sequence[int] = (64, 64),
    mask: Sequence[bool] | None = None,
    conditioning: str = "bias",
    context_dims: Sequence[int] = (),
    context_layers: Sequence[int] | None = None,
    residual: bool = False,
    activation: str = "relu",
    num_frequencies: int = 0,
) -> ConditionalAdditivePointCoupling:
    """Make a conditional additive coupling; arguments as for `conditional_affine_point_coupling`.

    Examples:
        >>> coupling = conditional_additive_point_coupling(3, 8, hidden_dims=[16])
        >>> coupling.condition(torch.randn(4, 1, 8))(torch.randn(10, 3)).shape
        torch.Size([4, 10, 3])
    """
    check_context_dim(context_dim)
    mask = _mask_or_default(mask, point_dim)
    conditioner = _conditioner(
        mask,
        [1],
        hidden_dims,
        context_dim=context_dim,
        conditioning=conditioning,
        context_dims=context_dims,
        context_layers=context_layers,
        residual=residual,
        activation=activation,
        num_frequencies=num_frequencies,
    )
    return ConditionalAdditivePointCoupling(mask, conditioner, context_dim)


def mask_repr(mask: Sequence[bool]) -> str:
    """A mask as one character a coordinate: `=` kept, `>` moved."""
    return "".join("=" if keep else ">" for keep in mask)


def check_context_dim(context_dim: int) -> None:
    """Raise a `ValueError` unless a conditional transform has a context."""
    if context_dim < 1:
        raise ValueError(
            f"a conditional transform needs context_dim of at least 1, got {context_dim}; "
            "without a context use its plain sister"
        )


def _mask_or_default(mask: Sequence[bool] | None, point_dim: int) -> tuple[bool, ...]:
    return coupling_masks(point_dim, 1)[0] if mask is None else check_mask(mask, point_dim)


def _conditioner(
    mask: tuple[bool, ...], outputs: Sequence[int], hidden_dims: Sequence[int], **options: Any
) -> Conditioner | SeparateConditioners:
    """A network for every entry of `outputs`, which is how many outputs of a moved coordinate it has."""
    kept = sum(mask)
    networks = [Conditioner(kept, [len(mask) - kept] * count, hidden_dims, **options) for count in outputs]
    return networks[0] if len(networks) == 1 else SeparateConditioners(networks)

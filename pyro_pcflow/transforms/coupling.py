"""Coupling layers: some coordinates of a point are kept, and parametrize a map of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners
from pyro_pcflow.ops.coupling import merge, split
from pyro_pcflow.ops.options import check_options, option_names
from pyro_pcflow.transforms.base import ConditionalPointTransform, PointTransform
from pyro_pcflow.transforms.elementwise import Elementwise, check_elementwise
from pyro_pcflow.transforms.masks import check_mask, coupling_masks, mask_repr

__all__ = [
    "ConditionalPointCoupling",
    "PointCoupling",
    "conditional_point_coupling",
    "point_coupling",
]

CONTEXT_OPTIONS = ("conditioning", "context_dims", "context_layers")
# What the helpers pass on to a `Conditioner`, where it is documented.
CONDITIONER_OPTIONS = option_names(Conditioner, without=["input_dim", "output_dims", "hidden_dims", "context_dim"])


class _PointCoupling(nn.Module):
    """The mathematics shared by plain and conditional couplings.

    Dinh, Krueger and Bengio, NICE, ICLR 2015 workshop. With parameters read off the kept coordinates, each moved
    coordinate goes through an elementwise bijection; `log |det|` is the sum of its log-derivatives.
    """

    mask: tuple[bool, ...]
    elementwise: Elementwise
    conditioner: nn.Module

    def _set_up(self, mask: Sequence[bool], elementwise: Elementwise, conditioner: nn.Module) -> None:
        self.mask = check_mask(mask, len(mask))
        self.elementwise = check_elementwise(elementwise)
        self.conditioner = conditioner

    def transform_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._move(x, context, inverse=False)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._move(y, context, inverse=True)

    def _move(self, points: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        kept, moved = split(self.mask, points)
        outputs = self.conditioner(kept, context)
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        # One parameter of all moved coordinates after the other, as files and compiled kernels have them.
        parameters = joined.unflatten(-1, (self.elementwise.num_parameters, moved.shape[-1])).mT
        apply = self.elementwise.inverse_and_log_det if inverse else self.elementwise.forward_and_log_det
        image, log_det = apply(moved, parameters)
        if not image.shape == log_det.shape == moved.shape:
            raise ValueError(
                f"{self.elementwise!r} returned shapes {tuple(image.shape)} and {tuple(log_det.shape)}: expected the "
                f"image and the log-derivative of each coordinate, both of shape {tuple(moved.shape)}"
            )
        return merge(self.mask, kept, image), log_det.sum(-1)

    def extra_repr(self) -> str:
        return f"mask={mask_repr(self.mask)}, {self.elementwise!r}"


class PointCoupling(_PointCoupling, PointTransform):
    """A coupling of the coordinates of a point: the kept ones say how an elementwise map moves the others.

    Args:
        mask: `D` booleans, `True` where a coordinate is kept.
        elementwise: what happens to a moved coordinate, such as `Affine()` (RealNVP) or `Additive()` (NICE).
        conditioner: a module that maps kept coordinates, shape `(*batch, kept)`, and None to a tuple of tensors which,
            joined along the last dimension, are the first parameter of all moved coordinates, then the second, and so
            on: shape `(*batch, elementwise.num_parameters * moved)`.

    Raises:
        TypeError: if `elementwise` is no `Elementwise`.
        ValueError: if the mask keeps all or no coordinates.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> from pyro_pcflow.transforms import Affine
        >>> coupling = PointCoupling([True, False, False], Affine(), Conditioner(1, [4], [16]))
        >>> point = torch.tensor([1.0, 2.0, 3.0])
        >>> float(coupling(point)[0].detach())  # kept
        1.0
    """

    def __init__(self, mask: Sequence[bool], elementwise: Elementwise, conditioner: nn.Module) -> None:
        super().__init__(point_dim=len(mask))
        self._set_up(mask, elementwise, conditioner)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"mask": self.mask, "elementwise": self.elementwise, "conditioner": self.conditioner}


class ConditionalPointCoupling(_PointCoupling, ConditionalPointTransform):
    """A coupling that depends on a context.

    Args:
        mask: `D` booleans, `True` where a coordinate is kept.
        elementwise: what happens to a moved coordinate, see `PointCoupling`.
        conditioner: as for `PointCoupling`, called with a context of shape `(*context_batch, C)` instead of None.
        context_dim: size `C` of a context.

    Raises:
        TypeError: if `elementwise` is no `Elementwise`.
        ValueError: if the mask keeps all or no coordinates.

    Examples:
        >>> from pyro_pcflow.nn import Conditioner
        >>> from pyro_pcflow.transforms import Affine
        >>> conditioner = Conditioner(1, [4], [16], context_dim=8)
        >>> coupling = ConditionalPointCoupling([True, False, False], Affine(), conditioner, 8)
        >>> coupling.condition(torch.randn(5, 8))(torch.randn(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self, mask: Sequence[bool], elementwise: Elementwise, conditioner: nn.Module, context_dim: int
    ) -> None:
        super().__init__(point_dim=len(mask), context_dim=context_dim)
        self._set_up(mask, elementwise, conditioner)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {
            "mask": self.mask,
            "elementwise": self.elementwise,
            "conditioner": self.conditioner,
            "context_dim": self.context_dim,
        }


def point_coupling(
    point_dim: int,
    elementwise: Elementwise,
    *,
    hidden_dims: Sequence[int] = (64, 64),
    mask: Sequence[bool] | None = None,
    separate_networks: bool = False,
    **conditioner: Any,
) -> PointCoupling:
    """Make a coupling with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        elementwise: what happens to a moved coordinate, such as `Affine()`.
        hidden_dims: widths of the conditioner's hidden layers.
        mask: `D` booleans, `True` where a coordinate is kept; the default moves the first.
        separate_networks: one conditioner for each parameter of `elementwise`, such as one for the shift and one for
            the log-scale, instead of one for all.
        **conditioner: `residual`, `activation` and `num_frequencies` of `pyro_pcflow.nn.Conditioner`.

    Raises:
        TypeError: if an option is unknown, or `elementwise` is no `Elementwise`.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> from pyro_pcflow.transforms import Affine
        >>> coupling = point_coupling(3, Affine(max_log_scale=0.5), hidden_dims=[64, 64])
        >>> coupling(torch.randn(100, 3)).shape
        torch.Size([100, 3])
    """
    check_options(conditioner, PLAIN_OPTIONS, "point_coupling")
    mask = _mask_or_default(mask, point_dim)
    network = _conditioner(mask, elementwise, hidden_dims, separate_networks, conditioner)
    return PointCoupling(mask, elementwise, network)


def conditional_point_coupling(
    point_dim: int,
    context_dim: int,
    elementwise: Elementwise,
    *,
    hidden_dims: Sequence[int] = (64, 64),
    mask: Sequence[bool] | None = None,
    separate_networks: bool = False,
    **conditioner: Any,
) -> ConditionalPointCoupling:
    """Make a conditional coupling with its conditioner.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        context_dim: size `C` of a context, at least 1.
        elementwise: what happens to a moved coordinate, such as `Affine()`.
        hidden_dims: widths of the conditioner's hidden layers.
        mask: `D` booleans, `True` where a coordinate is kept; the default moves the first.
        separate_networks: one conditioner for each parameter of `elementwise`, instead of one for all.
        **conditioner: `conditioning`, `context_dims`, `context_layers`, `residual`, `activation` and `num_frequencies`
            of `pyro_pcflow.nn.Conditioner`.

    Raises:
        TypeError: if an option is unknown, or `elementwise` is no `Elementwise`.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> from pyro_pcflow.transforms import Affine
        >>> coupling = conditional_point_coupling(3, 8, Affine(), hidden_dims=[64, 64], conditioning="film")
        >>> clouds, contexts = torch.randn(4, 100, 3), torch.randn(4, 1, 8)
        >>> coupling.condition(contexts)(clouds).shape
        torch.Size([4, 100, 3])
    """
    check_options(conditioner, CONDITIONAL_OPTIONS, "conditional_point_coupling")
    if context_dim < 1:
        raise ValueError(
            f"a conditional transform needs context_dim of at least 1, got {context_dim}; "
            "without a context use its plain sister"
        )
    mask = _mask_or_default(mask, point_dim)
    options = {"context_dim": context_dim, **conditioner}
    network = _conditioner(mask, elementwise, hidden_dims, separate_networks, options)
    return ConditionalPointCoupling(mask, elementwise, network, context_dim)


# What the helpers below take beside the sizes; see `point_coupling`.
CONDITIONAL_OPTIONS = (
    *option_names(point_coupling, without=["point_dim", "elementwise"]),
    *CONDITIONER_OPTIONS,
)
PLAIN_OPTIONS = tuple(name for name in CONDITIONAL_OPTIONS if name not in CONTEXT_OPTIONS)


def _mask_or_default(mask: Sequence[bool] | None, point_dim: int) -> tuple[bool, ...]:
    return coupling_masks(point_dim, 1)[0] if mask is None else check_mask(mask, point_dim)


def _conditioner(
    mask: tuple[bool, ...],
    elementwise: Elementwise,
    hidden_dims: Sequence[int],
    separate_networks: bool,
    options: dict[str, Any],
) -> Conditioner | SeparateConditioners:
    kept, count = sum(mask), check_elementwise(elementwise).num_parameters
    moved = len(mask) - kept
    outputs = [moved] * count if separate_networks else [moved * count]
    networks = [Conditioner(kept, [size], hidden_dims, **options) for size in outputs]
    return networks[0] if len(networks) == 1 else SeparateConditioners(networks)

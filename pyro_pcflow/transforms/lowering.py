"""From modules to the numbers that `pyro_pcflow.kernels` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.kernels.program import Coupling, Network, Parameters, Program
from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners
from pyro_pcflow.transforms.coupling import (
    AdditivePointCoupling,
    AffinePointCoupling,
    ConditionalAdditivePointCoupling,
    ConditionalAffinePointCoupling,
)

__all__ = ["Groups", "can_lower", "lower"]

# Not their subclasses, which may do something else.
COUPLINGS = (
    AdditivePointCoupling,
    AffinePointCoupling,
    ConditionalAdditivePointCoupling,
    ConditionalAffinePointCoupling,
)
CONDITIONERS = (Conditioner, SeparateConditioners)


def can_lower(part: nn.Module) -> bool:
    """Whether numbers can say all that a part of a stack does: a coupling of this library that nobody watches."""
    conditioner: Any = getattr(part, "conditioner", None)
    if type(part) not in COUPLINGS or type(conditioner) not in CONDITIONERS:
        return False
    return (
        all(type(network) is Conditioner and network.hidden_dtype is None for network in _networks_of(conditioner))
        # Whoever has put a function in the place of a method, or a hook on a layer, wants it to be called.
        and not {"transform_and_log_det", "inverse_and_log_det"} & vars(part).keys()
        and not any(module._forward_hooks or module._forward_pre_hooks for module in part.modules())
    )


def lower(
    couplings: Sequence[Any], context: Tensor | None, groups: int, point_dim: int
) -> tuple[Program, Tensor, Tensor]:
    """Write couplings as a program and its parameters; gradients flow back to those of the modules.

    Args:
        couplings: parts of a stack that can be lowered, from the noise to the data.
        context: shape `(G, C)`, or None.
        groups: number `G` of groups of points.
        point_dim: number of coordinates `D`.

    Returns:
        The program, its weights and its offsets, see `pyro_pcflow.kernels.operator.run`.
    """
    lowered: list[Coupling] = []
    parameters: list[Parameters] = []
    for part in couplings:
        networks = [_lower_network(network, context) for network in _networks_of(part.conditioner)]
        affine = isinstance(part, AffinePointCoupling | ConditionalAffinePointCoupling)
        lowered.append(Coupling(part.mask, affine, part.max_log_scale, tuple(network for network, _ in networks)))
        parameters += [own for _, own in networks]
    weights = torch.cat([matrix.reshape(-1) for own in parameters for matrix in own.matrices])
    vectors: list[Tensor] = []
    for own in parameters:
        for scale, offset in zip(own.scales, own.offsets, strict=True):
            vectors += [offset] if scale is None else [scale, offset]
    offsets = torch.cat([vector.expand(groups, -1) for vector in vectors], -1)
    return Program(point_dim, tuple(lowered)), weights, offsets


def _networks_of(conditioner: Any) -> list[Any]:
    return [conditioner] if type(conditioner) is Conditioner else list(conditioner.networks)


def _lower_network(conditioner: Conditioner, context: Tensor | None) -> tuple[Network, Parameters]:
    """A network in numbers: scales and offsets `(G, width)` where the context acts, `(width,)` elsewhere."""
    modulations = conditioner.modulations(context)
    network = Network(
        hidden_dims=tuple(conditioner.hidden_dims),
        outputs=sum(conditioner.output_dims),
        activation=conditioner.activation,
        num_frequencies=conditioner.num_frequencies,
        scaled=tuple(scale is not None for scale, _ in modulations),
        skips=conditioner.skips,
    )
    layers: Any = conditioner.hidden
    offsets = [_offset(layer.bias, *modulation) for layer, modulation in zip(layers, modulations, strict=True)]
    parameters = Parameters(
        matrices=[layer.weight for layer in (*layers, conditioner.output)],
        scales=[*(scale for scale, _ in modulations), None],
        offsets=[*offsets, conditioner.output.bias],
    )
    return network, parameters


def _offset(bias: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """What is added to a hidden layer after its scale, where its bias is added before."""
    if bias is None:
        assert shift is not None  # a layer has no bias only where a shift brings one
        return shift
    if shift is None:
        return bias
    return bias + shift if scale is None else torch.addcmul(shift, bias, scale)


class Groups:
    """Points in groups, each under a context of its own.

    Args:
        batch_shape: of the points.
        context_shape: batch shape of the contexts, which broadcasts to that of the points; None without context.

    Examples:
        >>> groups = Groups(torch.Size([4, 100]), torch.Size([4, 1]))
        >>> groups.count, groups.size
        (4, 100)
        >>> groups.gather(torch.randn(4, 100, 3)).shape
        torch.Size([4, 100, 3])
    """

    def __init__(self, batch_shape: torch.Size, context_shape: torch.Size | None) -> None:
        padded = (1,) * len(batch_shape) if context_shape is None else context_shape
        padded = (1,) * (len(batch_shape) - len(padded)) + tuple(padded)
        apart = [i for i, size in enumerate(padded) if size != 1]
        together = [i for i, size in enumerate(padded) if size == 1]
        self._order = [*apart, *together]
        self._shape = [batch_shape[i] for i in self._order]
        self.count = math.prod([batch_shape[i] for i in apart])
        self.size = math.prod([batch_shape[i] for i in together])

    def gather(self, points: Tensor) -> Tensor:
        """Points of shape `(*batch, D)` in groups, shape `(G, N, D)`."""
        return points.permute(*self._order, -1).reshape(self.count, self.size, points.shape[-1])

    def contexts(self, context: Tensor | None) -> Tensor | None:
        """Contexts of shape `(*context_batch, C)`, one for each group, shape `(G, C)`."""
        return None if context is None else context.reshape(self.count, context.shape[-1])

    def scatter(self, values: Tensor) -> Tensor:
        """What belongs to points, of shape `(G, N, *rest)`, back to `(*batch, *rest)`."""
        values = values.reshape(*self._shape, *values.shape[2:])
        back = [self._order.index(i) for i in range(len(self._order))]
        return values.permute(*back, *range(len(back), values.dim()))

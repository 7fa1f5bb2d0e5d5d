"""From modules to the numbers that `pyro_pcflow.kernels` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.kernels.program import Activation, Coupling, Network, Parameters, Program
from pyro_pcflow.nn.conditioner import Conditioner, SeparateConditioners
from pyro_pcflow.transforms.coupling import ConditionalPointCoupling, PointCoupling
from pyro_pcflow.transforms.elementwise import Additive, Affine

__all__ = ["can_lower", "lower"]

# Not their subclasses, which may do something else.
COUPLINGS = (PointCoupling, ConditionalPointCoupling)
ELEMENTWISE = (Affine, Additive)
CONDITIONERS = (Conditioner, SeparateConditioners)
# Someone who has put a function in the place of one of these wants it to be called.
METHODS = {"transform_and_log_det", "inverse_and_log_det", "forward_and_log_det"}


def can_lower(part: nn.Module) -> bool:
    """Whether numbers can say all that a part of a stack does: a coupling of this library without hooks or changes."""
    if not isinstance(part, COUPLINGS) or type(part) not in COUPLINGS:
        return False
    elementwise, conditioner = part.elementwise, part.conditioner
    if type(elementwise) not in ELEMENTWISE or type(conditioner) not in CONDITIONERS:
        return False
    return (
        all(type(network) is Conditioner and network.hidden_dtype is None for network in _networks_of(conditioner))
        and not METHODS & {*vars(part), *vars(elementwise)}
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
        affine = isinstance(part.elementwise, Affine)
        limit = part.elementwise.max_log_scale if affine else 1.0
        lowered.append(Coupling(part.mask, affine, limit, tuple(network for network, _ in networks)))
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
        activation=Activation.of(conditioner.activation),
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

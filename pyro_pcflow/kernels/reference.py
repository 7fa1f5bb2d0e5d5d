"""Couplings and their networks by ordinary operations of torch: the reference, with derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_pcflow.kernels.program import Coupling, Network, Parameters, Program

__all__ = ["ACTIVATIONS", "LEAK", "Modulation", "evaluate", "fourier_features", "keep", "move", "soft_bound", "through"]

LEAK = 0.1  # the slope of a leaky ReLU below zero
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=LEAK),
}

Modulation = tuple[Tensor | None, Tensor | None]


def fourier_features(x: Tensor, num_frequencies: int, dim: int = -1) -> Tensor:
    """Append sines and cosines of octave frequencies, which let a narrow network draw sharp detail.

    Source: Mildenhall et al., NeRF: Representing Scenes as Neural Radiance Fields, ECCV 2020, section 5.1.

    Args:
        x: shape `(*batch, K)`.
        num_frequencies: the frequencies are `1, 2, ..., 2 ** (num_frequencies - 1)` radians per unit.
        dim: where the coordinates are, if not in the last dimension.

    Returns:
        Shape `(*batch, K * (1 + 2 * num_frequencies))`.

    Examples:
        >>> fourier_features(torch.zeros(5, 2), num_frequencies=3).shape
        torch.Size([5, 14])
    """
    if num_frequencies == 0:
        return x
    angles = torch.cat([x * 2.0**octave for octave in range(num_frequencies)], dim)
    return torch.cat([x, angles.sin(), angles.cos()], dim)


def soft_bound(x: Tensor, limit: float) -> Tensor:
    """Bound `x` smoothly to `(-limit, limit)`, with slope 1 at zero.

    Args:
        x: any shape.
        limit: positive bound.
    """
    return limit * torch.tanh(x / limit)


def through(
    layers: Iterable[Callable[[Tensor], Tensor]],
    x: Tensor,
    modulations: Iterable[Modulation],
    skips: Iterable[bool],
    activation: str,
) -> Tensor:
    """Apply hidden layers, each with its modulation and activation, and skip connections.

    Args:
        layers: affine maps of the last dimension.
        x: shape `(*batch, K)`.
        modulations: for each layer, a scale and a shift of what is before its activation, or None.
        skips: for each layer, whether the value of two layers before is added before its activation.
        activation: a name of `ACTIVATIONS`.
    """
    activate = ACTIVATIONS[activation]
    before = x
    for layer, (scale, shift), skip in zip(layers, modulations, skips, strict=True):
        hidden = layer(x)
        if shift is not None:
            hidden = hidden + shift if scale is None else torch.addcmul(shift, hidden, scale)
        if skip:
            hidden = hidden + before
        before, x = x, activate(hidden)
    return x


def keep(mask: Sequence[bool], points: Tensor) -> Tensor:
    """The kept coordinates of points of shape `(*batch, D)`."""
    return torch.stack([x for x, kept in zip(points.unbind(-1), mask, strict=True) if kept], -1)


def move(
    mask: Sequence[bool], points: Tensor, shift: Tensor, log_scale: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Scale and shift the moved coordinates: `x * exp(log_scale) + shift` from data to noise.

    Args:
        mask: `D` booleans, True where a coordinate is kept.
        points: shape `(*batch, D)`.
        shift: shape `(*batch, moved)`.
        log_scale: likewise.
        inverse: from data to noise, or back.

    Returns:
        Points, and the log-determinant, of shape `(*batch,)`.
    """
    coordinates = points.unbind(-1)
    moved = torch.stack([x for x, kept in zip(coordinates, mask, strict=True) if not kept], -1)
    if inverse:
        moved = torch.addcmul(shift, moved, torch.exp(log_scale))
    else:
        moved, log_scale = (moved - shift) * torch.exp(-log_scale), -log_scale
    moving = iter(moved.unbind(-1))
    points = torch.stack([x if kept else next(moving) for x, kept in zip(coordinates, mask, strict=True)], -1)
    return points, log_scale.sum(-1)


def evaluate(
    program: Program, points: Tensor, weights: Tensor, offsets: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Carry points through all couplings; arguments and results as of `pyro_pcflow.kernels.operator.couplings`."""
    steps = list(zip(program.couplings, program.split(weights, offsets.unsqueeze(-2)), strict=True))
    log_det = points.new_zeros(points.shape[:-1])
    for coupling, parameters in reversed(steps) if inverse else steps:
        points, change = _step(coupling, parameters, points, inverse)
        log_det = log_det + change
    return points, log_det


def _step(coupling: Coupling, parameters: Sequence[Parameters], points: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    kept = keep(coupling.mask, points)
    parts = zip(coupling.networks, parameters, strict=True)
    outputs = torch.cat([_outputs(network, own, kept) for network, own in parts], -1)
    if not coupling.affine:
        return move(coupling.mask, points, outputs, torch.zeros_like(outputs), inverse)
    shift, log_scale = outputs.chunk(2, -1)
    return move(coupling.mask, points, shift, soft_bound(log_scale, coupling.max_log_scale), inverse)


def _outputs(network: Network, own: Parameters, kept: Tensor) -> Tensor:
    layers = [partial(F.linear, weight=matrix) for matrix in own.matrices]
    modulations = list(zip(own.scales, own.offsets, strict=True))
    features = fourier_features(kept, network.num_frequencies)
    hidden = through(layers[:-1], features, modulations[:-1], network.skips, network.activation)
    return layers[-1](hidden) + own.offsets[-1]

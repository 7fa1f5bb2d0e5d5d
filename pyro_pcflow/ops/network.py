"""What networks are made of: activations, Fourier features, modulated hidden layers, and their precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "LEAKY_SLOPE", "Modulation", "autocast", "fourier_features", "modulated_mlp"]

LEAKY_SLOPE = 0.1  # of a leaky ReLU below zero
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=LEAKY_SLOPE),
}

Modulation = tuple[Tensor | None, Tensor | None]  # a scale and a shift


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


def modulated_mlp(
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


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """A context in which matrix products are rounded to `dtype`, or in which nothing changes for None.

    Networks of this library evaluate their hidden layers in it, never their last layer: the outputs, and the
    log-determinant that they add up to, keep the precision of the parameters.

    Args:
        dtype: `torch.bfloat16`, or None.
        device: where the products are taken.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

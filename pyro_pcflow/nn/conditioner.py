"""Networks that read the kept coordinates of a point, and a context, and say how to move the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "CONDITIONINGS", "Conditioner", "fourier_features"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}
CONDITIONINGS = ("film", "bias", "concat_squash")


def fourier_features(x: Tensor, num_frequencies: int) -> Tensor:
    """Append sines and cosines of octave frequencies, which let a narrow network draw sharp detail.

    Source: Mildenhall et al., NeRF: Representing Scenes as Neural Radiance Fields, ECCV 2020, section 5.1.

    Args:
        x: shape `(*batch, K)`.
        num_frequencies: the frequencies are `1, 2, ..., 2 ** (num_frequencies - 1)` radians per unit.

    Returns:
        Shape `(*batch, K * (1 + 2 * num_frequencies))`.

    Examples:
        >>> fourier_features(torch.zeros(5, 2), num_frequencies=3).shape
        torch.Size([5, 14])
    """
    if num_frequencies == 0:
        return x
    angles = torch.cat([x * 2.0**octave for octave in range(num_frequencies)], -1)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


class Conditioner(nn.Module):
    """A fully connected network from kept coordinates, and a context, to several outputs per moved coordinate.

    A context acts on every hidden layer through a vector that is computed once per cloud and broadcast over
    its points. With `h` a hidden layer before its activation and `c` the context:

    | `conditioning` | what becomes of `h` | source |
    | --- | --- | --- |
    | `"film"` | `h * (1 + U c + u) + (V c + v)` | Perez et al., FiLM, AAAI 2018 |
    | `"bias"` | `h + V c + v` | a context concatenated to every point |
    | `"concat_squash"` | `h * sigmoid(U c + u) + V c` | Grathwohl et al., FFJORD, ICLR 2019 |

    The last layer starts at zero, so that a new coupling is the identity.

    Args:
        input_dim: number `K` of kept coordinates.
        output_dims: sizes of the outputs.
        hidden_dims: widths of the hidden layers, at least one.
        context_dim: size `C` of the context, 0 for none.
        conditioning: one of the names above.
        activation: `"relu"`, `"silu"`, `"tanh"` or `"gelu"`.
        num_frequencies: Fourier features of the kept coordinates, see `fourier_features`.

    Raises:
        ValueError: if a size is not positive or a name is not known.

    Examples:
        >>> net = Conditioner(2, [1, 1], hidden_dims=[16, 16], context_dim=8)
        >>> kept, context = torch.randn(4, 100, 2), torch.randn(4, 1, 8)
        >>> shift, log_scale = net(kept, context)
        >>> shift.shape
        torch.Size([4, 100, 1])
    """

    def __init__(
        self,
        input_dim: int,
        output_dims: Sequence[int],
        hidden_dims: Sequence[int],
        *,
        context_dim: int = 0,
        conditioning: str = "bias",
        activation: str = "relu",
        num_frequencies: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(input_dim, output_dims, hidden_dims, context_dim, num_frequencies)
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}, got {conditioning!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.input_dim = input_dim
        self.output_dims = list(output_dims)
        self.hidden_dims = list(hidden_dims)
        self.context_dim = context_dim
        self.conditioning = conditioning
        self.activation = activation
        self.num_frequencies = num_frequencies

        widths = [input_dim * (1 + 2 * num_frequencies), *hidden_dims]
        # A context that shifts a hidden layer brings its own bias.
        own_bias = context_dim == 0 or conditioning == "concat_squash"
        self.hidden = nn.ModuleList(nn.Linear(before, after, bias=own_bias) for before, after in pairwise(widths))
        self.output = nn.Linear(widths[-1], sum(output_dims))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if context_dim > 0:
            self.shift = nn.Linear(context_dim, sum(hidden_dims), bias=not own_bias)
            if conditioning != "bias":
                self.scale = nn.Linear(context_dim, sum(hidden_dims))
            if conditioning == "film":
                nn.init.uniform_(self.scale.weight, -0.1 / math.sqrt(context_dim), 0.1 / math.sqrt(context_dim))
                nn.init.zeros_(self.scale.bias)

    def forward(self, kept: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Evaluate the network.

        Args:
            kept: kept coordinates, shape `(*batch, K)`.
            context: shape `(*context_batch, C)`, broadcast against `batch`; None if `C` is 0.

        Returns:
            One tensor of shape `(*batch, size)` for every output size.
        """
        hidden = fourier_features(kept, self.num_frequencies)
        modulations = self._modulations(context)
        activation = ACTIVATIONS[self.activation]
        for layer, (scale, shift) in zip(self.hidden, modulations, strict=True):
            hidden = layer(hidden)
            if shift is not None:
                hidden = hidden + shift if scale is None else torch.addcmul(shift, hidden, scale)
            hidden = activation(hidden)
        return self.output(hidden).split(self.output_dims, -1)

    def _modulations(self, context: Tensor | None) -> list[tuple[Tensor | None, Tensor | None]]:
        """The context's scale and shift of each hidden layer, once per cloud."""
        if self.context_dim == 0:
            return [(None, None)] * len(self.hidden_dims)
        shifts = self.shift(context).split(self.hidden_dims, -1)
        if self.conditioning == "bias":
            return [(None, shift) for shift in shifts]
        scale = self.scale(context)
        scale = 1 + scale if self.conditioning == "film" else scale.sigmoid()
        return list(zip(scale.split(self.hidden_dims, -1), shifts, strict=True))

    def extra_repr(self) -> str:
        parts = [f"{self.input_dim} -> {' -> '.join(map(str, self.hidden_dims))} -> {sum(self.output_dims)}"]
        parts.append(self.activation)
        if self.num_frequencies:
            parts.append(f"{self.num_frequencies} frequencies")
        if self.context_dim:
            parts.append(f"{self.conditioning} of {self.context_dim}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def _check_sizes(
    input_dim: int,
    output_dims: Sequence[int],
    hidden_dims: Sequence[int],
    context_dim: int,
    num_frequencies: int,
) -> None:
    if input_dim < 1 or not output_dims or min(output_dims) < 1:
        raise ValueError(
            f"a conditioner needs at least one input and one output, got {input_dim} inputs and outputs "
            f"of sizes {list(output_dims)}"
        )
    if not hidden_dims or min(hidden_dims) < 1:
        raise ValueError(f"hidden_dims must be one or more positive widths, got {list(hidden_dims)}")
    if context_dim < 0 or num_frequencies < 0:
        raise ValueError(
            f"context_dim and num_frequencies must not be negative, got {context_dim} and {num_frequencies}"
        )

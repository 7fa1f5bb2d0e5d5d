"""Networks that read the kept coordinates of a point, and a context, and say how to move the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.network import ACTIVATIONS, Modulation, autocast, fourier_features, modulated_mlp
from pyro_pcflow.ops.options import option_names

__all__ = ["CONDITIONINGS", "Conditioner", "SeparateConditioners"]

CONDITIONINGS = ("film", "bias", "concat_squash")


class Conditioner(nn.Module):
    """A fully connected network from kept coordinates, and a context, to several outputs per moved coordinate.

    A context acts on every hidden layer, or on those that are named, through a vector that is computed once per cloud
    and broadcast over its points. With `h` a hidden layer before its activation and `c` the context:

    | `conditioning` | what becomes of `h` | source |
    | --- | --- | --- |
    | `"film"` | `h * (1 + U c + u) + (V c + v)` | Perez et al., FiLM, AAAI 2018 |
    | `"bias"` | `h + V c + v` | a context concatenated to every point |
    | `"concat_squash"` | `h * sigmoid(U c + u) + V c` | Grathwohl et al., FFJORD, ICLR 2019 |

    Each of the maps `U c + u` and `V c + v` may have hidden layers of its own, the same for all that it modulates.

    The last layer starts at zero, so that a new coupling is the identity.

    Args:
        input_dim: number `K` of kept coordinates.
        output_dims: sizes of the outputs.
        hidden_dims: widths of the hidden layers, at least one.
        context_dim: size `C` of the context, 0 for none.
        conditioning: one of the names above.
        context_dims: widths of the hidden layers between the context and what modulates, none for a linear map.
        context_layers: the hidden layers that the context acts on, counted from 0; all by default.
        residual: add to a hidden layer, before its activation, the value of two layers before, wherever a pair of
            layers is as wide as the one before them, there and in the maps of the context (He et al., Deep residual
            learning for image recognition, CVPR 2016).
        activation: `"relu"`, `"silu"`, `"tanh"`, `"gelu"` or `"leaky_relu"`, of slope 0.1.
        num_frequencies: Fourier features of the kept coordinates, see `fourier_features`.

    Raises:
        ValueError: if a size is not positive, a name is not known or a layer does not exist.

    Examples:
        >>> net = Conditioner(2, [1, 1], hidden_dims=[16, 16], context_dim=8)
        >>> kept, context = torch.randn(4, 100, 2), torch.randn(4, 1, 8)
        >>> shift, log_scale = net(kept, context)
        >>> shift.shape
        torch.Size([4, 100, 1])
    """

    hidden_dtype: torch.dtype | None = None  # see pyro_pcflow.ops.network.autocast

    def __init__(
        self,
        input_dim: int,
        output_dims: Sequence[int],
        hidden_dims: Sequence[int],
        *,
        context_dim: int = 0,
        conditioning: str = "bias",
        context_dims: Sequence[int] = (),
        context_layers: Sequence[int] | None = None,
        residual: bool = False,
        activation: str = "relu",
        num_frequencies: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(input_dim, output_dims, hidden_dims, context_dim, num_frequencies)
        layers = list(range(len(hidden_dims)))
        context_layers = layers if context_layers is None else sorted(context_layers)
        _check_context_options(context_dims, context_layers, layers)
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}, got {conditioning!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.input_dim = input_dim
        self.output_dims = list(output_dims)
        self.hidden_dims = list(hidden_dims)
        self.context_dim = context_dim
        self.conditioning = conditioning
        self.context_dims = list(context_dims)
        self.context_layers = context_layers
        self.residual = residual
        self.activation = activation
        self.num_frequencies = num_frequencies
        self.skips = _ends_of_pairs(hidden_dims, residual)

        widths = [input_dim * (1 + 2 * num_frequencies), *hidden_dims]
        # A context that shifts a hidden layer brings its own bias.
        shifted = set(context_layers) if context_dim > 0 and conditioning != "concat_squash" else set()
        self.hidden = nn.ModuleList(nn.Linear(*pair, bias=i not in shifted) for i, pair in enumerate(pairwise(widths)))
        self.output = nn.Linear(widths[-1], sum(output_dims))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if context_dim > 0:
            sizes = [context_dim, *context_dims, sum(self._modulated)]
            self.shift = _ContextNetwork(sizes, residual, activation, bias=conditioning != "concat_squash")
            if conditioning != "bias":
                self.scale = _ContextNetwork(sizes, residual, activation)
            if conditioning == "film":
                bound = 0.1 / math.sqrt(self.scale.in_features)
                nn.init.uniform_(self.scale.weight, -bound, bound)
                nn.init.zeros_(self.scale.bias)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {name: getattr(self, name) for name in option_names(Conditioner)}

    @property
    def _modulated(self) -> list[int]:
        """Widths of the hidden layers that the context acts on."""
        return [self.hidden_dims[layer] for layer in self.context_layers]

    def forward(self, kept: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Evaluate the network.

        Args:
            kept: kept coordinates, shape `(*batch, K)`.
            context: shape `(*context_batch, C)`, broadcast against `batch`; None if `C` is 0.

        Returns:
            One tensor of shape `(*batch, size)` for every output size.
        """
        hidden = fourier_features(kept, self.num_frequencies)
        with autocast(self.hidden_dtype, kept.device):
            hidden = modulated_mlp(self.hidden, hidden, self.modulations(context), self.skips, self.activation)
        output = self.output(hidden.to(kept.dtype))
        return (output,) if len(self.output_dims) == 1 else output.split(self.output_dims, -1)

    def modulations(self, context: Tensor | None) -> list[Modulation]:
        """The scale and the shift of each hidden layer, once per cloud.

        Args:
            context: shape `(*context_batch, C)`; None if `C` is 0.

        Returns:
            For each hidden layer two tensors `(*context_batch, width)`, or None where the context does not act.
        """
        modulations: list[Modulation] = [(None, None)] * len(self.hidden_dims)
        if self.context_dim == 0:
            return modulations
        scales: Iterable[Tensor | None] = [None] * len(self.context_layers)
        if self.conditioning != "bias":
            scale = self.scale(context)
            scale = 1 + scale if self.conditioning == "film" else scale.sigmoid()
            scales = scale.split(self._modulated, -1)
        shifts = self.shift(context).split(self._modulated, -1)
        for layer, scale, shift in zip(self.context_layers, scales, shifts, strict=True):
            modulations[layer] = (scale, shift)
        return modulations

    def extra_repr(self) -> str:
        parts = [f"{self.input_dim} -> {' -> '.join(map(str, self.hidden_dims))} -> {sum(self.output_dims)}"]
        parts.append(self.activation)
        if self.residual:
            parts.append("residual")
        if self.num_frequencies:
            parts.append(f"{self.num_frequencies} frequencies")
        if self.context_dim:
            parts.append(f"{self.conditioning} of {' -> '.join(map(str, [self.context_dim, *self.context_dims]))}")
            if len(self.context_layers) < len(self.hidden_dims):
                parts.append(f"at hidden layers {self.context_layers}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class SeparateConditioners(nn.Module):
    """Several conditioners as one, such as one for the shift and one for the log-scale, with nothing in common.

    Args:
        networks: modules called as a `Conditioner` is.

    Examples:
        >>> shift_net, scale_net = (Conditioner(2, [1], [16]) for _ in range(2))
        >>> shift, log_scale = SeparateConditioners([shift_net, scale_net])(torch.randn(100, 2))
        >>> log_scale.shape
        torch.Size([100, 1])
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"networks": list(self.networks)}

    def forward(self, kept: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """The outputs of every network in turn; arguments as for `Conditioner.forward`."""
        return tuple(output for network in self.networks for output in network(kept, context))


class _ContextNetwork(nn.Linear):
    """A linear map with hidden layers before it, or none."""

    def __init__(self, sizes: Sequence[int], residual: bool, activation: str, bias: bool = True) -> None:
        super().__init__(sizes[-2], sizes[-1], bias=bias)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes[:-1]))
        self.activation = activation
        self.skips = _ends_of_pairs(sizes[1:-1], residual)

    def forward(self, context: Tensor) -> Tensor:
        unmodulated: list[Modulation] = [(None, None)] * len(self.hidden)
        return super().forward(modulated_mlp(self.hidden, context, unmodulated, self.skips, self.activation))


def _ends_of_pairs(widths: Sequence[int], residual: bool) -> tuple[bool, ...]:
    """Whether a layer ends a pair that is as wide as the layer before the two; no layer is in two pairs."""
    ends = [False] * len(widths)
    for i in range(2, len(widths)):
        ends[i] = residual and widths[i - 2] == widths[i - 1] == widths[i] and not ends[i - 1]
    return tuple(ends)


def _check_context_options(context_dims: Sequence[int], context_layers: Sequence[int], layers: Sequence[int]) -> None:
    if any(width < 1 for width in context_dims):
        raise ValueError(f"context_dims must be positive widths, or none, got {list(context_dims)}")
    if not context_layers or len(set(context_layers)) < len(context_layers) or not set(context_layers) <= set(layers):
        raise ValueError(
            f"context_layers must name different hidden layers from 0 to {layers[-1]}, at least one, got "
            f"{list(context_layers)}"
        )


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

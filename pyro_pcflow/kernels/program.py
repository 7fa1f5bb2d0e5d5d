"""A run of couplings as data: what every backend takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["MAX_COORDINATES", "Activation", "Coupling", "Network", "Parameters", "Program", "decode"]

MAX_COORDINATES = 8  # of a point: a kernel reads a mask as one number


class Activation(IntEnum):
    """Activations by number; the C++ compiler and Triton are given the same numbers."""

    RELU = 0
    SILU = 1
    TANH = 2
    GELU = 3
    LEAKY_RELU = 4

    @classmethod
    def of(cls, name: str) -> Activation:
        """The one that `pyro_pcflow.ops.network.ACTIVATIONS` has under a name."""
        return cls[name.upper()]

    @property
    def option(self) -> str:
        """Its name in `pyro_pcflow.ops.network.ACTIVATIONS`."""
        return self.name.lower()


@dataclass(frozen=True)
class Network:
    """A fully connected network from the kept coordinates to outputs.

    With `W` a matrix of its own, and `s` and `o` a scale and an offset that a whole group of points shares, a hidden
    layer is `activation(s * (W h) + o)`, plus, before the activation, the value of two layers before if it ends a skip
    connection; the last layer is `W h + o`.

    Attributes:
        hidden_dims: widths of the hidden layers.
        outputs: number of outputs.
        activation: of every hidden layer.
        num_frequencies: Fourier features of the kept coordinates, as of `pyro_pcflow.nn.fourier_features`.
        scaled: for each hidden layer, whether there is a scale.
        skips: for each hidden layer, whether a skip connection ends there.
    """

    hidden_dims: tuple[int, ...]
    outputs: int
    activation: Activation
    num_frequencies: int
    scaled: tuple[bool, ...]
    skips: tuple[bool, ...]

    def code(self) -> list[int]:
        """The network as numbers."""
        code = [self.num_frequencies, int(self.activation), self.outputs, len(self.hidden_dims)]
        for width, scaled, skip in zip(self.hidden_dims, self.scaled, self.skips, strict=True):
            code += [width, int(scaled), int(skip)]
        return code

    def widths(self, kept: int) -> list[int]:
        """Sizes of the features, of every hidden layer and of the output."""
        return [kept * (1 + 2 * self.num_frequencies), *self.hidden_dims, self.outputs]

    def offset_sizes(self) -> list[int]:
        """Sizes of what a group of points has of its own: of each layer the scale, if it has one, and the offset."""
        sizes: list[int] = []
        for width, scaled in zip(self.hidden_dims, self.scaled, strict=True):
            sizes += [width, width] if scaled else [width]
        return [*sizes, self.outputs]


@dataclass(frozen=True)
class Coupling:
    """One coupling, see `pyro_pcflow.transforms.PointCoupling`.

    Attributes:
        mask: `D` booleans, True where a coordinate is kept.
        affine: whether there is a log-scale after each shift.
        max_log_scale: its smooth bound.
        networks: their outputs, joined, are the shifts of all moved coordinates and then the log-scales.
    """

    mask: tuple[bool, ...]
    affine: bool
    max_log_scale: float
    networks: tuple[Network, ...]

    @property
    def kept(self) -> list[int]:
        """The kept coordinates."""
        return [i for i, keep in enumerate(self.mask) if keep]

    @property
    def moved(self) -> list[int]:
        """The moved coordinates."""
        return [i for i, keep in enumerate(self.mask) if not keep]

    def mask_bits(self) -> int:
        """The mask as a number that has a bit for each kept coordinate."""
        return sum(1 << i for i in self.kept)

    def code(self) -> list[int]:
        """The coupling as numbers, but for the bound of its log-scale."""
        code = [self.mask_bits(), int(self.affine), len(self.networks)]
        for network in self.networks:
            code += network.code()
        return code

    def weight_shapes(self) -> list[tuple[int, int]]:
        """Shapes of all matrices, in their order among the weights."""
        kept = len(self.kept)
        return [(out, into) for network in self.networks for into, out in pairwise(network.widths(kept))]


@dataclass(frozen=True)
class Program:
    """Couplings of points in `D` dimensions, from the noise to the data.

    Attributes:
        point_dim: number of coordinates `D`.
        couplings: at least one.
    """

    point_dim: int
    couplings: tuple[Coupling, ...]

    def code(self) -> list[int]:
        """The program as numbers that an operator of torch and a compiled kernel can take; see `decode`."""
        code = [self.point_dim, len(self.couplings)]
        for coupling in self.couplings:
            code += coupling.code()
        return code

    def limits(self) -> list[float]:
        """The bounds of the log-scales."""
        return [coupling.max_log_scale for coupling in self.couplings]

    @property
    def num_moved(self) -> int:
        """How many coordinates the couplings overwrite in all."""
        return sum(len(coupling.moved) for coupling in self.couplings)

    def results(self, points: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Memory for what `pyro_pcflow.kernels.operator.couplings` returns for points of shape `(G, N, D)`."""
        return (
            torch.empty_like(points, memory_format=torch.contiguous_format),
            points.new_empty(points.shape[:-1]),
            points.new_empty(self.num_moved if save else 0, *points.shape[:-1]),
        )

    def multiply_adds(self) -> int:
        """Multiplications of weights that a point costs."""
        return sum(math.prod(shape) for coupling in self.couplings for shape in coupling.weight_shapes())

    def split(self, weights: Tensor, offsets: Tensor) -> list[list[Parameters]]:
        """The parameters of each network of each coupling, as views.

        Args:
            weights: all matrices, row by row, one after the other.
            offsets: shape `(G, M)`, all scales and offsets of each group of points.
        """
        shapes = [shape for coupling in self.couplings for shape in coupling.weight_shapes()]
        sizes = [size for coupling in self.couplings for net in coupling.networks for size in net.offset_sizes()]
        flat = weights.split([math.prod(shape) for shape in shapes])
        matrices = iter([part.view(shape) for part, shape in zip(flat, shapes, strict=True)])
        vectors = iter(offsets.split(sizes, -1))
        return [[_take(network, matrices, vectors) for network in coupling.networks] for coupling in self.couplings]


@dataclass(frozen=True)
class Parameters:
    """The matrices of one network, and what every group of points has of its own.

    Attributes:
        matrices: of the hidden layers and the output, each of shape `(out, in)`.
        scales: of every layer, shape `(G, out)` or None.
        offsets: of the hidden layers and the output, each of shape `(G, out)`.
    """

    matrices: list[Tensor]
    scales: list[Tensor | None]
    offsets: list[Tensor]


@lru_cache(maxsize=256)
def decode(code: tuple[int, ...], limits: tuple[float, ...]) -> Program:
    """The program whose numbers these are."""
    numbers, bounds = iter(code), iter(limits)
    point_dim, count = next(numbers), next(numbers)
    return Program(point_dim, tuple(_coupling(point_dim, numbers, next(bounds)) for _ in range(count)))


def _coupling(point_dim: int, numbers: Iterator[int], max_log_scale: float) -> Coupling:
    bits, affine, networks = next(numbers), bool(next(numbers)), next(numbers)
    mask = tuple(bool(bits >> i & 1) for i in range(point_dim))
    return Coupling(mask, affine, max_log_scale, tuple(_network(numbers) for _ in range(networks)))


def _network(numbers: Iterator[int]) -> Network:
    frequencies, activation, outputs, depth = (next(numbers) for _ in range(4))
    layers = [(next(numbers), bool(next(numbers)), bool(next(numbers))) for _ in range(depth)]
    widths, scaled, skips = zip(*layers, strict=True)
    return Network(widths, outputs, Activation(activation), frequencies, scaled, skips)


def _take(network: Network, matrices: Iterator[Tensor], vectors: Iterator[Tensor]) -> Parameters:
    scales: list[Tensor | None] = []
    offsets: list[Tensor] = []
    for scaled in (*network.scaled, False):
        scales.append(next(vectors) if scaled else None)
        offsets.append(next(vectors))
    return Parameters([next(matrices) for _ in offsets], scales, offsets)

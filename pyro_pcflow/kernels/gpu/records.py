"""A program as a table of numbers that a kernel on a GPU reads as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from pyro_pcflow.kernels.program import ACTIVATIONS, Coupling, Network, Program

__all__ = ["COORDINATES", "COUPLING", "LAYER", "NETWORK", "OUTPUTS", "Layout", "layout"]

# The most coordinates of a point, and the most outputs of a coupling: a shift and a log-scale for each.
COORDINATES, OUTPUTS = 8, 16
# Numbers in a record.
COUPLING, NETWORK, LAYER = 8 + COORDINATES, 8, 8


@dataclass(frozen=True)
class Layout:
    """A program as the kernels read it.

    The record of a coupling: its mask, the numbers of log-scales, of kept and of moved coordinates, which of the saved
    ones is its first, where its first network is and how many there are, nothing; for each coordinate, which of the
    kept or of the moved ones it is. Of a network: frequencies, activation, how many outputs the networks before it
    have, layers, where the first of these is. Of a layer: inputs; outputs; where its matrix starts among the weights,
    its scale, or -1, and its offset among the offsets; the rows of its inputs, of what a skip connection adds to it,
    or -1, and of the outputs of the layer after it if a skip connection ends there, or -1.

    Attributes:
        table: the records of all couplings, then those of all networks, then those of all layers.
        limits: the bounds of the log-scales.
        rows: how many rows the features and hidden layers of the widest coupling take.
        widest: the largest width of a hidden layer.
    """

    table: Tensor
    limits: Tensor
    rows: int
    widest: int


@lru_cache(maxsize=64)
def layout(program: Program, device: torch.device) -> Layout:
    """Write down a program for a device."""
    writer = _Writer(program)
    for coupling in program.couplings:
        writer.add(coupling)
    records = [*writer.couplings, *writer.networks, *writer.layers]
    table = torch.tensor([number for record in records for number in record], dtype=torch.int32, device=device)
    limits = torch.tensor(program.limits(), dtype=torch.float32, device=device)
    widest = max(max(network.hidden_dims) for coupling in program.couplings for network in coupling.networks)
    return Layout(table, limits, writer.rows, widest)


class _Writer:
    def __init__(self, program: Program) -> None:
        self.couplings: list[list[int]] = []
        self.networks: list[list[int]] = []
        self.layers: list[list[int]] = []
        self.rows = 0
        self._first_network = COUPLING * len(program.couplings)
        self._first_layer = self._first_network + NETWORK * sum(len(c.networks) for c in program.couplings)
        self._weight = self._offset = self._saved = 0

    def add(self, coupling: Coupling) -> None:
        bits, _, networks = coupling.code()[:3]
        kept, moved = coupling.kept, coupling.moved
        place = self._first_network + NETWORK * len(self.networks)
        log_scales = len(moved) if coupling.affine else 0
        record = [bits, log_scales, len(kept), len(moved), self._saved, place, networks, 0]
        of_coordinates = [kept.index(i) if keep else moved.index(i) for i, keep in enumerate(coupling.mask)]
        self.couplings.append(_padded(record + of_coordinates, COUPLING))
        self._saved += len(moved)
        row = outputs = 0
        for network in coupling.networks:
            place = self._first_layer + LAYER * len(self.layers)
            activation = ACTIVATIONS.index(network.activation)
            record = [network.num_frequencies, activation, outputs, len(network.hidden_dims) + 1, place]
            self.networks.append(_padded(record, NETWORK))
            row = self._add_layers(network, network.widths(len(kept)), row)
            outputs += network.outputs
        self.rows = max(self.rows, row)

    def _add_layers(self, network: Network, widths: list[int], row: int) -> int:
        """Add the layers of a network whose features are at a row, and return the first row that they do not take."""
        rows = list(accumulate(widths[:-1], initial=row))
        skips = (*network.skips, False, False)
        for i, scaled in enumerate((*network.scaled, False)):
            inputs, outputs = widths[i : i + 2]
            scale = self._offset if scaled else -1
            self._offset += outputs if scaled else 0
            skip, after = rows[i - 1] if skips[i] else -1, rows[i + 2] if skips[i + 1] else -1
            self.layers.append([inputs, outputs, self._weight, scale, self._offset, rows[i], skip, after])
            self._weight += inputs * outputs
            self._offset += outputs
        return rows[-1]


def _padded(record: list[int], size: int) -> list[int]:
    return record + [0] * (size - len(record))

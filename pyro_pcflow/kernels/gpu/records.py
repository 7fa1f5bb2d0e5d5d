"""A program as records of numbers, which a kernel on a GPU reads as it runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_pcflow.kernels.program import MAX_COORDINATES, Coupling, Network, Program

__all__ = ["MAX_OUTPUTS", "CouplingRecord", "LayerRecord", "NetworkRecord", "Records", "records_of"]

# The most outputs of a coupling: a shift and a log-scale for each coordinate.
MAX_OUTPUTS = 2 * MAX_COORDINATES


class CouplingRecord(NamedTuple):
    """A coupling; after it, for each of `MAX_COORDINATES`, which of the kept or of the moved ones it is."""

    mask: int  # a bit for each coordinate that is kept
    num_log_scales: int
    num_kept: int
    num_moved: int
    first_saved: int  # of its moved coordinates, among those of all couplings
    first_network: int  # where its record starts
    num_networks: int


class NetworkRecord(NamedTuple):
    """A network."""

    num_frequencies: int
    activation: int
    first_output: int  # among those of the coupling
    num_layers: int
    first_layer: int  # where its record starts


class LayerRecord(NamedTuple):
    """A layer; rows are those of the scratch matrix, and -1 says that there is none."""

    num_inputs: int
    num_outputs: int
    weight: int  # where its matrix starts among the weights
    scale: int  # where its scale starts among the offsets, or -1
    offset: int
    row: int  # of its inputs
    skip_row: int  # of what a skip connection adds to it, or -1
    next_skip_row: int  # of the outputs of the next layer, if a skip connection ends there, or -1


@dataclass(frozen=True)
class Records:
    """A program as the kernels read it.

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
def records_of(program: Program, device: torch.device) -> Records:
    """Write down a program for a device."""
    writer = _Writer(program)
    for coupling in program.couplings:
        writer.add(coupling)
    numbers = list(chain(*writer.couplings, *writer.networks, *writer.layers))
    table = torch.tensor(numbers, dtype=torch.int32, device=device)
    limits = torch.tensor(program.limits(), dtype=torch.float32, device=device)
    widest = max(max(network.hidden_dims) for coupling in program.couplings for network in coupling.networks)
    return Records(table, limits, writer.rows, widest)


class _Writer:
    def __init__(self, program: Program) -> None:
        self.couplings: list[tuple[int, ...]] = []
        self.networks: list[NetworkRecord] = []
        self.layers: list[LayerRecord] = []
        self.rows = 0
        self._networks = len(program.couplings) * (len(CouplingRecord._fields) + MAX_COORDINATES)
        num_networks = sum(len(coupling.networks) for coupling in program.couplings)
        self._layers = self._networks + num_networks * len(NetworkRecord._fields)
        self._weight = self._offset = self._saved = 0

    def add(self, coupling: Coupling) -> None:
        kept, moved = coupling.kept, coupling.moved
        record = CouplingRecord(
            mask=coupling.mask_bits(),
            num_log_scales=len(moved) if coupling.affine else 0,
            num_kept=len(kept),
            num_moved=len(moved),
            first_saved=self._saved,
            first_network=self._networks + len(NetworkRecord._fields) * len(self.networks),
            num_networks=len(coupling.networks),
        )
        places = [kept.index(i) if keep else moved.index(i) for i, keep in enumerate(coupling.mask)]
        self.couplings.append((*record, *places, *[0] * (MAX_COORDINATES - len(places))))
        self._saved += len(moved)
        row = outputs = 0
        for network in coupling.networks:
            self.networks.append(
                NetworkRecord(
                    num_frequencies=network.num_frequencies,
                    activation=network.activation,
                    first_output=outputs,
                    num_layers=len(network.hidden_dims) + 1,
                    first_layer=self._layers + len(LayerRecord._fields) * len(self.layers),
                )
            )
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
            self.layers.append(
                LayerRecord(
                    num_inputs=inputs,
                    num_outputs=outputs,
                    weight=self._weight,
                    scale=scale,
                    offset=self._offset,
                    row=rows[i],
                    skip_row=rows[i - 1] if skips[i] else -1,
                    next_skip_row=rows[i + 2] if skips[i + 1] else -1,
                )
            )
            self._weight += inputs * outputs
            self._offset += outputs
        return rows[-1]

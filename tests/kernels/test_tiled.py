"""Tile by tile in torch, against the reference in float64; `test_equality.py` has every other configuration."""

from __future__ import annotations

import pytest
import torch

from helpers.rounding import results
from pyro_pcflow.kernels import tiled
from pyro_pcflow.kernels.operator import run
from pyro_pcflow.kernels.program import Activation, Coupling, Network, Program
from pyro_pcflow.kernels.reference import evaluate

# All that a layer may have: a scale, a skip connection, two networks, additive couplings.
DEEP = Network((6, 5, 6), 1, Activation.GELU, 2, (True, False, True), (False, False, True))
WIDE = Network((9,), 4, Activation.LEAKY_RELU, 0, (False,), (False,))
FLAT = Network((4,), 1, Activation.SILU, 1, (False,), (False,))
PROGRAM = Program(
    3,
    (
        Coupling((True, True, False), True, 0.7, (DEEP, DEEP)),
        Coupling((True, False, False), True, 1.0, (WIDE,)),
        Coupling((False, True, True), False, 1.0, (FLAT,)),
    ),
)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("tile", [1, 7, 16, 50, 1000])
@pytest.mark.parametrize(("groups", "count"), [(1, 50), (4, 16), (9, 3)])
def test_however_points_are_cut_into_tiles(monkeypatch, inverse, tile, groups, count):
    monkeypatch.setattr(tiled, "TILE", tile)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    size = sum(rows * columns for coupling in PROGRAM.couplings for rows, columns in coupling.weight_shapes())
    own = sum(sum(network.offset_sizes()) for coupling in PROGRAM.couplings for network in coupling.networks)
    arguments = (PROGRAM, draw(groups, count, 3), 0.3 * draw(size), 0.3 * draw(groups, own), inverse)
    got = results(lambda *arguments: run(*arguments, "tiled"), *arguments)
    for ours, expected in zip(got, results(evaluate, *arguments), strict=True):
        torch.testing.assert_close(ours, expected)

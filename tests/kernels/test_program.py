from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from pyro_pcflow.kernels.program import Activation, Coupling, Network, Program, decode
from pyro_pcflow.ops.network import ACTIVATIONS


@st.composite
def networks(draw):
    depth = draw(st.integers(1, 4))
    per_layer = st.lists(st.booleans(), min_size=depth, max_size=depth).map(tuple)
    widths = tuple(draw(st.lists(st.integers(1, 9), min_size=depth, max_size=depth)))
    activation = draw(st.sampled_from(Activation))
    return Network(
        widths, draw(st.integers(1, 6)), activation, draw(st.integers(0, 3)), draw(per_layer), draw(per_layer)
    )


@st.composite
def programs(draw):
    point_dim = draw(st.integers(2, 8))
    masks = st.lists(st.booleans(), min_size=point_dim, max_size=point_dim).map(tuple)
    couplings = st.builds(
        Coupling, masks, st.booleans(), st.floats(0.1, 2.0), st.lists(networks(), min_size=1, max_size=2).map(tuple)
    )
    return Program(point_dim, tuple(draw(st.lists(couplings, min_size=1, max_size=3))))


@given(programs())
def test_numbers_say_all_of_a_program(program):
    assert decode(tuple(program.code()), tuple(program.limits())) == program


@given(programs(), st.integers(1, 3))
def test_parameters_are_views_that_share_nothing_and_leave_nothing(program, groups):
    shapes = [shape for coupling in program.couplings for shape in coupling.weight_shapes()]
    weights = torch.zeros(sum(rows * columns for rows, columns in shapes))
    sizes = [size for coupling in program.couplings for network in coupling.networks for size in network.offset_sizes()]
    offsets = torch.zeros(groups, sum(sizes))
    for coupling, parameters in zip(program.couplings, program.split(weights, offsets), strict=True):
        for network, own in zip(coupling.networks, parameters, strict=True):
            widths = network.widths(sum(coupling.mask))
            assert [matrix.shape for matrix in own.matrices] == list(zip(widths[1:], widths[:-1], strict=True))
            assert [scale is not None for scale in own.scales] == [*network.scaled, False]
            for part in (*own.matrices, *own.offsets, *(scale for scale in own.scales if scale is not None)):
                part += 1
    assert (weights == 1).all()
    assert (offsets == 1).all()
    assert program.multiply_adds() == len(weights)


def test_activations_are_those_of_networks():
    assert {activation.option for activation in Activation} == set(ACTIVATIONS)
    for name in ACTIVATIONS:
        assert Activation.of(name).option == name
    with pytest.raises(KeyError):
        Activation.of("step")

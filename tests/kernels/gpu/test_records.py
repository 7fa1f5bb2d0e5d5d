from __future__ import annotations

import torch

from pyro_pcflow.kernels.gpu.records import CouplingRecord, LayerRecord, NetworkRecord, records_of
from pyro_pcflow.kernels.program import MAX_COORDINATES, Activation, Coupling, Network, Program


def test_records_of_a_program_by_hand():
    deep = Network((4, 5, 4), 2, Activation.TANH, 1, (True, False, False), (False, False, True))
    flat = Network((7,), 1, Activation.RELU, 0, (False,), (False,))
    mask = (True, False, False)
    program = Program(
        3, (Coupling(mask, True, 0.5, (deep, deep)), Coupling(tuple(not m for m in mask), False, 1.0, (flat,)))
    )
    records = records_of(program, torch.device("cpu"))
    numbers = iter(records.table.tolist())

    def read(record):
        return record(*(next(numbers) for _ in record._fields))

    couplings = []
    for _ in range(2):
        couplings.append((read(CouplingRecord), [next(numbers) for _ in range(MAX_COORDINATES)]))
    networks = [read(NetworkRecord) for _ in range(3)]
    layers = [read(LayerRecord) for _ in range(4 + 4 + 2)]
    assert next(numbers, None) is None

    first_network = 2 * (len(CouplingRecord._fields) + MAX_COORDINATES)
    first_layer = first_network + 3 * len(NetworkRecord._fields)
    size, layer_size = len(NetworkRecord._fields), len(LayerRecord._fields)
    assert couplings == [
        (CouplingRecord(0b001, 2, 1, 2, 0, first_network, 2), [0, 0, 1, 0, 0, 0, 0, 0]),
        (CouplingRecord(0b110, 0, 2, 1, 2, first_network + 2 * size, 1), [0, 0, 1, 0, 0, 0, 0, 0]),
    ]
    assert networks == [
        NetworkRecord(1, Activation.TANH, 0, 4, first_layer),
        NetworkRecord(1, Activation.TANH, 2, 4, first_layer + 4 * layer_size),
        NetworkRecord(0, Activation.RELU, 0, 2, first_layer + 8 * layer_size),
    ]
    # Rows: 3 features, then hidden layers of 4, 5 and 4; the second network of the coupling lies behind the first.
    assert layers[:4] == [
        LayerRecord(3, 4, 0, 0, 4, 0, -1, -1),
        LayerRecord(4, 5, 12, -1, 8, 3, -1, 12),
        LayerRecord(5, 4, 32, -1, 13, 7, 3, -1),
        LayerRecord(4, 2, 52, -1, 17, 12, -1, -1),
    ]
    assert layers[4]._replace(weight=0, scale=0, offset=0) == LayerRecord(3, 4, 0, 0, 0, 16, -1, -1)
    assert [layer.row for layer in layers[8:]] == [0, 2]
    assert records.limits.tolist() == [0.5, 1.0]
    assert (records.rows, records.widest) == (32, 7)

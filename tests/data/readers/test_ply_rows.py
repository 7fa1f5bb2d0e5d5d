"""Rows of PLY elements: rows of one length at once, and others one after the other, are the same."""

from __future__ import annotations

import time

import numpy as np
import pytest

from helpers.mesh_files import KINDS, ply, ply_head
from pyro_pcflow.data.readers.ply_header import read_header
from pyro_pcflow.data.readers.ply_rows import Lists, read_rows

PROPERTIES = ["short a", "list uchar int b", "double c", "list ushort float d", "uint64 e"]


def rows_of(lengths):
    return [
        [number - 3, [number + i for i in range(one)], number / 4, [i / 2 for i in range(two)], 2**60 + number]
        for number, (one, two) in enumerate(lengths)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "lengths",
    [
        [(3, 2)] * 5,
        [(0, 0)] * 4,
        [(3, 2), (2, 3), (0, 1)],
        [(3, 2), (3, 1), (3, 2)],
        [(2, 2), (3, 2), (1, 2)],
        [(0, 0), (200, 300), (1, 1)],
        [(7, 1)],
        [],
    ],
)
def test_rows(kind, lengths):
    rows = rows_of(lengths)
    data = ply(kind, [("a", PROPERTIES, rows), ("b", ["uchar last"], [[9], [8]])])
    found = read_rows(data, read_header(data))
    assert found["b"]["last"].tolist() == [9, 8]
    for number, column in enumerate(found["a"].values()):
        expected = [row[number] for row in rows]
        if isinstance(column, Lists):
            assert column.counts.tolist() == [len(value) for value in expected]
            assert column.values.tolist() == [item for value in expected for item in value]
            assert column.values.dtype.isnative
        else:
            assert column.tolist() == expected
            assert column.dtype.isnative


def test_long_rows_of_mixed_polygons_take_time_in_proportion():
    count = 100_000
    rows = b"".join(bytes([3 + number % 2]) + bytes(4 * (3 + number % 2)) for number in range(count))
    data = ply_head("binary_little_endian", [("face", count, ["list uchar int v"])]) + rows
    start = time.process_time()
    lists = read_rows(data, read_header(data))["face"]["v"]
    assert time.process_time() - start < 3
    assert lists.counts.tolist() == [3, 4] * (count // 2)
    assert len(lists.values) == 7 * count // 2


def test_rows_are_blocks_of_any_size(monkeypatch):
    from pyro_pcflow.data.readers import ply_rows

    data = ply("binary_big_endian", [("a", ["list uchar int v"], [[list(range(n))] for n in range(30)])])
    whole = read_rows(data, read_header(data))["a"]["v"]
    monkeypatch.setattr(ply_rows, "_BLOCK", 7)
    assert read_rows(data, read_header(data))["a"]["v"].values.tolist() == whole.values.tolist()
    assert whole.values.tolist() == [*np.concatenate([np.arange(n) for n in range(30)]).tolist()]

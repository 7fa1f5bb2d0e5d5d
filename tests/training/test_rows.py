"""Rows that are held out, and the order of the others."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.training.rows import Epochs, first_equal, set_apart


def test_equal_means_equal_in_every_coordinate():
    points = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 2.0], [1.0, -0.0], [1.0, 2.0], [1.0, 0.0]])
    assert first_equal(points).tolist() == [0, 1, 2, 0, 1, 0]
    assert first_equal(points[:0]).tolist() == []
    many = torch.randint(3, (500, 4)).float()
    expected = [next(j for j in range(500) if torch.equal(many[i], many[j])) for i in range(0, 500, 50)]
    assert first_equal(many)[::50].tolist() == expected


def test_what_equals_a_row_that_is_drawn_is_drawn():
    first = torch.tensor([0, 1, 0, 3, 1, 5, 0])
    stay, drawn = set_apart(first, 0.25, 100, seed=0, kind="rows")
    assert sorted([*stay.tolist(), *drawn.tolist()]) == list(range(7))
    assert len(first[drawn].unique()) == 1
    assert not torch.isin(first[drawn], first[stay]).any()


def test_an_epoch_drops_rows_that_fill_no_batch():
    epochs = Epochs(11, 4, seed=0)
    visited = [torch.cat([epochs.rows(2 * epoch + i) for i in range(2)]).tolist() for epoch in range(3)]
    assert [len({*rows}) for rows in visited] == [8, 8, 8]
    assert len({frozenset(rows) for rows in visited}) > 1


@pytest.mark.parametrize("step", [0, 7, 30])
def test_an_order_needs_no_memory_of_earlier_steps(step):
    walked = Epochs(10, 3, seed=2)
    for earlier in range(step):
        walked.rows(earlier)
    assert torch.equal(walked.rows(step), Epochs(10, 3, seed=2).rows(step))

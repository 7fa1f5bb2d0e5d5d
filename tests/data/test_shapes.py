"""What readers return."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pyro_pcflow.data.shapes import CloudArray, PointTable, Surface


def test_the_length_of_a_table_is_its_number_of_points():
    table = PointTable({"x": np.zeros(4), "y": np.ones(4), "name": np.full(4, "a")})
    assert len(table) == 4
    assert (table.named, table.name) == (True, None)


def test_arrays_say_no_splits_and_labels_unless_told():
    clouds = CloudArray(np.zeros((2, 5, 3)))
    assert clouds.splits is None
    assert clouds.labels is None


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (Surface(np.eye(3), np.array([[0, 1, 2]])), "vertices"),
        (PointTable({"x": np.zeros(4)}), "columns"),
        (CloudArray(np.zeros((2, 5, 3))), "points"),
    ],
)
def test_what_was_read_is_not_exchanged(shape, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(shape, field, None)

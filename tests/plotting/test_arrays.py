"""Arrays from whatever holds points, and values that are arranged like the clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_pcflow.plotting.arrays import as_array, as_rows, check_finite, check_mask, check_points, mirror


@pytest.mark.parametrize(
    "value", [[[1, 2]], np.array([[1, 2]], dtype=np.int8), torch.tensor([[1.0, 2.0]], requires_grad=True)]
)
def test_numbers_become_float64(value):
    array = as_array(value, "x")
    assert array.dtype == np.float64
    assert array.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("value", ["a", object(), np.zeros(2, dtype=complex), torch.zeros(2, dtype=torch.complex64)])
def test_other_things_are_refused_by_name(value):
    with pytest.raises(TypeError, match="x: expected "):
        as_array(value, "x")


def test_points_are_finite_and_keep_three_coordinates():
    assert check_points(np.zeros((4, 6)), "x").shape == (4, 3)
    with pytest.raises(ValueError, match="x: 2 of 3 points are not finite, the first at index 1"):
        check_points(np.array([[0.0, 0.0], [np.nan, 0.0], [0.0, np.inf]]), "x")
    with pytest.raises(ValueError, match="x: 1 of 2 values are not finite, the first at index 0"):
        check_finite(np.array([False, True]), "x", "values")


def test_rows_are_the_callers_where_a_list_holds_several():
    cloud, two = np.zeros((5, 3)), np.zeros((2, 5, 3))
    lengths = [
        (cloud, [1], None, False),
        (two, [2], None, False),
        ([cloud, cloud, cloud], [3], None, False),
        ([two, cloud], [2, 1], None, True),
        ({1: two, "b": [cloud]}, [2, 1], ["1", "b"], True),
    ]
    for clouds, expected, names, own in lengths:
        rows, found, are_own = as_rows(clouds)
        assert ([len(row) for row in rows], found, are_own) == (expected, names, own)


def test_values_follow_the_arrangement():
    cloud = np.zeros((5, 3))
    rows = [[cloud, cloud], [cloud]]
    assert mirror("red", rows, True, "colors") == [["red", "red"], ["red"]]
    assert mirror({"a": "red", "b": None}, rows, True, "colors") == [["red", "red"], [None]]
    assert mirror([["red", "blue"], "black"], rows, True, "colors") == [["red", "blue"], ["black"]]
    # Of one row, an array of the length of a cloud is for each of them.
    values = np.arange(5.0)
    assert all(part is values for part in mirror(values, [[cloud] * 3], False, "colors")[0])
    both = mirror(np.arange(10.0).reshape(2, 5), [[cloud] * 2], False, "colors")[0]
    assert [part.tolist() for part in both] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(ValueError, match="colors: expected one entry for each of 2 rows, got 3"):
        mirror(["red"] * 3, rows, True, "colors")


def test_masks_say_which_points_are_there():
    points = np.zeros((3, 2))
    assert check_mask(None, points, "mask").tolist() == [True] * 3
    assert check_mask([0, 2, 0], points, "mask").tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"mask: expected shape \(3,\), one entry per point, got \(2,\)"):
        check_mask([1, 1], points, "mask")
    with pytest.raises(ValueError, match="mask: it leaves no point to show"):
        check_mask([0, 0, 0], points, "mask")

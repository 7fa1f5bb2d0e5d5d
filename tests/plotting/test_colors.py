"""Colours of points: scales, inks, parts and places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_pcflow.plotting.colors import (
    INKS,
    Scale,
    are_parts,
    check_colors,
    ink,
    make_scale,
    paint,
    part_colors,
    position_colors,
)


def test_scales_and_inks():
    scale = make_scale([np.arange(101.0)], "viridis", None)
    assert (scale.low, scale.high, scale.under, scale.over) == (1.0, 99.0, True, True)
    np.testing.assert_array_equal(scale(np.array([-5.0])), scale(np.array([1.0])))
    with pytest.raises(ValueError, match="low < high"):
        make_scale([np.arange(3.0)], "viridis", (1.0, 1.0))
    with pytest.raises(ValueError, match="no colormap"):
        make_scale([np.arange(3.0)], "no-such-map", None)
    with pytest.raises(ValueError, match="no-such-ink"):
        ink("no-such-ink")
    assert paint(np.array([0.0, 1.0]), np.zeros((2, 3)), Scale(0.0, 1.0, "gray"), "red").tolist() == [[0] * 3, [1] * 3]
    map_of_two_to_four = Scale(2.0, 4.0, "gray")
    assert map_of_two_to_four(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))[:, 0] == pytest.approx([0, 0, 0.5, 1, 1], abs=0.01)
    places = np.random.default_rng(5).normal(size=(500, 3))
    tints = position_colors(places)
    assert tints.min() >= 0
    assert tints.max() <= 1
    assert tints.std(0).min() > 0.05


@pytest.mark.parametrize("axes", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_hue_runs_along_the_longest_axis_and_lightness_along_the_second(axes):
    sides = np.array([4.0, 2.0, 1.0])
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    tints = dict(zip(map(tuple, corners), position_colors((corners * sides)[:, np.argsort(axes)]), strict=True))
    teal, orange, light, same = (tints[corner] for corner in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert teal[2] > teal[0] + 0.2
    assert orange[0] > orange[2] + 0.2
    assert (light > teal).all()
    assert (same == teal).all()


def test_parts_have_inks_that_come_back_in_other_shades():
    colors = part_colors(np.arange(18))
    assert len({tuple(color) for color in colors}) == 18
    np.testing.assert_array_equal(colors[:6], [ink(name) for name in INKS])
    np.testing.assert_array_equal(part_colors(np.array([18])), colors[:1])
    assert (colors[6:12] > colors[:6]).all()
    assert (colors[12:] < colors[:6]).all()
    with pytest.raises(ValueError, match="parts are whole numbers from 0, got -1"):
        part_colors(np.array([0, -1]))


@pytest.mark.parametrize(
    ("colors", "parts"),
    [
        (np.array([0, 1]), True),
        (torch.tensor([0, 1]), True),
        ([True, False], True),
        (np.array([0.0, 1.0]), False),
        (torch.zeros(2), False),
        (np.zeros((2, 3), dtype=int), False),
        ("red", False),
        (None, False),
    ],
)
def test_whole_numbers_are_parts(colors, parts):
    assert are_parts(colors) is parts
    if parts:
        np.testing.assert_array_equal(check_colors(colors, 2, "colors"), part_colors(np.asarray(colors).astype(int)))

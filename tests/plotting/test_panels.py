"""Panels: clouds with their colours and one scale, by the names under which something is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_pcflow.plotting.colors import INKS, ink
from pyro_pcflow.plotting.panels import check_titles, gather

CLOUD = np.random.default_rng(0).normal(size=(6, 3))


def test_each_row_has_an_ink():
    rows, names, own, scale = gather({"a": [CLOUD, CLOUD], "b": CLOUD}, None, None, "viridis", None)
    assert (names, own, scale) == (["a", "b"], True, None)
    for row, color in zip(rows, INKS, strict=False):
        for panel in row:
            assert not panel.scalar
            np.testing.assert_array_equal(panel.colors, [ink(color)] * 6)


def test_scalars_of_all_clouds_share_a_scale_and_masks_go_with_them():
    values = np.stack([np.arange(6.0), np.arange(6.0) + 10])
    mask = np.ones((2, 6))
    mask[0, 0] = 0
    rows, _, own, scale = gather(np.stack([CLOUD, CLOUD]), values, mask, "gray", (0.0, 15.0))
    assert not own
    assert (scale.low, scale.high) == (0.0, 15.0)
    first, second = rows[0]
    np.testing.assert_array_equal(first.points, CLOUD[1:])
    assert first.scalar
    assert second.scalar
    np.testing.assert_allclose(first.colors[:, 0], np.arange(1.0, 6.0) / 15, atol=0.005)
    np.testing.assert_allclose(second.colors[-1], 1.0)


@pytest.mark.parametrize(
    ("clouds", "colors", "message"),
    [
        ([CLOUD, CLOUD[:, :2]], None, "two coordinates"),
        ([CLOUD, np.zeros(3)], None, r"clouds\[1\]: expected shape"),
        ([[CLOUD], [CLOUD, CLOUD * np.nan]], None, r"clouds\[1\]\[1\]: 6 of 6 points are not finite"),
        ([CLOUD, CLOUD], [np.zeros(6), np.zeros(5)], r"colors\[1\]: expected shape"),
    ],
)
def test_what_is_wrong_has_a_name(clouds, colors, message):
    with pytest.raises(ValueError, match=message):
        gather(clouds, colors, None, "viridis", None)


def test_titles_are_as_many_as_what_they_name():
    assert check_titles(None, 3, "clouds") is None
    assert check_titles("spot", 1, "clouds") == ["spot"]
    assert check_titles([1, 2.5], 2, "rows") == ["1", "2.5"]
    with pytest.raises(ValueError, match="titles: expected 2, one for each of the rows, got 1"):
        check_titles("spot", 2, "rows")

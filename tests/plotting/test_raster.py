"""Ink is where points are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_pcflow.plotting.camera import Frame
from pyro_pcflow.plotting.raster import dot_radius, render

WHITE = np.ones(3)
FRAME = Frame(np.array([1.0, -2.0, 0.0]), np.array([2.0, 1.0, 1.0]))


def inked(image):
    return (image < 250).any(-1)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("radius", [0.01, 0.1])
def test_ink_is_where_a_point_is(flat, radius):
    place = np.array([[0.37, -1.61, 0.2]])
    image = render(place, np.zeros((1, 3)), FRAME, 200, radius=radius, background=WHITE, flat=flat)
    assert image.shape == (100, 200, 3)
    rows, columns = np.nonzero(inked(image))
    # 50 pixels a unit; the frame starts at x = -1 and at y = -1, downwards.
    x, y = (0.37 + 1) * 50, (-1 + 1.61) * 50
    assert len(rows) > 0
    far = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    assert far.max() <= max(radius * 50, 0.5) + 0.8
    assert np.mean(columns + 0.5) == pytest.approx(x, abs=0.51)
    assert np.mean(rows + 0.5) == pytest.approx(y, abs=0.51)
    if radius == 0.1:
        assert inked(image).sum() == pytest.approx(np.pi * 25, rel=0.3)


@pytest.mark.parametrize("flat", [False, True])
def test_points_outside_and_at_the_border(flat):
    corners = np.array([[-1.0, -1.0, 0], [3.0, -3.0, 0], [9.0, -2.0, 0], [1.0, 50.0, 0]])
    image = inked(render(corners, np.zeros((4, 3)), FRAME, 100, radius=0.1, background=WHITE, flat=flat))
    assert image[0, 0]
    assert image[-1, -1]
    assert not image[10:40, 10:90].any()
    assert not image[0, 10:].any()
    nothing = render(corners[2:], np.zeros((2, 3)), FRAME, 100, radius=0.1, background=WHITE, flat=flat)
    assert (nothing == 255).all()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearer_point_hides_the_other(order):
    points = np.array([[1.0, -2.0, -0.5], [1.0, -2.0, 0.5]])[order]
    colors = np.array([[1.0, 0, 0], [0, 0, 1.0]])[order]
    image = render(points, colors, FRAME, 100, radius=0.3, background=WHITE, relief=0.0)
    assert image[25, 50].tolist() == [0, 0, 255]


def test_many_chunks_draw_the_same_as_one(monkeypatch):
    rng = np.random.default_rng(0)
    points, colors = rng.normal(size=(300, 3)) + FRAME.center, rng.uniform(size=(300, 3))
    for flat in (False, True):
        images = []
        for chunk in (1 << 24, 1):
            monkeypatch.setattr("pyro_pcflow.plotting.raster._CHUNK", chunk)
            images.append(render(points, colors, FRAME, 120, radius=0.1, background=WHITE, flat=flat))
        np.testing.assert_array_equal(*images)


def test_far_points_fade_and_light_comes_from_the_upper_left():
    def look(z):
        place = np.array([[1.0, -2.0, z]])
        return render(place, np.full((1, 3), 0.3), FRAME, 100, radius=0.5, background=WHITE).astype(int)

    assert look(-1.0)[25, 50].sum() > look(1.0)[25, 50].sum()
    ball = look(0.0).sum(-1)
    assert ball[20, 50] > ball[30, 50]
    assert ball[25, 45] > ball[25, 55]


def test_dense_places_are_darker_when_flat():
    def look(count):
        place = np.tile([[1.0, -2.0, 0.0]], (count, 1))
        return int(render(place, np.zeros((count, 3)), FRAME, 50, radius=0.3, background=WHITE, flat=True)[12, 25, 0])

    assert look(1) > look(2) > look(5)


def test_radius():
    assert dot_radius(100, FRAME, 2.0) == pytest.approx(2 * dot_radius(100, FRAME))
    with pytest.raises(ValueError, match="point_size"):
        dot_radius(100, FRAME, 0.0)

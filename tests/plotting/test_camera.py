"""The projection, against rotations composed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pyro_pcflow.plotting import project
from pyro_pcflow.plotting.arrays import as_array
from pyro_pcflow.plotting.camera import Frame, frame_around, view_matrix


@pytest.mark.parametrize("azim", [-130.0, 0.0, 35.0, 215.0])
@pytest.mark.parametrize("elev", [-40.0, 0.0, 18.0, 90.0])
def test_y_up_is_a_turn_about_y_then_about_x(elev, azim):
    points = np.random.default_rng(0).normal(size=(50, 3))
    expected = Rotation.from_euler("y", -azim, degrees=True).apply(points)
    expected = Rotation.from_euler("x", elev, degrees=True).apply(expected)
    np.testing.assert_allclose(project(points, elev=elev, azim=azim), expected, atol=1e-12)


@pytest.mark.parametrize(("elev", "azim"), [(30.0, -60.0), (10.0, 100.0), (-20.0, 5.0)])
def test_z_up_agrees_with_matplotlib(elev, azim):
    from mpl_toolkits.mplot3d import Axes3D, proj3d

    from pyro_pcflow.plotting.figure import NotebookFigure

    axes = NotebookFigure().add_subplot(projection="3d", proj_type="ortho")
    assert isinstance(axes, Axes3D)
    axes.view_init(elev, azim)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axes.set_box_aspect((1, 1, 1))
    points = np.random.default_rng(1).uniform(-1, 1, size=(20, 3))
    x, y, _ = proj3d.proj_transform(*points.T, axes.get_proj())
    ours = project(points, elev=elev, azim=azim, up="z")[:, :2]
    theirs = np.stack([x, y], 1)
    theirs = theirs - theirs.mean(0)
    ours = ours - ours.mean(0)
    np.testing.assert_allclose(theirs * (ours.std() / theirs.std()), ours, atol=1e-9)


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
def test_views_are_rotations_with_the_upright_axis_up(up):
    matrix = view_matrix(25.0, 70.0, up)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    axis = np.eye(3)["xyz".index(up[-1])] * (-1 if up[0] == "-" else 1)
    across, above, _ = matrix @ axis
    assert across == pytest.approx(0.0, abs=1e-12)
    assert above == pytest.approx(np.cos(np.deg2rad(25.0)))


def test_a_sphere_is_a_circle():
    points = np.random.default_rng(2).normal(size=(20000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    view = project(points)
    angle = np.arctan2(view[:, 1], view[:, 0])
    far = np.linalg.norm(view[:, :2], axis=1)
    rim = [far[(angle >= low) & (angle < low + np.pi / 8)].max() for low in np.arange(-8, 8) * np.pi / 8]
    np.testing.assert_allclose(rim, 1.0, atol=5e-3)


def test_shapes_types_and_flat_points():
    points = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(project(points), project(points.detach().numpy()[..., :3]))
    flat = np.random.default_rng(3).normal(size=(5, 2))
    np.testing.assert_array_equal(project(flat), np.pad(flat, [(0, 0), (0, 1)]))
    assert project(torch.ones(3, 3, dtype=torch.bfloat16)).dtype == np.float64


def test_what_was_handed_over_stays_the_callers():
    for given in (np.ones((3, 3)), torch.ones(3, 3, dtype=torch.float64)):
        assert not np.shares_memory(as_array(given, "cloud"), np.asarray(given))


def test_errors():
    with pytest.raises(ValueError, match="up: expected"):
        project(np.zeros((2, 3)), up="w")
    with pytest.raises(ValueError, match="finite degrees"):
        project(np.zeros((2, 3)), elev=np.nan)
    with pytest.raises(ValueError, match="expected shape"):
        project(np.zeros(3))


def test_frames_leave_strays_out_but_no_tail():
    points = np.random.default_rng(4).uniform(-1, 1, size=(1000, 3))
    assert frame_around([points]).half == pytest.approx((points.max(0) - points.min(0)) / 2)
    points[0] = 100.0
    found = frame_around([points])
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    assert found.center + found.half == pytest.approx(high + 0.35 * (high - low))
    assert found.center - found.half == pytest.approx(points.min(0))
    point = frame_around([np.ones((1, 3))])
    assert (point.half > 0).all()
    assert point.center.tolist() == [1, 1, 1]


def test_frames_keep_what_they_hold_when_shaped():
    frame = Frame(np.zeros(3), np.array([2.0, 1.0, 1.0]))
    for aspect in (0.5, 1.0, 2.0, 3.0):
        shaped = frame.shaped(aspect)
        assert shaped.aspect == pytest.approx(aspect)
        assert (shaped.half >= frame.half).all()


def test_a_padded_frame_has_room_for_dots_and_a_margin_of_its_longer_side():
    frame = Frame(np.ones(3), np.array([2.0, 1.0, 1.0])).padded(0.5, 0.25)
    assert frame.half == pytest.approx([2.0 + 0.5 + 0.08, 1.0 + 0.25 + 0.08, 1.0])
    assert frame.center.tolist() == [1, 1, 1]

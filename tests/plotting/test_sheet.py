"""Contact sheets: arrangement, content, and what they refuse."""

from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pyro_pcflow.plotting import plot_clouds, project, save_figure
from pyro_pcflow.plotting.colors import INKS, ink, part_colors
from pyro_pcflow.plotting.panels import gather

RNG = np.random.default_rng(0)


def pictures(figure):
    return [axis.images[0] for axis in figure.axes if axis.images]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def small(*args, **kwargs):
    return plot_clouds(*args, size=0.5, **kwargs)


@pytest.mark.parametrize(
    ("clouds", "count"),
    [
        (RNG.normal(size=(20, 3)), 1),
        (torch.randn(4, 20, 3, dtype=torch.float64, requires_grad=True), 4),
        (torch.randn(2, 20, 6), 2),
        (RNG.integers(0, 9, size=(20, 2)), 1),
        ([RNG.normal(size=(20, 3)), torch.randn(5, 3)], 2),
        ([torch.randn(3, 20, 3), torch.randn(2, 9, 3)], 5),
        ([[torch.randn(3, 3)], [torch.randn(4, 3), torch.randn(5, 3)]], 3),
        ({"a": torch.randn(2, 20, 3), "b": torch.randn(7, 3)}, 3),
    ],
)
def test_every_arrangement(clouds, count):
    figure = small(clouds)
    assert isinstance(figure, Figure)
    assert len(pictures(figure)) == count
    for picture in pictures(figure):
        assert (picture.get_array() < 240).any()


def test_axes_are_equal_and_share_one_frame():
    figure = small([np.random.default_rng(1).normal(size=(50, 3)), np.random.default_rng(2).normal(size=(50, 3)) * 3])
    extents = {tuple(picture.get_extent()) for picture in pictures(figure)}
    assert len(extents) == 1
    left, right, bottom, top = extents.pop()
    height, width = pictures(figure)[0].get_array().shape[:2]
    assert width / height == pytest.approx((right - left) / (top - bottom), rel=0.02)
    box = figure.axes[0].get_position()
    inches = box.width * figure.get_figwidth() / (box.height * figure.get_figheight())
    assert inches == pytest.approx((right - left) / (top - bottom), rel=1e-6)
    own = small([np.eye(3), np.eye(3) * 3], share_frame=False)
    assert len({tuple(picture.get_extent()) for picture in pictures(own)}) == 2


def test_flat_points_lie_at_their_coordinates():
    points = np.array([[0.0, 0.0], [4.0, 1.0], [4.0, 0.0]])
    picture = pictures(small(points, colors="black"))[0]
    left, right, bottom, top = picture.get_extent()
    image = np.asarray(picture.get_array())
    for x, y in points:
        row = int((top - y) / (top - bottom) * image.shape[0])
        column = int((x - left) / (right - left) * image.shape[1])
        assert image[row, column].max() < 200
    row = int((top - 1) / (top - bottom) * image.shape[0])
    assert (image[row, : image.shape[1] // 2] == 255).all()


def test_titles_rows_and_columns():
    clouds = torch.randn(7, 20, 3)
    figure = small(clouds, titles=[f"${k}" for k in range(7)], columns=3)
    assert texts(figure) == [f"${k}" for k in range(7)]
    places = [axis.get_position() for axis in figure.axes]
    assert len({round(place.x0, 4) for place in places}) == 3
    assert len({round(place.y0, 4) for place in places}) == 3
    assert figure._repr_png_()
    figure = small({"data": clouds[:3], "samples": clouds[3:6]})
    assert texts(figure) == ["data", "samples"]
    assert texts(small(clouds[0], titles="one")) == ["one"]
    assert texts(small(clouds[0], titles="a very long title indeed"))[0].endswith("…")


def test_scalars_get_a_colorbar_with_the_limits():
    clouds = torch.randn(2, 30, 3)
    figure = small(clouds, colors=torch.linspace(-3, 5, 60).reshape(2, 30), color_limits=(-2, 4), color_label="nats")
    bar = figure.axes[-1]
    assert bar.get_ylim() == (-2, 4)
    assert bar.get_ylabel() == "nats"
    assert len(figure.axes) == 3
    one_for_all = small(clouds, colors=torch.arange(30.0))
    assert len(one_for_all.axes) == 3
    assert len(small(clouds, colors=torch.rand(2, 30, 3)).axes) == 2
    assert len(small(clouds, colors=["red", "#00ff00"]).axes) == 2


def test_a_mask_hides_points_even_if_they_are_not_finite():
    cloud = np.random.default_rng(3).normal(size=(40, 3))
    padded = np.concatenate([cloud, np.full((10, 3), np.nan)])
    mask = np.arange(50) < 40
    images = [
        pictures(small(shown, mask=hidden, colors=np.arange(len(shown)) / 1.0, color_limits=(0, 40)))[0].get_array()
        for shown, hidden in ((cloud, None), (padded, mask))
    ]
    np.testing.assert_array_equal(*images)
    batch = torch.randn(2, 50, 3)
    assert len(pictures(small(batch, mask=torch.ones(2, 50, dtype=torch.bool)))) == 2


def test_colors_and_masks_belong_to_the_same_points():
    rng = np.random.default_rng(7)
    points, scalars, tints = rng.normal(size=(30, 3)), rng.normal(size=30), rng.uniform(size=(30, 3))
    mask = rng.uniform(size=30) < 0.5
    for colors in (scalars, tints, np.arange(30)):
        (whole,), *_ = gather(points, colors, None, "viridis", (-1.0, 1.0))[0]
        (kept,), *_ = gather(points, colors, mask, "viridis", (-1.0, 1.0))[0]
        np.testing.assert_array_equal(kept.points, points[mask])
        np.testing.assert_array_equal(kept.colors, whole.colors[mask])


def test_whole_numbers_are_parts_and_no_scale():
    points, parts = torch.randn(2, 6, 3), torch.tensor([0, 2, 2, 0, 1, 7])
    rows, *_, scale = gather(points, parts, None, "viridis", None)
    assert scale is None
    for panel in rows[0]:
        assert not panel.scalar
        np.testing.assert_array_equal(panel.colors, part_colors(parts.numpy()))
    assert len(small(points, colors=parts).axes) == 2
    *_, scale = gather(points, parts.double(), None, "viridis", None)
    assert (scale.low, scale.high) == (0, pytest.approx(7, abs=0.3))


def test_rows_have_inks_of_their_own_and_places_one_colour_each():
    place = torch.eye(3)
    rows, *_ = gather({"a": place[None], "b": [place, place + 1]}, None, None, "viridis", None)
    assert len(rows) == 2
    for row, color in zip(rows, INKS, strict=False):
        np.testing.assert_array_equal(row[0].colors, np.broadcast_to(ink(color), (3, 3)))
    # The last point of one cloud is the first of the other.
    line = torch.linspace(0, 1, 20).unsqueeze(1) * torch.tensor([3.0, 1.0, 0.5])
    (row,), *_ = gather([line, line + line[-1]], "position", None, "viridis", None)
    np.testing.assert_array_equal(row[0].colors[-1], row[1].colors[0])


@pytest.mark.parametrize(("elev", "azim", "up"), [(18.0, 35.0, "y"), (50.0, -70.0, "z"), (-10.0, 120.0, "-x")])
def test_the_camera_is_the_one_that_was_asked_for(elev, azim, up):
    cloud, tints = RNG.normal(size=(60, 3)), RNG.uniform(size=(60, 3))
    seen = project(cloud, elev=elev, azim=azim, up=up)
    first, second = (
        pictures(small(points, colors=tints, elev=e, azim=a, up=axis))[0].get_array()
        for points, e, a, axis in ((cloud, elev, azim, up), (seen, 0.0, 0.0, "y"))
    )
    np.testing.assert_array_equal(first, second)


def test_colormap_background_and_size_of_points():
    cloud = RNG.normal(size=(40, 2))
    gray = np.asarray(pictures(small(cloud, colors=np.linspace(0, 1, 40), cmap="gray"))[0].get_array()).astype(int)
    assert np.ptp(gray, axis=-1).max() == 0
    figure = small(cloud, background="#102030", titles="a")
    picture = pictures(figure)[0]
    assert picture.get_array()[0, 0].tolist() == [0x10, 0x20, 0x30]
    assert figure.get_facecolor()[:3] == pytest.approx([0x10 / 255, 0x20 / 255, 0x30 / 255])
    assert picture.origin == "upper"
    few, many = (
        (pictures(small(cloud, colors="black", point_size=size))[0].get_array() < 128).sum() for size in (0.5, 2.0)
    )
    assert many > 4 * few


@pytest.mark.parametrize(
    ("limits", "extend"), [((0, 1), "neither"), ((0.5, 1), "min"), ((0, 0.5), "max"), ((0.2, 0.8), "both")]
)
def test_the_bar_says_where_values_lie_beyond_it(limits, extend):
    figure = small(RNG.normal(size=(30, 3)), colors=np.linspace(0, 1, 30), color_limits=limits)
    assert figure.axes[-1]._colorbar.extend == extend


def test_a_picture_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "sheet.nope"
    path.write_text("mine")
    with pytest.raises(ValueError, match="nope"):
        save_figure(small(RNG.normal(size=(9, 3))), path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_on_axes_of_ones_own():
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert plot_clouds(torch.randn(2, 9, 3), ax=axes, titles=["a", "b"], colors=torch.rand(2, 9)) is figure
    assert all(axis.images for axis in axes)
    single = Figure()
    assert plot_clouds(torch.randn(9, 3), ax=single.subplots()) is single
    with pytest.raises(ValueError, match="ax: expected 1 axes"):
        plot_clouds(torch.randn(9, 3), ax=axes)


def test_nothing_global_changes(tmp_path):
    # Past the accessor, which would choose a backend by itself.
    settings = dict(dict.items(mpl.rcParams))
    had_pyplot = "matplotlib.pyplot" in sys.modules
    figure = small(torch.randn(9, 3))
    path = save_figure(figure, tmp_path / "new" / "sheet.png")
    with Image.open(path) as image:
        assert image.size == pytest.approx(figure.get_size_inches() * 150, abs=1)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert dict(dict.items(mpl.rcParams)) == settings
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


def bad(index):
    cloud = np.zeros((2, 6, 3))
    cloud[1, index] = np.inf
    cloud[1, 5, 0] = np.nan
    return cloud


@pytest.mark.parametrize(
    ("clouds", "options", "message"),
    [
        (np.zeros(3), {}, r"expected shape \(N, D\) or \(S, N, D\)"),
        (np.zeros((1, 2, 3, 3)), {}, "expected shape"),
        ([np.zeros(3)], {}, r"clouds.*expected shape \(N, D\), got \(3,\)"),
        (np.zeros((4, 1)), {}, "at least 2 coordinates"),
        (np.zeros((0, 3)), {}, "no points"),
        (bad(2), {}, r"clouds\[1\]: 2 of 6 points are not finite, the first at index 2"),
        ([], {}, "empty"),
        ([[]], {}, "empty"),
        (np.zeros((0, 5, 3)), {}, "empty"),
        ([np.zeros((4, 2)), np.zeros((4, 3))], {}, "two coordinates"),
        (np.zeros((4, 3)), {"colors": np.zeros(5)}, r"colors.*expected shape \(4,\)"),
        (np.zeros((4, 3)), {"colors": [np.nan] * 4}, "expected one entry"),
        (np.zeros((4, 3)), {"colors": np.full(4, np.nan)}, "4 of 4 values are not finite"),
        (np.zeros((4, 3)), {"colors": np.full((4, 3), 2.0)}, r"\[0, 1\]"),
        (np.zeros((4, 3)), {"colors": "no-such"}, "no-such"),
        (np.zeros((2, 4, 3)), {"colors": np.zeros((3, 4))}, "colors"),
        (np.zeros((2, 4, 3)), {"titles": ["a"]}, "titles: expected 2"),
        (np.zeros((4, 3)), {"mask": np.zeros(4)}, "leaves no point"),
        (np.zeros((4, 3)), {"mask": np.zeros(3)}, "mask"),
        (np.zeros((4, 3)), {"columns": 0}, "columns"),
        (np.zeros((4, 3)), {"background": "no-such"}, "background"),
    ],
)
def test_errors(clouds, options, message):
    with pytest.raises(ValueError, match=message):
        plot_clouds(clouds, **options)


@pytest.mark.parametrize("clouds", ["cloud.npy", 3, None, ["a"], np.array(["a"] * 4).reshape(2, 2)])
def test_wrong_types(clouds):
    with pytest.raises(TypeError, match="expected"):
        plot_clouds(clouds)
    with pytest.raises(TypeError, match="real numbers"):
        plot_clouds(torch.zeros(4, 3, dtype=torch.complex64))


def test_settings_of_the_user_do_not_spoil_the_picture():
    cloud = np.random.default_rng(6).normal(size=(50, 3)) + 9.0
    plain = small(cloud, titles="a")
    with mpl.rc_context({"image.origin": "lower", "figure.constrained_layout.use": True}):
        odd = small(cloud, titles="a")
        assert odd._repr_png_() == plain._repr_png_()

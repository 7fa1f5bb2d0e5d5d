"""Films, read back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pyro_pcflow.plotting import animate, film, project
from pyro_pcflow.plotting.colors import position_colors

SMALL = {"size": 64, "colors": "black", "elev": 0.0, "azim": 0.0}


def read(path):
    with Image.open(path) as film:
        frames, times = [], []
        for frame in ImageSequence.Iterator(film):
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
            times.append(frame.info["duration"])
        return film.info["loop"], frames, times


def moving(count=6):
    """A blob that goes from the left to the right between two blobs that rest."""
    blob = np.random.default_rng(0).normal(size=(40, 3)) * 0.05
    x = np.linspace(-1, 1, count)
    return np.stack(
        [np.concatenate([blob + np.array(place) for place in ([at, 0, 0], [0, 1, 0], [0, -1, 0])]) for at in x]
    )


@pytest.mark.parametrize(("suffix", "unit"), [(".webp", 1), (".gif", 10), (".GIF", 10)])
def test_frames_size_and_durations(tmp_path, suffix, unit):
    path = animate(torch.tensor(moving()), tmp_path / "deep" / f"film{suffix}", fps=24, hold=0.5, turn=20.0, **SMALL)
    loop, frames, times = read(path)
    assert loop == 0
    assert len(frames) == 6
    assert frames[0].shape == (64, 64, 3)
    assert sum(times) == pytest.approx(6000 / 24 + 1000, abs=unit)
    assert min(times[0], times[-1]) >= 500 + 30
    assert max(times[1:-1]) <= 50


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_what_frames_show(tmp_path, suffix):
    _, frames, _ = read(animate(moving(), tmp_path / f"film{suffix}", turn=0.0, **SMALL))
    middle = [np.nonzero((frame < 128).all(-1)[24:40])[1] for frame in frames]
    centers = [column.mean() for column in middle]
    assert centers[0] < 20
    assert centers[-1] > 44
    assert (np.diff(centers) > 4).all()
    for frame in frames:
        assert frame[2:10, 2:10].min() > 245
        assert (frame[:16, 28:36] < 128).any()


def test_the_camera_turns_and_arrives(tmp_path):
    still = np.repeat(moving()[-1:], 5, 0)
    ends = read(animate(still, tmp_path / "a.gif", turn=90.0, **SMALL))[1]
    assert any((first != second).any() for first, second in pairwise(ends))
    flat = moving()[..., :2]
    _, frames, _ = read(animate(flat, tmp_path / "b.gif", turn=90.0, **SMALL))
    assert len(frames) == 6
    start = np.nonzero((frames[0] < 200).all(-1)[24:40])[1].mean()
    assert start < 20


@pytest.mark.parametrize("turn", [0.0, 90.0, 360.0])
def test_the_camera_ends_where_was_asked(tmp_path, monkeypatch, turn):
    views, draw = [], film.render

    def render(view, *args, **kwargs):
        views.append(view)
        return draw(view, *args, **kwargs)

    monkeypatch.setattr(film, "render", render)
    points, view = moving()[-1], {"elev": 40.0, "up": "-z"}
    animate(np.repeat(points[None], 4, 0), tmp_path / "a.webp", turn=turn, azim=25.0, size=32, **view)
    assert len(views) == 4
    for seen, azim in [(views[-1], 25.0), *([(views[0], 25.0 - turn)] if turn != 360 else [(views[1], 205.0)])]:
        expected = project(points, azim=azim, **view)
        np.testing.assert_allclose(seen - seen.mean(0), expected - expected.mean(0), atol=1e-12)


def test_without_colors_a_point_has_that_of_its_place_at_the_end(tmp_path):
    frames, options = moving(), {"size": 64, "elev": 0.0, "azim": 0.0, "turn": 0.0, "quality": 90}
    by_place = read(animate(frames, tmp_path / "a.webp", **options))[1]
    given = read(animate(frames, tmp_path / "b.webp", **options, colors=position_colors(frames[-1])))[1]
    at_first = read(animate(frames, tmp_path / "c.webp", **options, colors=position_colors(frames[0])))[1]
    np.testing.assert_array_equal(by_place, given)
    assert any((one != other).any() for one, other in zip(by_place, at_first, strict=True))


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_background_and_size_of_points(tmp_path, suffix):
    ground = np.array([0x10, 0x60, 0xA0])
    ink = []
    for size in (0.5, 2.0):
        path = animate(
            moving(), tmp_path / f"{size}{suffix}", background="#1060a0", point_size=size, turn=0.0, quality=90, **SMALL
        )
        frames = read(path)[1]
        assert max(np.abs(frame[:4, :4] - ground).max() for frame in frames) <= 6
        ink.append(np.mean([(frame[..., 2] < 80).mean() for frame in frames]))
    assert ink[1] > 2 * ink[0]


def test_colors_of_a_gif_do_not_flicker(tmp_path):
    frames = read(animate(moving(), tmp_path / "a.gif", **{**SMALL, "colors": None}, turn=0.0))[1]
    # The blobs that rest look the same all the time, though what moves has other colours.
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame[:16], frames[0][:16])
        np.testing.assert_array_equal(frame[-16:], frames[0][-16:])


def test_quality_costs_bytes(tmp_path):
    few, many = (
        animate(moving(), tmp_path / f"{quality}.webp", quality=quality, size=200).stat().st_size for quality in (5, 95)
    )
    assert many > 1.5 * few


def test_a_full_turn_closes(tmp_path):
    cloud = torch.tensor(moving()[-1])
    _, frames, times = read(animate(cloud.expand(8, -1, -1), tmp_path / "ring.webp", turn=360, quality=90, **SMALL))
    assert len(frames) == 8
    assert max(times) - min(times) <= 1
    steps = [np.abs(frames[k] - frames[k - 1]).mean() for k in range(8)]
    assert steps[0] < 2 * np.mean(steps[1:])
    assert min(steps) > 0


def test_tween_and_single_frames(tmp_path):
    _, frames, _ = read(animate(moving(3), tmp_path / "a.webp", tween=4, turn=0.0, **SMALL))
    assert len(frames) == 9
    centers = [np.nonzero((frame < 128).all(-1)[24:40])[1].mean() for frame in frames]
    np.testing.assert_allclose(np.diff(centers), np.diff(centers).mean(), atol=1.5)
    assert len(read(animate(moving(1), tmp_path / "b.webp", tween=4, **SMALL))[1]) == 1
    assert read(animate(moving(1), tmp_path / "c.gif", **SMALL))[1][0].shape == (64, 64, 3)


def test_colors_stay_with_points(tmp_path):
    frames = moving()
    tint = np.zeros((120, 3))
    tint[:40, 0] = 1.0
    options = {**SMALL, "colors": torch.tensor(tint)}
    _, shown, _ = read(animate(frames, tmp_path / "a.webp", turn=0.0, quality=90, **options))
    for image in shown:
        red = (image[..., 0] > image[..., 1] + 60).nonzero()[0]
        assert len(red) > 0
        assert red.min() > 20
        assert red.max() < 44
    for colors in (np.arange(120), None):
        animate(frames, tmp_path / "b.gif", **{**SMALL, "colors": colors})


def test_a_film_is_small(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2048, 3))
    sphere = points / np.linalg.norm(points, axis=1, keepdims=True)
    share = np.linspace(0, 1, 12)[:, None, None]
    path = animate((1 - share) * points + share * sphere, tmp_path / "film.webp")
    assert path.stat().st_size < 12 / 48 * 400_000


@pytest.mark.parametrize(
    ("frames", "name", "options", "message"),
    [
        (moving(), "film.mp4", {}, r"\.gif or \.webp, got 'film\.mp4'"),
        (moving(), "film", {}, "expected a name"),
        (moving()[0], "film.gif", {}, r"expected shape \(T, N, D\)"),
        (moving()[:0], "film.gif", {}, "no points"),
        (moving()[..., :1], "film.gif", {}, "at least 2"),
        (np.full((2, 3, 3), np.nan), "film.gif", {}, "frames: 6 of 6 points are not finite, the first at index 0, 0"),
        (moving(), "film.gif", {"colors": np.zeros(7)}, r"colors: expected shape \(120,\)"),
        (moving(), "film.gif", {"fps": 0}, "fps"),
        (moving(), "film.gif", {"size": 3}, "size"),
        (moving(), "film.gif", {"up": "sideways"}, "up"),
    ],
)
def test_errors(tmp_path, frames, name, options, message):
    with pytest.raises(ValueError, match=message):
        animate(frames, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())

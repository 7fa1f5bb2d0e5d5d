"""The speed benchmark measures what it says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from benchmarks import speed
from benchmarks.rivals.libraries import Case

SMALL = Case(clouds=2, points=80, context=4, couplings=2, hidden=16)


@pytest.fixture
def low_roof(monkeypatch):
    """A small product for the roofline, which is the longest of small contenders."""
    monkeypatch.setattr(speed, "roofline", partial(speed.roofline, 64))


def test_a_table_has_every_contender(low_roof):
    names = ["pyro", "ours, plain"]
    lines = speed.table(SMALL, names, speed.measure(SMALL, names, rounds=1))
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| pyro", "| ours, plain"]
    assert " 1.00 x" in lines[-2]


def test_a_figure_of_growth(low_roof, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "GROWTH", [("points", "points", [replace(SMALL, points=n) for n in (64, 128)])] * 3)
    monkeypatch.setattr(speed, "peak_memory", lambda name, case, wanted: {"train": float(case.points)})
    speed.draw_growth(["pyro", "ours, plain"], 1, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes()[1:4] == b"PNG"


def test_memory_that_cannot_be_told_is_not_drawn(low_roof, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(speed.plt, "close", lambda figure: drawn.extend(figure.axes[3].lines[0].get_ydata()))
    monkeypatch.setattr(speed, "GROWTH", [("points", "points", [replace(SMALL, points=n) for n in (64, 128)])] * 3)
    monkeypatch.setattr(speed, "peak_memory", lambda name, case, wanted: {"train": 0.0 if case.points == 64 else 7.0})
    speed.draw_growth(["ours, plain"], 1, tmp_path / "growth.png")
    assert drawn == pytest.approx([float("nan"), 7.0], nan_ok=True)


@pytest.mark.exhaustive
def test_peak_memory_of_a_process_of_its_own():
    case = Case(clouds=4, points=2048, context=8, couplings=4, hidden=64)
    plain, tiled = (speed.peak_memory(name, case, ["train"])["train"] for name in ("ours, plain", "ours, tiled"))
    # Two hidden layers of four couplings, which the plain way keeps.
    assert plain > 4 * 2 * 4 * 2048 * 64 * 4 / 2**20
    assert tiled < plain / 2

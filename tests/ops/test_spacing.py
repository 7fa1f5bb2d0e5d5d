"""The distance between neighbouring points."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_pcflow.ops import spacing
from pyro_pcflow.ops.spacing import point_spacing


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid(side):
    return torch.cartesian_prod(*[0.25 * torch.arange(side, dtype=torch.float64)] * 3)


def brute_force(points):
    distances = (points.unsqueeze(1) - points).norm(dim=-1)
    return float(torch.where(distances > 0, distances, math.inf).amin(-1).quantile(0.5))


def test_it_is_the_median_distance_to_the_nearest_other_point():
    points = random(400, 3)
    assert point_spacing(points) == pytest.approx(brute_force(points), rel=1e-9)
    assert point_spacing(1e6 + points) == pytest.approx(brute_force(points), rel=1e-6)
    assert point_spacing(grid(6)) == pytest.approx(0.25)


def test_copies_of_points_count_once():
    points = random(300, 2)
    some = torch.cat([points] * 3)
    assert point_spacing(some) == pytest.approx(brute_force(points), rel=1e-9)
    heap = torch.cat([points, points[:1].expand(5000, -1)])
    assert point_spacing(heap) == pytest.approx(brute_force(points), rel=0.2)


@pytest.mark.parametrize("points", [torch.zeros(0, 3), torch.zeros(1, 3), torch.ones(40, 3)])
def test_points_of_which_no_two_differ_have_none(points):
    assert point_spacing(points) == 0


def test_whole_numbers_and_narrow_types():
    assert point_spacing(torch.tensor([[0, 0], [3, 4], [6, 8]])) == 5
    assert point_spacing(torch.tensor([[0, 0], [3, 4], [6, 8]], dtype=torch.bfloat16)) == 5


@pytest.mark.parametrize(
    ("dim", "make"),
    [
        (1, lambda points: torch.cat([points[:, :1], torch.zeros_like(points[:, :2])], -1)),
        (2, lambda points: torch.cat([points[:, :2], points[:, :1].sin()], -1)),
        (3, lambda points: points),
    ],
    ids=["curve", "surface", "volume"],
)
def test_some_of_many_points_tell_it(monkeypatch, dim, make):
    """Whatever their dimension is: it says how much farther apart some of the points are."""
    points = make(random(16_000, 3))
    expected = point_spacing(points)
    monkeypatch.setattr(spacing, "MOST_POINTS", 2000)
    some = point_spacing(points)
    assert some == pytest.approx(expected, rel=0.25)
    # Uncorrected, it would be off by this factor.
    assert 8 ** (1 / dim) > 1.25 or dim == 3
    assert some == point_spacing(points)


def test_some_points_of_a_grid_do_not_shrink_it_without_bound(monkeypatch):
    monkeypatch.setattr(spacing, "MOST_POINTS", 400)
    assert 0.1 < point_spacing(grid(20)) < 0.6
    assert point_spacing(torch.ones(1000, 3)) == 0


def test_another_shape():
    with pytest.raises(ValueError, match=r"shape \(N, D\), got \(2, 3, 3\)"):
        point_spacing(torch.zeros(2, 3, 3))

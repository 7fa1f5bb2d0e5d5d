"""Random views: which points a sensor records."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyro_pcflow.infer.views import VIEWS, Crop, DepthCamera, Hole, OneOf, OneSide, Outliers, Whole


def sphere(count=3000, clouds=4):
    points = F.normalize(torch.randn(clouds, count, 3), dim=-1)
    return points, torch.ones(clouds, count, dtype=torch.bool)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("view", [Whole(), OneSide(), DepthCamera(), Crop(), Hole(), Outliers(OneSide()), VIEWS])
def test_shapes_padding_and_units(view):
    """Padding is never recorded, nothing the caller owns is changed, and a view knows no units."""
    points, mask = sphere(200)
    mask[1, 50:] = False
    points[1, 50:] = torch.nan
    before = points.clone()
    seen, recorded = view(points, mask)
    assert seen.shape == points.shape
    assert recorded.dtype == torch.bool
    assert not (recorded & ~mask).any()
    assert recorded.any(-1).all()
    assert seen[recorded].isfinite().all()
    assert torch.equal(points.nan_to_num(), before.nan_to_num())
    torch.manual_seed(5)
    _, one = view(points, mask)
    torch.manual_seed(5)
    _, other = view(1000 * points + 7, mask)
    assert (one == other).float().mean() > 0.99


def test_one_side_is_one_side():
    """There is a direction along which what is recorded lies above what is not, but for the soft edge."""
    points, mask = sphere()
    _, recorded = OneSide(offset=0.0, softness=0.01)(points, mask)
    for cloud, kept in zip(points, recorded, strict=True):
        towards = F.normalize(cloud[kept].mean(0), dim=0)
        height = cloud @ towards
        assert height[kept].min() > height[~kept].max() - 0.2
        assert 0.4 < kept.float().mean() < 0.6


def test_half_of_the_directions_are_axes():
    points, mask = sphere(2000, clouds=200)
    _, recorded = OneSide(offset=0.0, softness=1e-3)(points, mask)
    towards = F.normalize((points * recorded.unsqueeze(-1)).sum(1), dim=-1)
    along = (towards.abs().amax(-1) > 0.99).float().mean()
    assert 0.35 < along < 0.75


def test_a_camera_sees_the_front_of_a_sphere():
    points, mask = sphere(8000)
    _, recorded = DepthCamera()(points, mask)
    for cloud, kept in zip(points, recorded, strict=True):
        towards = F.normalize(cloud[kept].mean(0), dim=0)
        height = cloud @ towards
        # All of the front, and behind the middle nothing but the rim, whose front lies within the depth.
        assert kept[height > 0.3].float().mean() > 0.95
        assert kept[height < -0.5].float().mean() < 0.05


def test_few_points_hide_little_of_each_other():
    points, mask = sphere(10, clouds=50)
    assert DepthCamera()(points, mask)[1].float().mean() > 0.5


def test_a_crop_is_a_box_and_a_hole_is_a_ball():
    points, mask = sphere()
    for cloud, kept in zip(points, Crop(most=0.6)(points, mask)[1], strict=True):
        low, high = cloud[kept].amin(0), cloud[kept].amax(0)
        inside = ((cloud >= low) & (cloud <= high)).all(-1)
        assert torch.equal(inside, kept)
    for cloud, kept in zip(points, Hole()(points, mask)[1], strict=True):
        lost = cloud[~kept]
        assert len(lost)
        # On a sphere a ball is a cap: all that lies as far in its direction.
        towards = F.normalize(lost.mean(0), dim=0)
        assert (cloud[kept] @ towards).max() < (lost @ towards).min() + 0.05


def test_share_and_place_of_outliers():
    points, mask = torch.zeros(400, 500, 3), torch.ones(400, 500, dtype=torch.bool)
    points[:, 0], points[:, 1] = -1.0, 1.0
    seen, _ = Outliers(Whole(), most=0.2, margin=1.5)(points, mask)
    changed = (seen != points).any(-1).float().mean(-1)
    # Uniform between 0 and the most, up to what is drawn of each.
    assert abs(changed.mean() - 0.1) < 0.02
    assert changed.max() < 0.3
    assert 1.4 < seen.abs().max() <= 1.5


def test_one_of_several_is_drawn_by_weight():
    points, mask = sphere(50, clouds=2000)
    nothing = lambda points, mask: (points, torch.zeros_like(mask))  # noqa: E731
    _, recorded = OneOf((Whole(), nothing), (3.0, 1.0))(points, mask)
    assert abs(recorded.any(-1).float().mean() - 0.75) < 0.04


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OneSide(offset=-1.0), "at least 0"),
        (lambda: DepthCamera(depth=0.0), "positive depth"),
        (lambda: Crop(least=2.0), "0 < least <= most"),
        (lambda: Hole(least=0.0), "0 < least <= most"),
        (lambda: Outliers(Whole(), most=2.0), "between 0 and 1"),
        (lambda: OneOf(()), "at least one view"),
        (lambda: OneOf((Whole(),), (1.0, 2.0)), "a weight for each"),
        (lambda: DepthCamera()(torch.zeros(1, 5, 2), torch.ones(1, 5, dtype=torch.bool)), "3 coordinates"),
    ],
)
def test_wrong_options(make, words):
    with pytest.raises(ValueError, match=words):
        make()

"""What is subtracted from map coordinates before they become float32."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_pcflow.ops.origin import as_exact, find_origin, narrowed, origin_text, relative

MAP = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)


def cube(count=1000, size=1.0, seed=0):
    return size * (torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5)


class TestFindOrigin:
    @pytest.mark.parametrize("size", [1e-3, 0.2, 1.0, 8.0, 300.0, 1e4])
    def test_map_coordinates_get_one_that_is_whole_and_near(self, size):
        points = MAP + cube(20_000, size=size)
        origin = find_origin(points)
        assert origin.dtype == torch.float64
        assert float((origin - points.median(0).values).abs().max()) <= size / 2
        unit = 1.0 if size > 3 else 2.0**-12
        assert torch.equal(origin / unit, (origin / unit).round())
        # What is left fits float32 as well as any points of this size.
        left = relative(points, origin, torch.float32)
        assert float((origin + left.double() - points).abs().max()) < 1e-7 * size + 1e-9

    def test_it_is_short_in_words(self):
        assert origin_text(find_origin(MAP + cube(size=300.0))) == "(701400, 4485500, 0)"
        assert origin_text(find_origin(MAP + cube())) == "(701362, 4485513, 40)"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_narrow_points_have_none(self, dtype):
        assert find_origin((MAP + cube()).to(dtype)) is None

    def test_points_that_float32_holds_have_none(self):
        assert find_origin(cube()) is None
        assert find_origin(cube() + 20.0) is None
        assert find_origin(cube(size=1e4)) is None

    def test_a_thousandth_of_the_spacing_decides(self):
        """A thousand points in a cube are 0.055 apart, and float32 rounds by 3e-8 of a coordinate, half of its step."""
        assert find_origin(cube() + 0.8 * 0.055e-3 / 6e-8) is None
        assert find_origin(cube() + 1.3 * 0.055e-3 / 6e-8) is not None

    def test_points_about_zero_have_none_however_dense_they_are(self):
        """An origin would gain nothing."""
        line = torch.linspace(-1, 1, 2000, dtype=torch.float64).unsqueeze(-1) * torch.tensor([1e3, 1e-9])
        assert find_origin(torch.cat([line, line + 1e-9])) is None

    def test_whole_numbers_beyond_float32(self):
        points = torch.randint(-50, 50, (500, 3), generator=torch.Generator().manual_seed(0)) + 2**30
        assert find_origin(points) is not None
        assert find_origin(points - 2**30) is None

    def test_features_count_by_themselves(self):
        """Dense ones make no points dense, and times of a clock get an origin of their own."""
        times = 3e8 + 100 * cube()[:, :1]
        bright = 1e5 * cube(seed=1)[:, :1]
        points = torch.cat([cube(), times, bright], -1)
        assert find_origin(points, feature_dim=2).tolist()[:3] == [0.0, 0.0, 0.0]
        assert abs(find_origin(points, feature_dim=2)[3] - 3e8) < 50
        assert find_origin(points, feature_dim=2)[4] == 0
        assert find_origin(torch.cat([MAP + cube(), 5 + bright / 1e5], -1), feature_dim=1).tolist() == [
            *MAP.tolist(),
            0.0,
        ]
        assert find_origin(torch.cat([cube(), bright, torch.ones(1000, 1)], -1), feature_dim=2) is None

    def test_points_astray_change_nothing(self):
        points = MAP + cube()
        for stray in (torch.zeros(20, 3), torch.full((20, 3), 1e12), torch.full((20, 3), math.nan)):
            assert find_origin(torch.cat([points, stray.double()])).tolist() == MAP.tolist()

    def test_half_of_the_points_at_one_place(self):
        assert find_origin(torch.cat([MAP + cube(100), MAP.expand(150, 3)])) is not None

    @pytest.mark.parametrize(
        "points", [torch.zeros(0, 3), torch.ones(5, 3) * 1e7, torch.full((5, 3), math.nan), torch.zeros(4, 3)]
    )
    def test_points_without_a_size_have_none(self, points):
        assert find_origin(points.double()) is None

    def test_clouds_have_distances_of_their_own(self):
        """Points of many clouds together are denser than those of any cloud."""
        clouds = 700.0 + torch.stack([cube(200, seed=seed) for seed in range(20)])
        assert find_origin(clouds) is not None
        assert find_origin(clouds, list(clouds)) is None
        assert find_origin(clouds + 1e6, list(clouds)) is not None
        assert find_origin(clouds + 1e6, [torch.zeros(0, 3), torch.zeros(1, 3)]) is not None


def test_relative_points_are_subtracted_in_float64():
    points = MAP + cube()
    assert torch.equal(relative(points, MAP, torch.float64), points - MAP)
    assert relative(points, MAP, torch.float32).dtype == torch.float32
    # Of narrow points, what is left of them.
    assert torch.equal(relative(MAP.float(), MAP, torch.float32), (MAP.float().double() - MAP).float())


class TestAsExact:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_only_what_may_be_rounded_is_kept_wide(self, dtype):
        kinds = {
            torch.float64: torch.float64,
            torch.int64: torch.float64,
            torch.int32: torch.float64,
            torch.float32: dtype,
            torch.float16: dtype,
            torch.int16: dtype,
            torch.uint8: dtype,
            torch.bool: dtype,
        }
        for kind, expected in kinds.items():
            assert as_exact(torch.ones(2, 3, dtype=kind), dtype).dtype == expected

    def test_whole_numbers_are_exact_or_refused(self):
        points = torch.tensor([[2**53 - 1, -(2**53) + 1]])
        assert as_exact(points, torch.float32).long().tolist() == points.tolist()
        for number in (2**53, -(2**53), 2**53 + 1):
            with pytest.raises(ValueError, match=r"cloud 3: whole numbers of 2\*\*53 or more"):
                as_exact(torch.tensor([[number, 0]]), torch.float32, "cloud 3")


class TestNarrowed:
    def test_it_converts_what_fits(self):
        assert torch.equal(narrowed(cube(), torch.float32, "points"), cube().float())
        assert narrowed(MAP + cube(), torch.float64, "points").dtype == torch.float64
        assert narrowed(torch.ones(2, 3), torch.float64, "points").dtype == torch.float64

    def test_it_refuses_what_would_be_rounded_and_says_what_to_subtract(self):
        with pytest.raises(ValueError, match=r"^scan: .*torch.float32 .*subtract.* \(701362, 4485513, 40\)"):
            narrowed(MAP + cube(), torch.float32, "scan")

    def test_clouds_are_looked_at_one_by_one(self):
        clouds = 700.0 + torch.stack([cube(200, seed=seed) for seed in range(20)])
        assert narrowed(clouds, torch.float32, "points").dtype == torch.float32
        with pytest.raises(ValueError, match="subtract an origin first"):
            narrowed(clouds.flatten(0, 1), torch.float32, "points")

"""The Jensen-Shannon divergence against scipy's, on grids that are stated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from pyro_pcflow.metrics import Grid, grid_around, jensen_shannon


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("resolution", [1, 7])
def test_against_scipy(dim, resolution):
    generator = torch.Generator().manual_seed(dim)
    samples = 0.8 * torch.rand(6, 200, dim, generator=generator, dtype=torch.float64) + 0.1
    references = torch.rand(4, 150, dim, generator=generator, dtype=torch.float64) ** 2
    bounds = (0.0, 1.0)
    counts = [
        np.histogramdd(clouds.reshape(-1, dim).numpy(), bins=resolution, range=[bounds] * dim)[0].ravel()
        for clouds in (samples, references)
    ]
    expected = jensenshannon(*counts, base=2) ** 2
    grid = grid_around(references, resolution, bounds)
    assert jensen_shannon(samples, references, grid=grid) == pytest.approx(expected, abs=1e-9)
    assert jensen_shannon(references, samples, grid=grid) == pytest.approx(expected, abs=1e-9)


def test_grid_is_the_cube_around_the_references():
    references = torch.tensor([[[0.0, 5.0, 0.0], [1.0, 9.0, 2.0]]])
    assert grid_around(references, 4) == Grid(4, (-1.5, 5.0, -1.0), (2.5, 9.0, 3.0))
    assert grid_around(references, 4, ((0, 0, 0), 2.0)) == Grid(4, (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))


def test_points_outside_belong_to_the_nearest_cell():
    """By brute force over the centres of all cells."""
    grid = Grid(3, (0.0, 0.0), (3.0, 3.0))
    points = 5 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centers = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).double() + 0.5
    assert torch.equal(grid.cells(points), torch.cdist(points, centers).argmin(1))


def test_six_coordinates_need_no_dense_grid():
    clouds = torch.rand(2, 50, 6)
    assert jensen_shannon(clouds, clouds) == 0
    assert jensen_shannon(clouds + 2, clouds, grid=grid_around(clouds, 100, (0, 3))) == pytest.approx(1)


def test_failed_samples_count_against_the_model():
    torch.manual_seed(0)
    samples, references = torch.rand(10, 100, 3), torch.rand(10, 100, 3)
    grid = Grid(3, (0.0,) * 3, (1.0,) * 3)
    good = jensen_shannon(samples, references, grid=grid)
    samples[:5, 3, 1] = torch.nan
    half = jensen_shannon(samples, references, grid=grid)
    samples[5:, 3, 1] = torch.inf
    assert good < 0.05 < half < 1
    assert jensen_shannon(samples, references, grid=grid) == pytest.approx(1)
    # With equal occupancies of the rest, a share s of p is elsewhere: H(1 - s/2, s/2) - H(1 - s, s) / 2 bits.
    for failed in (1, 5, 9):
        samples[:failed], samples[failed:] = torch.nan, references[0]
        found = jensen_shannon(samples, references[:1], grid=grid)
        expected = entropy([1 - failed / 20, failed / 20], base=2) - entropy([1 - failed / 10, failed / 10], base=2) / 2
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("samples", "references", "options", "words"),
    [
        (torch.rand(2, 9, 3), torch.rand(2, 9, 2), {}, "one dimension"),
        (torch.rand(9, 3), torch.rand(2, 9, 3), {}, "samples: expected clouds"),
        (torch.rand(2, 9, 3), torch.rand(0, 9, 3), {}, "references: expected clouds"),
        (torch.rand(2, 9, 3), torch.full((2, 9, 3), torch.nan), {}, "references: 2 of 2 clouds"),
        (torch.rand(2, 9, 3), torch.zeros(2, 9, 3), {}, "give its bounds"),
        (torch.rand(2, 9, 3), torch.rand(2, 9, 3), {"grid": 0}, "resolution"),
        (torch.rand(2, 9, 6), torch.rand(2, 9, 6), {"grid": 2000}, "can be numbered"),
    ],
)
def test_errors(samples, references, options, words):
    with pytest.raises(ValueError, match=words):
        jensen_shannon(samples, references, **options)


@pytest.mark.parametrize(
    ("bounds", "words"), [((1.0, 0.0), "a lower and a higher end"), (((0.0, 0.0), 1.0), "3 numbers")]
)
def test_wrong_bounds(bounds, words):
    with pytest.raises(ValueError, match=words):
        grid_around(torch.rand(2, 9, 3), 28, bounds)

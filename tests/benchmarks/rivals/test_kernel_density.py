"""A kernel density estimate against its formula, and the choice of its width."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.common.meshes import Shape
from benchmarks.rivals.kernel_density import KernelDensity, best_width, fit_kernel_density

pytest.importorskip("sklearn")


def test_it_is_the_mean_of_gaussians():
    torch.manual_seed(0)
    centres, points, width = torch.randn(50, 3), torch.randn(20, 3), 0.3
    each = -torch.cdist(points.double(), centres.double()).square() / (2 * width**2)
    expected = each.logsumexp(1) - math.log(50) - 1.5 * math.log(2 * math.pi * width**2)
    torch.testing.assert_close(KernelDensity(centres, width).log_prob(points), expected, rtol=0, atol=1e-3)


def test_no_width_beside_the_best_is_better():
    torch.manual_seed(0)
    centres, points = torch.randn(300, 2), torch.randn(500, 2)
    best, trials = best_width(centres, points)
    score = best.log_prob(points).mean()
    assert 3 < trials < 40
    assert all(KernelDensity(centres, best.width * factor).log_prob(points).mean() < score for factor in (0.8, 1.25))


def test_the_width_is_that_of_the_points_it_is_chosen_on():
    torch.manual_seed(0)
    centres = torch.randn(300, 3)
    validation, test = (centres + spread * torch.randn_like(centres) for spread in (0.1, 0.4))
    shape = Shape("cloud", centres, validation, test, torch.zeros(3), torch.tensor(1.0), noise=0.0)
    widths = [fit_kernel_density(shape, 1.0, 0, chosen_on=on).density.width for on in ("validation", "test")]
    assert widths == [pytest.approx(0.1, rel=0.3), pytest.approx(0.4, rel=0.3)]

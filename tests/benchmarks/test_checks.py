"""What is done to scans before they are doubted."""

from __future__ import annotations

import torch

from benchmarks import checks


def test_bodies_are_turned_and_put_side_by_side():
    points = torch.randn(3, 10, 3)
    turned = checks.lying(points)
    torch.testing.assert_close(turned.norm(dim=-1), points.norm(dim=-1))
    torch.testing.assert_close(turned[..., 2], points[..., 1])
    both = checks.two(points)
    aside = torch.tensor([checks.APART / 2, 0.0, 0.0])
    torch.testing.assert_close(both[:, ::2], points[:, ::2] - aside)
    torch.testing.assert_close(both[0, 1::2], points[2, 1::2] + aside)


def test_most_cases_are_bad_ones():
    """Each is a call that completes nothing before it is made."""
    clouds = torch.randn(2, 60, 3)
    names = checks.cases(clouds, clouds, clouds, 30)
    assert sum(name.startswith("good") for name in names) == 4
    assert len(names) == 17

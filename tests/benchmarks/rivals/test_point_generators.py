"""Networks that write points: a part is a part, and each point belongs to its own cloud."""

from __future__ import annotations

import torch

from benchmarks.rivals.point_generators import FixedPoints, Folding


def test_a_part_of_the_fixed_points_is_a_part_of_them():
    torch.manual_seed(0)
    network, z = FixedPoints(4, 10, 2), torch.randn(3, 4)
    every, part = network(z), network(z, 6)
    matches = (part.unsqueeze(2) == every.unsqueeze(1)).all(-1)
    assert matches.sum(2).eq(1).all()
    assert matches.sum(1).max() == 1


def test_folding_carries_noise_to_points_of_its_cloud_alone():
    torch.manual_seed(0)
    network, z = Folding(4, 2), torch.randn(3, 4)
    torch.manual_seed(1)
    points = network(z, 7)
    z[1:] += 1
    torch.manual_seed(1)
    again = network(z, 7)
    assert points.shape == (3, 7, 2)
    torch.testing.assert_close(points[0], again[0])
    assert not torch.allclose(points[1], again[1])

"""Random choices that repeat, and that have nothing to do with one another."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.randomness import generator_for, some_points


def test_a_purpose_has_its_own_numbers():
    first, again, other = (torch.rand(5, generator=generator_for(*of)) for of in [(0, "a"), (0, "a"), (0, "b")])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_points_are_of_their_cloud_and_none_repeats():
    clouds = torch.arange(24.0).reshape(2, 12, 1)
    chosen = some_points(clouds, 5, generator_for(0, "points"))
    assert [len(set(cloud)) for cloud in chosen.flatten(1).tolist()] == [5, 5]
    assert (chosen[0] < 12).all()
    assert (chosen[1] >= 12).all()
    with pytest.raises(ValueError, match="have no 13"):
        some_points(clouds, 13, generator_for(0, "points"))

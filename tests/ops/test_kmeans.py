"""k-means clustering."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.ops.kmeans import kmeans


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_point_is_nearest_to_its_centre_and_every_centre_is_a_mean():
    points = torch.randn(500, 3, generator=generator(1)).double()
    centres, labels = kmeans(points, 7, generator(), num_steps=200)
    assert torch.equal(torch.cdist(points, centres).argmin(-1), labels)
    for label, centre in enumerate(centres):
        torch.testing.assert_close(points[labels == label].mean(0), centre)


def test_far_blobs_are_told_apart():
    truth = torch.arange(300) % 3
    points = torch.randn(300, 2, generator=generator(1)) + 50.0 * torch.nn.functional.one_hot(truth)[:, :2]
    _, labels = kmeans(points, 3, generator())
    assert all(len(labels[truth == kind].unique()) == 1 for kind in range(3))
    assert len(labels.unique()) == 3


def test_the_same_clusters_from_the_same_seed():
    points = torch.randn(100, 3, generator=generator(1))
    state = torch.get_rng_state()
    first, second = (kmeans(points, 5, generator(seed))[0] for seed in (3, 3))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_too_few_values():
    with pytest.raises(ValueError, match="cannot find 3 clusters in points that take only 2 values"):
        kmeans(torch.tensor([[0.0], [1.0]]).repeat(4, 1), 3, generator())

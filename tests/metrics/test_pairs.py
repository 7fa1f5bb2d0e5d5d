"""Pairs of clouds: broadcasting, and what masks and coordinates that are not finite become."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.metrics.pairs import cost_matrix, nonfinite_clouds, pair_clouds


def test_pairs_are_all_that_broadcast():
    x, y = torch.randn(4, 1, 5, 3), torch.randn(6, 7, 3)
    pairs = pair_clouds(x, y, x_mask=torch.tensor([True] * 4 + [False]))
    assert pairs.batch_shape == (4, 6)
    assert (pairs.x.shape, pairs.y.shape) == ((24, 5, 3), (24, 7, 3))
    assert (pairs.x[:, 4] == 0).all()
    assert torch.equal(pairs.x[7, :4], x[1, 0, :4])
    assert torch.equal(pairs.y[7], y[1])
    numbers = torch.arange(24.0)
    assert torch.equal(pairs.finish(numbers), numbers.reshape(4, 6))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_pair_is_invalid_by_points_that_are_there(bad):
    clouds = torch.zeros(3, 4, 2)
    clouds[1, 2, 0] = clouds[2, 3, 1] = bad
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2] = False
    assert nonfinite_clouds(clouds).tolist() == [False, True, True]
    assert nonfinite_clouds(clouds, mask).tolist() == [False, False, True]
    pairs = pair_clouds(clouds, torch.zeros(4, 2), x_mask=mask)
    assert pairs.invalid.tolist() == [False, False, True]
    assert pairs.x.isfinite().all()
    values = torch.ones(3, requires_grad=True)
    finished = pairs.finish(values)
    assert finished.isnan().tolist() == [False, False, True]
    (gradient,) = torch.autograd.grad(finished.sum(), values)
    assert gradient.isnan().tolist() == [False, False, True]


def test_costs_are_those_of_norms():
    x, y = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(cost_matrix(x, y, "euclidean"), torch.cdist(x, y))
    torch.testing.assert_close(cost_matrix(x, y, "squared"), torch.cdist(x, y) ** 2)


def test_equal_counts_are_those_of_the_masks():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    pair_clouds(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), mask, mask).require_equal_counts("emd")
    with pytest.raises(ValueError, match="emd: expected as many points in x as in y, got 2 and 3"):
        pair_clouds(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), mask).require_equal_counts("emd")

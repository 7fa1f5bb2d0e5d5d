"""Checked matrices: which samples failed, and which matrices are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_pcflow.metrics.cross_distances import check_matrix, cross_distances


def test_failed_samples_are_infinitely_far():
    nan, inf = torch.nan, torch.inf
    cross = cross_distances(torch.tensor([[1.0, 2.0], [nan, nan], [nan, inf], [3.0, 0.0]]))
    assert cross.failed.tolist() == [False, True, True, False]
    assert cross.matrix.tolist() == [[1.0, 2.0], [inf, inf], [inf, inf], [3.0, 0.0]]


def test_a_reference_that_is_not_finite_is_named():
    matrix = torch.ones(3, 9)
    matrix[:2, [1, 4]] = torch.nan
    with pytest.raises(ValueError, match="references 1, 4 are at a distance that is not finite"):
        cross_distances(matrix)
    matrix[:2, 1:] = torch.inf
    with pytest.raises(ValueError, match=r"references 1, 2, 3, 4, 5, \.\.\. are"):
        cross_distances(matrix)


def test_matrices_become_float64():
    for matrix in (np.ones((2, 3), dtype=np.int32), torch.ones(2, 3, requires_grad=True)):
        checked = check_matrix(matrix, "m")
        assert checked.dtype == torch.float64
        assert not checked.requires_grad
    with pytest.raises(ValueError, match=r"m: expected a matrix of distances, one row and column per cloud, got shape"):
        check_matrix(torch.zeros(3), "m")

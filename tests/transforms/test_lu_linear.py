"""A linear map by its factors."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.testing import randomize_parameters

T = pcf.transforms


def test_it_is_its_matrix():
    mixing = randomize_parameters(T.lu_linear(3, permutation=[2, 0, 1]).double())
    matrix = mixing.transform_and_log_det(torch.eye(3).double())[0].mT
    lower, upper = mixing._factors(mixing.log_diagonal)
    torch.testing.assert_close(matrix, (lower @ upper)[[2, 0, 1]])
    torch.testing.assert_close(lower.diagonal(), torch.ones(3).double())
    assert upper.tril(-1).abs().max() == 0
    x = torch.randn(4, 3).double()
    y, log_det = mixing.transform_and_log_det(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix)[1].expand(4))
    torch.testing.assert_close(mixing.inverse_and_log_det(y)[0], x)


def test_its_diagonal_is_bounded():
    mixing = T.lu_linear(3, max_log_scale=0.5)
    with torch.no_grad():
        mixing.raw_log_diagonal.fill_(1e3)
    assert mixing.log_diagonal.max() <= 0.5


@pytest.mark.parametrize("permutation", [[0, 1], [0, 0, 1], [1, 2, 3]])
def test_a_wrong_permutation(permutation):
    with pytest.raises(ValueError, match="a permutation of 0 to 2"):
        T.lu_linear(3, permutation=permutation)

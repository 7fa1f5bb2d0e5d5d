"""What transforms and flows say of points and contexts of a wrong type or shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf


@pytest.fixture
def flow():
    return pcf.PointCloudFlow(3, context_dim=4, num_couplings=2, hidden_dims=[4])


@pytest.mark.parametrize("shape", [(5, 2), (3, 1), ()])
def test_points_of_a_wrong_shape(flow, shape):
    with pytest.raises(
        ValueError, match=r"expected points of shape \(\*batch, 3\), got a tensor of shape \("
    ) as caught:
        flow.transform.condition(torch.randn(4))(torch.randn(shape))
    assert str(shape) in str(caught.value)


def test_points_that_are_no_tensor(flow):
    with pytest.raises(
        TypeError, match=r"expected points as a torch\.Tensor .*, got ndarray; torch\.as_tensor makes one"
    ):
        flow.log_prob(np.zeros((5, 3)), torch.randn(4))


@pytest.mark.parametrize("shape", [(4, 1), (5,), ()])
def test_contexts_of_a_wrong_shape(flow, shape):
    with pytest.raises(ValueError, match=r"expected a context of shape \(\*batch, 4\)") as caught:
        flow.condition(torch.randn(shape))
    assert str(shape) in str(caught.value)


def test_a_context_that_is_no_tensor(flow):
    with pytest.raises(TypeError, match=r"context as a torch\.Tensor, got list"):
        flow.transform.condition([1.0] * 4)

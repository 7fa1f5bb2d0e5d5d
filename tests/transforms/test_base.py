"""What the base classes say of points and contexts that do not fit."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf

T = pcf.transforms
SMALL = {"hidden_dims": [4]}


def test_points_and_contexts_that_do_not_fit():
    view = T.conditional_affine_point_coupling(3, 4, **SMALL).condition(torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"context\.unsqueeze\(-2\)"):
        view(torch.randn(5, 100, 3))
    with pytest.raises(ValueError, match=r"shape \(\*batch, 3\)"):
        view(torch.randn(5, 2))
    with pytest.raises(TypeError, match=r"context as a torch\.Tensor"):
        view.transform.condition([1.0] * 4)

"""What a conditioned transform says of points and contexts that do not broadcast."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf


def test_points_and_contexts_that_do_not_broadcast():
    transform = pcf.transforms.conditional_affine_point_coupling(3, 4, hidden_dims=[4])
    with pytest.raises(ValueError, match=r"context\.unsqueeze\(-2\)"):
        transform.condition(torch.randn(5, 4))(torch.randn(5, 100, 3))

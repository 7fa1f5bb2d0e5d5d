from __future__ import annotations

import pytest
import torch

from pyro_pcflow.testing import randomize_parameters
from pyro_pcflow.transforms import backend, coupling_stack
from pyro_pcflow.transforms.backend import choose_backend, is_lowerable, run_lowered
from pyro_pcflow.transforms.grouping import Groups


def test_without_kernels_only_the_plain_way_can_be_asked_for(monkeypatch):
    monkeypatch.setattr(backend, "HAS_KERNELS", False)
    points = torch.randn(5000, 3)
    assert choose_backend("auto", points, 1) == "plain"
    assert choose_backend("plain", points, 1) == "plain"
    for wanted in ("tiled", "fused", "triton"):
        with pytest.raises(ValueError, match=f"'{wanted}' was asked for, but pyro_pcflow.kernels is missing"):
            choose_backend(wanted, points, 1)


@pytest.mark.parametrize("inverse", [False, True])
def test_couplings_on_a_kernel_are_those_of_the_plain_way(inverse):
    stack = randomize_parameters(coupling_stack(3, num_couplings=4, hidden_dims=[8], context_dim=2)).double()
    points, context = torch.randn(2, 4, 90, 3, dtype=torch.float64), torch.randn(4, 1, 2, dtype=torch.float64)
    parts = list(stack.parts)[:: -1 if inverse else 1]
    assert all(is_lowerable(part, "tiled") for part in parts)
    assert not any(is_lowerable(part, "plain") for part in parts)
    got = run_lowered(parts, points, Groups(points.shape[:-1], context.shape[:-1]), context, inverse, "tiled")
    stack.backend = "plain"
    method = stack.inverse_and_log_det if inverse else stack.transform_and_log_det
    for ours, expected in zip(got, method(points, context), strict=True):
        torch.testing.assert_close(ours, expected)

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_pcflow.ops.coupling import affine_map, merge, split, tanh_bound


@given(st.lists(st.booleans(), min_size=2, max_size=20).filter(lambda mask: any(mask) and not all(mask)))
def test_split_and_merge_keep_the_order(mask):
    points = torch.randn(2, 5, len(mask))
    kept, moved = split(mask, points)
    assert torch.equal(kept, points[..., torch.tensor(mask)])
    assert torch.equal(moved, points[..., ~torch.tensor(mask)])
    assert torch.equal(merge(mask, kept, moved), points)


def test_the_affine_map_is_its_formula_and_its_inverse():
    x, shift, log_scale = torch.randn(3, 7, 2, dtype=torch.float64)
    noise, log_det = affine_map(x, shift, log_scale, inverse=True)
    torch.testing.assert_close(noise, x * log_scale.exp() + shift)
    torch.testing.assert_close(log_det, log_scale)
    back, negated = affine_map(noise, shift, log_scale, inverse=False)
    torch.testing.assert_close(back, x)
    assert torch.equal(negated, -log_det)


@pytest.mark.parametrize("limit", [0.3, 2.0])
def test_a_bound_has_slope_one_at_zero(limit):
    x = torch.tensor([0.0, -100.0, 100.0], dtype=torch.float64, requires_grad=True)
    bounded = tanh_bound(x, limit)
    assert bounded.tolist() == pytest.approx([0.0, -limit, limit])
    bounded.sum().backward()
    assert x.grad[0] == 1

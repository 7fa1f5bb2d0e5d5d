from __future__ import annotations

import torch
from torch.autograd import forward_ad

from pyro_pcflow.ops.tracing import in_function_transform, is_traced


def test_values_are_hidden_inside_a_transform_and_nowhere_else():
    seen = []

    def look(x):
        seen.append((in_function_transform(), is_traced(x)))
        return x.sum()

    x = torch.randn(3, 2)
    look(x)
    torch.func.vmap(look)(x)
    torch.func.grad(look)(x)
    with forward_ad.dual_level():
        look(forward_ad.make_dual(x, x))
    torch.jit.trace(look, (x,), check_trace=False)
    look(x)
    assert seen == [(False, False), (True, True), (True, True), (True, True), (False, True), (False, False)]

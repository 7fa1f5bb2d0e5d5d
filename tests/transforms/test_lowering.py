"""Couplings as numbers: what is lowered does as the modules do, and what does otherwise is not lowered."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.kernels.reference import evaluate
from pyro_pcflow.testing import randomize_parameters
from pyro_pcflow.transforms.lowering import can_lower, lower

T = pcf.transforms
OPTIONS = {
    "affine": {},
    "additive": {"coupling": "additive"},
    "two networks": {"separate_networks": True, "conditioning": "film"},
    "layers of the context": {"context_layers": [1], "context_dims": [5], "conditioning": "concat_squash"},
    "residual": {"residual": True, "hidden_dims": [6] * 3, "activation": "leaky_relu"},
}


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_do_as_the_modules(name, inverse):
    stack = T.coupling_stack(4, context_dim=2, num_couplings=3, **{"hidden_dims": [6, 5], **OPTIONS[name]}).double()
    randomize_parameters(stack)
    assert all(map(can_lower, stack.parts))
    points, context = torch.randn(3, 7, 4).double(), torch.randn(3, 2).double()
    program, weights, offsets = lower(list(stack.parts), context, 3, 4)
    method = stack.inverse_and_log_det if inverse else stack.transform_and_log_det
    for value, expected in zip(
        evaluate(program, points, weights, offsets, inverse), method(points, context.unsqueeze(1)), strict=True
    ):
        torch.testing.assert_close(value, expected)


def in_fewer_bits(part):
    part.conditioner.hidden_dtype = torch.bfloat16


def hooked(part):
    part.conditioner.hidden[0].register_forward_hook(lambda *_: None)


def with_a_method_of_its_own(part):
    part.transform_and_log_det = lambda x: (x, x.new_zeros(x.shape[:-1]))


def with_another_network(part):
    part.conditioner.__class__ = type("Other", (pcf.nn.Conditioner,), {})


@pytest.mark.parametrize("change", [in_fewer_bits, hooked, with_a_method_of_its_own, with_another_network])
def test_what_was_changed_is_not_lowered(change):
    part = T.affine_point_coupling(3)
    assert can_lower(part)
    change(part)
    assert not can_lower(part)


def test_what_is_no_coupling_is_not_lowered():
    assert not any(map(can_lower, [T.lu_linear(3), T.act_norm(3), torch.nn.Identity()]))

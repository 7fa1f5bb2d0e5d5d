"""A coupling and its conditioner."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf

T = pcf.transforms


class Named(torch.nn.Module):
    """A conditioner that gives the same numbers to every point."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = [torch.tensor(output).double() for output in outputs]

    def forward(self, kept, context=None):
        return tuple(output.expand(*kept.shape[:-1], -1) for output in self.outputs)


@pytest.mark.parametrize("outputs", [([10.0, 20.0, 0.1, 0.2],), ([10.0, 20.0], [0.1, 0.2])])
def test_a_conditioner_gives_one_parameter_after_the_other(outputs):
    """The first of all moved coordinates, then the second, in one tensor or in several."""
    coupling = T.PointCoupling([False, True, False], T.Affine(1.0), Named(*outputs))
    x = torch.tensor([1.0, 2.0, 3.0]).double()
    noise, log_det = coupling.inverse_and_log_det(x)
    scales = [math.tanh(0.1), math.tanh(0.2)]
    expected = [1 * math.exp(scales[0]) + 10, 2.0, 3 * math.exp(scales[1]) + 20]
    assert noise.tolist() == pytest.approx(expected)
    assert log_det.item() == pytest.approx(sum(scales))

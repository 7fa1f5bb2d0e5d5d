"""Parameters as one vector, and their average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyro_pcflow.training.weights import FlatParameters


def test_average_against_a_computation_by_hand():
    weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(()))
    flat = FlatParameters({"weight": weight, "bias": bias}, decay=0.2)
    expected = 0.0
    for step, value in enumerate([4.0, -1.0, 3.0, 5.0, 2.0]):
        with torch.no_grad():
            weight.fill_(value)
            bias.fill_(2 * value)
        flat.update_average(step)
        kept = min(0.2, step / (step + 9))
        expected = kept * expected + (1 - kept) * value
    assert flat.averages.tolist() == pytest.approx([expected] * 4 + [2 * expected])
    with flat.averaged():
        assert weight.detach().flatten().tolist() == pytest.approx([expected] * 4)
    assert weight.detach().flatten().tolist() == [2.0] * 4
    flat.release(averaged=True)
    assert bias.item() == pytest.approx(2 * expected)
    flat.values.data.zero_()
    assert bias.item() != 0


def test_one_vector_steps_as_the_parameters_would():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    plain, flattened = model(), model()
    flat = FlatParameters(dict(flattened.named_parameters()), decay=0.0)
    plain_adam, flat_adam = torch.optim.Adam(plain.parameters()), torch.optim.Adam([flat.values])
    for _ in range(5):
        x = torch.randn(7, 3, dtype=torch.float64)
        plain_adam.zero_grad()
        plain(x).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), math.inf)
        plain_adam.step()
        flat.drop_gradients()
        flattened(x).square().mean().backward()
        assert flat.gather_gradients().norm().item() == pytest.approx(norm.item(), rel=1e-12)
        flat_adam.step()
    flat.release(averaged=False)
    for one, other in zip(plain.parameters(), flattened.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_gradients_that_are_missing_count_as_zero():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    flat = FlatParameters({"used": used, "unused": unused}, decay=0.0)
    (2 * used).sum().backward()
    assert flat.gather_gradients().tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]


def test_mixed_types_are_refused():
    mixed = {"a": nn.Parameter(torch.zeros(1)), "b": nn.Parameter(torch.zeros(1, dtype=torch.float64))}
    with pytest.raises(ValueError, match=r"one data type, got torch\.float32, torch\.float64"):
        FlatParameters(mixed, decay=0.5)

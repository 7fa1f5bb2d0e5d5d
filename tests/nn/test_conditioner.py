"""The conditioner against its formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_pcflow.nn import Conditioner, fourier_features
from pyro_pcflow.testing import randomize_parameters


def make(**options):
    torch.manual_seed(0)
    return randomize_parameters(Conditioner(2, [1, 3], [5, 4], activation="tanh", **options)).double()


@pytest.mark.parametrize("conditioning", ["film", "bias", "concat_squash"])
def test_conditioning_is_its_formula(conditioning):
    net = make(context_dim=3, conditioning=conditioning)
    kept, context = torch.randn(7, 2).double(), torch.randn(3).double()
    hidden = kept
    for layer, rows in zip(net.hidden, (slice(0, 5), slice(5, 9)), strict=True):
        shift = net.shift.weight[rows] @ context + (0 if net.shift.bias is None else net.shift.bias[rows])
        before = hidden @ layer.weight.T
        if conditioning == "film":
            before = before * (1 + net.scale.weight[rows] @ context + net.scale.bias[rows]) + shift
        elif conditioning == "bias":
            before = before + shift
        else:
            gate = torch.sigmoid(net.scale.weight[rows] @ context + net.scale.bias[rows])
            before = (before + layer.bias) * gate + shift
        hidden = before.tanh()
    expected = hidden @ net.output.weight.T + net.output.bias
    torch.testing.assert_close(torch.cat(net(kept, context), -1), expected)


def test_context_is_used_once_for_each_cloud():
    """Layers that read the context see one row a cloud, however many points it has."""
    net = make(context_dim=3, conditioning="film")
    rows = []
    for layer in (net.scale, net.shift):
        layer.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[:-1].numel()))
    net(torch.randn(4, 100, 2).double(), torch.randn(4, 1, 3).double())
    assert rows == [4, 4]


def test_a_new_conditioner_moves_nothing():
    shift, log_scale = Conditioner(2, [1, 1], [8], context_dim=4)(torch.randn(9, 2), torch.randn(4))
    assert not shift.any()
    assert not log_scale.any()


def test_fourier_features_are_sines_and_cosines_of_octaves():
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    got = fourier_features(x, 3)[0].tolist()
    angles = [2.0**octave * value for octave in range(3) for value in (0.3, -1.2)]
    assert got == pytest.approx([0.3, -1.2, *map(math.sin, angles), *map(math.cos, angles)])
    assert fourier_features(x, 0) is x


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_dims": []}, "hidden_dims"),
        ({"hidden_dims": [8, 0]}, "hidden_dims"),
        ({"output_dims": []}, "at least one"),
        ({"context_dim": -1}, "negative"),
        ({"conditioning": "attention"}, "film, bias, concat_squash"),
        ({"activation": "step"}, "relu"),
    ],
)
def test_wrong_sizes_and_names_are_told(options, words):
    arguments = {"input_dim": 2, "output_dims": [1], "hidden_dims": [8], **options}
    with pytest.raises(ValueError, match=words):
        Conditioner(**arguments)

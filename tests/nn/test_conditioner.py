"""The conditioner against its formulas, written out."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.nn import Conditioner, SeparateConditioners
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


@pytest.mark.parametrize("conditioning", ["film", "bias", "concat_squash"])
def test_hidden_layers_of_the_context_are_their_formula(conditioning):
    """One layer of two is modulated, by a network of one hidden layer; the other has a bias of its own."""
    net = make(context_dim=3, conditioning=conditioning, context_dims=[6], context_layers=[1])
    kept, context = torch.randn(7, 2).double(), torch.randn(3).double()

    def by(network):
        (hidden,) = network.hidden
        value = network.weight @ (hidden.weight @ context + hidden.bias).tanh()
        return value if network.bias is None else value + network.bias

    first, second = net.hidden
    hidden = (kept @ first.weight.T + first.bias).tanh()
    before = hidden @ second.weight.T
    if conditioning == "film":
        before = before * (1 + by(net.scale)) + by(net.shift)
    elif conditioning == "bias":
        before = before + by(net.shift)
    else:
        before = (before + second.bias) * torch.sigmoid(by(net.scale)) + by(net.shift)
    expected = before.tanh() @ net.output.weight.T + net.output.bias
    torch.testing.assert_close(torch.cat(net(kept, context), -1), expected)
    assert by(net.shift).shape == (4,)


def test_residual_is_its_formula():
    """Of widths 3, 5, 5, 5, 5, 5, 5, 4 two pairs are skipped, and one of the three layers of the context."""
    torch.manual_seed(0)
    widths = [3, 5, 5, 5, 5, 5, 5, 4]
    net = Conditioner(2, [1], widths, context_dim=3, context_dims=[6, 6, 6], residual=True, activation="leaky_relu")
    net = randomize_parameters(net).double()
    kept, context = torch.randn(7, 2).double(), torch.randn(3).double()

    def act(x):
        return torch.where(x > 0, x, 0.1 * x)

    first, second, third = net.shift.hidden
    start = act(context @ first.weight.T + first.bias)
    inner = act(start @ second.weight.T + second.bias)
    embedding = act(inner @ third.weight.T + third.bias + start)
    shifts = (embedding @ net.shift.weight.T + net.shift.bias).split(widths, -1)
    states = [kept]
    for number, (layer, shift) in enumerate(zip(net.hidden, shifts, strict=True)):
        before = states[-1] @ layer.weight.T + shift
        states.append(act(before + states[-2] if number in (3, 5) else before))
    expected = states[-1] @ net.output.weight.T + net.output.bias
    torch.testing.assert_close(net(kept, context)[0], expected)


def test_separate_conditioners_are_each_its_own():
    first, second = make(context_dim=3), randomize_parameters(make(context_dim=3))
    kept, context = torch.randn(7, 2).double(), torch.randn(3).double()
    outputs = SeparateConditioners([first, second])(kept, context)
    assert [output.shape[-1] for output in outputs] == [1, 3, 1, 3]
    torch.testing.assert_close(outputs, (*first(kept, context), *second(kept, context)))
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("conditioning", ["film", "bias", "concat_squash"])
def test_gradients_reach_every_parameter(conditioning):
    options = {"context_dim": 3, "conditioning": conditioning, "context_dims": [6, 6, 6], "residual": True}
    net = make(**options)
    torch.cat(net(torch.randn(4, 9, 2).double(), torch.randn(4, 1, 3).double()), -1).square().sum().backward()
    assert [name for name, value in net.named_parameters() if not value.grad.any()] == []


def test_context_is_used_once_for_each_cloud():
    """Layers that read the context see one row a cloud, however many points it has."""
    net = make(context_dim=3, conditioning="film", context_dims=[6])
    rows = []
    for layer in (net.scale, net.shift, *net.scale.hidden, *net.shift.hidden):
        layer.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[:-1].numel()))
    net(torch.randn(4, 100, 2).double(), torch.randn(4, 1, 3).double())
    assert rows == [4, 4, 4, 4]


def test_a_new_conditioner_moves_nothing():
    net = Conditioner(2, [1, 1], [8, 8, 8], context_dim=4, context_dims=[8], residual=True)
    shift, log_scale = net(torch.randn(9, 2), torch.randn(4))
    assert not shift.any()
    assert not log_scale.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_dims": []}, "hidden_dims"),
        ({"hidden_dims": [8, 0]}, "hidden_dims"),
        ({"output_dims": []}, "at least one"),
        ({"context_dim": -1}, "negative"),
        ({"conditioning": "attention"}, "film, bias, concat_squash"),
        ({"activation": "step"}, "relu"),
        ({"context_dims": [8, 0]}, "context_dims"),
        ({"context_layers": [1]}, "from 0 to 0"),
        ({"context_layers": [0, 0]}, "different"),
        ({"context_layers": []}, "at least one"),
    ],
)
def test_wrong_sizes_and_names_are_told(options, words):
    arguments = {"input_dim": 2, "output_dims": [1], "hidden_dims": [8], **options}
    with pytest.raises(ValueError, match=words):
        Conditioner(**arguments)


def test_a_context_of_zero_shifts_nothing_in_concat_squash():
    """Its shift is `V c`, without a bias."""
    net = Conditioner(2, [1], [8], context_dim=3, conditioning="concat_squash")
    assert not net.shift(torch.zeros(3)).any()

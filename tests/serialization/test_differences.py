"""What loading would not bring back is refused at saving, with its name."""

from __future__ import annotations

import pytest
from torch import nn

import pyro_pcflow as pcf
from helpers.flows import make_flow


def swap_activation(flow):
    flow.transform.parts[0].conditioner.activation = "tanh"


def swap_bound(flow):
    flow.transform.parts[1].elementwise = pcf.transforms.Affine(0.25)


def swap_mask(flow):
    flow.transform.parts[0].mask = (True, False, True)


def swap_part(flow):
    flow.transform.parts[0] = pcf.transforms.additive_point_coupling(3, hidden_dims=[8])


def swap_layer(flow):
    flow.transform.parts[0].conditioner.hidden[0] = nn.Sequential(flow.transform.parts[0].conditioner.hidden[0])


def widen(flow):
    flow.transform.parts[0].conditioner.output = nn.Linear(8, 4)


def shorten(flow):
    flow.transform.parts = flow.transform.parts[1:]


def lengthen(flow):
    flow.transform.parts.insert(0, pcf.transforms.act_norm(3))


def hook(flow):
    flow.transform.parts[0].register_forward_hook(lambda module, inputs, output: output)


def hook_before(flow):
    flow.register_forward_pre_hook(lambda module, inputs: inputs)


def parametrize(flow):
    nn.utils.parametrizations.weight_norm(flow.transform.parts[0].conditioner.output)


def override(flow):
    flow.log_prob = lambda points: points.sum(-1)


def tie(flow):
    first, second, _ = flow.transform.parts[:3]
    first.conditioner.hidden[0].weight = second.conditioner.hidden[0].weight


def make_buffer(flow):
    layer = flow.transform.parts[0].conditioner.output
    weight = layer.weight.detach().clone()
    del layer.weight
    layer.register_buffer("weight", weight)


def edit_config(flow):
    flow.config["num_couplings"] = 4


def break_config(flow):
    flow.config["masks"] = "no such"


def drop_config(flow):
    flow.config = None


CHANGES = {
    swap_activation: "'transform.parts.0.conditioner' has activation='tanh', where its config makes 'relu'",
    swap_bound: r"parts.1' has elementwise, which has max_log_scale=0.25, where its config makes 1.0",
    swap_mask: r"parts.0' has mask=\[True, False, True\], where",
    swap_part: r"parts.0' has elementwise=.*Additive.*, where its config makes .*Affine",
    swap_layer: "hidden.0' is a Sequential, where its config makes a Linear",
    widen: r"output' has out_features=4, where its config makes 2",
    shorten: r"parts.0' has mask=\[True, False, True\], where its config makes \[False, True, True\]",
    lengthen: "parts.0' is a ActNorm, where its config makes a PointCoupling",
    hook: "parts.0' has a hook, which no file keeps",
    hook_before: "it has a hook",
    parametrize: "output' is a ParametrizedLinear",
    override: "it has a method log_prob of its own",
    tie: "its parameters differ from those that its config describes: .*parts.1",
    make_buffer: "its parameters differ from those that its config describes: .*output.weight",
    edit_config: "is a Standardize, where its config makes a PointCoupling",
    break_config: "its config makes no PointCloudFlow",
    drop_config: "its config makes no PointCloudFlow",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_loading_would_not_bring_back_is_refused_at_saving(path, change):
    flow = make_flow()
    change(flow)
    message = f"cannot save this PointCloudFlow, which pcf.load could not bring back: .*{CHANGES[change]}"
    with pytest.raises(ValueError, match=message) as caught:
        pcf.save(flow, path)
    assert "torch.save(module.state_dict(), path) keeps its weights" in str(caught.value)
    assert not path.exists()

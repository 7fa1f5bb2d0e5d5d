"""Recomputed hidden layers change nothing; rounded ones change little, and no log-determinant's precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from pyro_pcflow.nn import CloudEncoder, Conditioner
from pyro_pcflow.training.autocast import autocast


def make(num_couplings=6, context_dim=4, **options):
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, context_dim, num_couplings, hidden_dims=(32, 32), **options)
    pcf.testing.randomize_parameters(flow, 0.05)
    return flow, torch.randn(4, 128, 3), torch.randn(4, 1, 4)


def score_and_gradients(flow, points, context, dtype, recompute):
    flow.zero_grad()
    points = points.clone().requires_grad_()
    with autocast(flow, dtype, recompute):
        log_prob = flow.log_prob(points, context)
        log_prob.sum().backward()
    return log_prob.detach(), points.grad, [parameter.grad.clone() for parameter in flow.parameters()]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"lu_linear": True, "act_norm": True, "base": "conditional"}, {"base": "mixture"}]
)
def test_recomputing_changes_no_bit(dtype, options):
    flow, points, context = make(**options)
    kept, again = (score_and_gradients(flow, points, context, dtype, recompute) for recompute in (False, True))
    torch.testing.assert_close(again, kept, rtol=0, atol=0)


def saved_bytes(flow, points, context, recompute):
    """What a forward pass keeps for its backward pass, every storage once, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in flow.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(flow, None, recompute):
        log_prob = flow.log_prob(points.clone().requires_grad_(), context)
    assert log_prob.requires_grad
    return sum(size for size, _ in kept.values())


def test_memory_holds_coordinates_and_no_hidden_layers():
    """A layer more costs some numbers a point, not two hidden layers of 32 and what leads to them."""
    few, many = (make(num_couplings, backend="plain")[0] for num_couplings in (4, 24))
    _, points, context = make()
    in_a_layer = [
        (saved_bytes(many, points, context, recompute) - saved_bytes(few, points, context, recompute)) / 20
        for recompute in (False, True)
    ]
    coordinates = points.nelement() * points.element_size()
    assert in_a_layer[0] > 20 * coordinates
    assert in_a_layer[1] < 4 * coordinates


def test_rounded_layers_are_near_and_log_determinants_are_exact():
    flow, points, context = make()
    exact, _, _ = score_and_gradients(flow, points, context, None, False)
    near, _, gradients = score_and_gradients(flow, points, context, torch.bfloat16, False)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.05
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    # What moves a point and what is added up belong together to the last digits, whatever moves it.
    with autocast(flow, torch.bfloat16, False), torch.no_grad():
        noise, log_det = flow.transform.inverse_and_log_det(points[:1, :8], context[:1])
        back, forward = flow.transform.transform_and_log_det(noise, context[:1])
    torch.testing.assert_close(back, points[:1, :8], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forward, -log_det, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "net", [Conditioner(2, [1, 1], [16, 16], context_dim=4), CloudEncoder(3, [4], point_dims=[16])]
)
def test_outputs_are_not_rounded(net):
    """Rounded to eight bits, outputs would fall on a grid that is 65536 times as wide."""
    arguments = (torch.randn(50, 2), torch.randn(50, 4)) if isinstance(net, Conditioner) else (torch.randn(50, 9, 3),)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    with autocast(net, torch.bfloat16, False), torch.no_grad():
        for output in net(*arguments):
            assert output.dtype == torch.float32
            assert (output != output.bfloat16().float()).float().mean() > 0.9


class NotOurs(nn.Linear):
    """A user's module, whose attributes have names that ours have, too."""

    def __init__(self):
        super().__init__(2, 2)
        self.backend, self.recompute, self.hidden_dtype = "nccl", 3, "half"


def test_modules_of_the_user_are_left_alone():
    flow, _, _ = make(2)
    theirs = NotOurs()
    with autocast(nn.ModuleList([theirs, flow]), torch.bfloat16, True):
        assert flow.transform.recompute
        assert {layer.hidden_dtype for layer in flow.modules() if isinstance(layer, Conditioner)} == {torch.bfloat16}
        assert (theirs.backend, theirs.recompute, theirs.hidden_dtype) == ("nccl", 3, "half")
    assert (theirs.backend, theirs.recompute, theirs.hidden_dtype) == ("nccl", 3, "half")
    assert not flow.transform.recompute


def test_everything_is_as_before_afterwards():
    flow, points, context = make()
    before = flow.log_prob(points, context)
    with pytest.raises(RuntimeError, match="stop"), autocast(flow, torch.bfloat16, True):
        raise RuntimeError("stop")
    assert torch.equal(flow.log_prob(points, context), before)


class Watched(pcf.PointCloudVAE):
    """Notes how it is evaluated."""

    def decode(self, *arguments, **options):
        layers = self.decoder.modules()
        dtypes = {layer.hidden_dtype for layer in layers if isinstance(layer, Conditioner)}
        self.encoder_points.append((torch.is_grad_enabled(), dtypes, self.decoder.transform.recompute))
        return super().decode(*arguments, **options)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("precision", "dtype"), [("full", None), ("bfloat16", torch.bfloat16)])
def test_fit_trains_so_and_scores_in_full(precision, dtype, recompute):
    torch.manual_seed(0)
    vae = Watched(3, 4, decoder={"num_couplings": 3, "hidden_dims": [16]}, encoder={"point_dims": [16]})
    vae.encoder_points = []
    clouds = torch.randn(8, 100, 3)
    options = {"precision": precision, "recompute": recompute, "held_out": clouds, "device": "cpu"}
    fit(vae, clouds, max_steps=2, **options)
    training, scoring = (True, {dtype}, recompute), (False, {None}, False)
    assert vae.encoder_points == [training, training, scoring]
    assert {layer.hidden_dtype for layer in vae.modules() if isinstance(layer, Conditioner)} == {None}


def test_unknown_precision():
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    with pytest.raises(ValueError, match="precision must be one of full, bfloat16, got 'half'"):
        fit(flow, torch.randn(100, 3), max_steps=1, precision="half")

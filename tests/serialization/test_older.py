"""Names that options had in files of format 1."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flows import make_flow
from pyro_pcflow.serialization import current_options
from pyro_pcflow.serialization.older import current_state


def test_old_names_become_those_of_today_at_any_depth():
    old = {
        "decoder": {"total_log_scale": 6.0, "affine": False},
        "list": [{"mixing": True}, 3],
        "act_norm_between": True,
    }
    assert current_options(old) == {
        "decoder": {"max_total_log_scale": 6.0, "coupling": "additive"},
        "list": [{"lu_linear": True}, 3],
        "act_norm": True,
    }
    assert current_options({"affine": True}) == {"coupling": "affine"}
    new = {"coupling": "additive", "masks": [[True, False]], "lu_linear": True}
    assert current_options(new) == new
    assert current_options(None) is None


@pytest.mark.parametrize("options", [{"transform": 1}, {"base": "normal"}, {"num_couplings": 3}])
def test_a_decoder_that_says_what_it_is_stays(options):
    assert current_options({"latent_dim": 2, "decoder": options}) == {"latent_dim": 2, "decoder": options}


def test_a_decoder_that_says_nothing_was_affine():
    decoder = current_options({"latent_dim": 2, "decoder": {"affine": True}})["decoder"]
    assert decoder == {"base": "normal", "num_couplings": 12, "coupling": "affine"}


def test_a_prior_that_says_nothing_has_the_units_of_then():
    def prior_of(**config):
        return current_options({"latent_dim": 2, "decoder": {"base": "mixture"}, **config})["prior_options"]

    told = pcf.PointCloudVAE(3, 2, prior_options={"activation": "relu"}).config["prior_options"]
    assert prior_of(prior="flow", prior_options=told) == told
    assert prior_of(prior="flow", prior_options={}) == {**told, "activation": "silu"}
    assert prior_of(prior="normal", prior_options={}) == {}


@pytest.mark.parametrize("num_flows", [1, 2])
def test_gaussians_that_a_context_writes_were_of_any_width(num_flows):
    decoder = {"base": "mixture", "num_components": 4, "num_couplings": 0}
    told = pcf.PointCloudVAE(3, 2, num_flows=num_flows, decoder=decoder).config
    assert told["decoder"]["max_width"] == 3
    assert current_options(told)["decoder"] == told["decoder"]
    before = current_options({"latent_dim": 2, "decoder": decoder})["decoder"]
    assert before == {**decoder, "max_width": math.inf}
    flow = pcf.PointCloudFlow(3, 2, **decoder).config
    assert flow["max_width"] == 3
    del flow["max_width"]
    assert current_options(flow)["max_width"] == math.inf


def test_files_of_today_have_no_old_names(path):
    pcf.save(make_flow(), path)
    content = torch.load(path)
    content["config"]["mixing"] = True
    torch.save(content, path)
    with pytest.raises(ValueError, match="unknown option 'mixing'"):
        pcf.load(path)


def test_units_of_before_have_no_origin(tmp_path):
    flow = make_flow().float()
    flow.normalize(3 + torch.randn(100, flow.point_dim))
    pcf.save(flow, tmp_path / "flow.pt")
    content = torch.load(tmp_path / "flow.pt", weights_only=True)
    (name,) = [name for name, value in content["state_dict"].items() if isinstance(value, dict)]
    assert content["state_dict"][name] == {"fitted": True, "origin": []}
    content["state_dict"][name] = {"fitted": True}
    torch.save({**content, "version": 5}, tmp_path / "older.pt")
    older = pcf.load(tmp_path / "older.pt")
    assert older.normalized
    assert older.origin is None
    assert torch.equal(older.units.loc, flow.units.loc)
    torch.save(content, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match="damaged"):
        pcf.load(tmp_path / "damaged.pt")
    assert current_state({"a": {"fitted": True, "origin": [1.0]}, "b": {"initialized": True}, "c": 1}) == {
        "a": {"fitted": True, "origin": [1.0]},
        "b": {"initialized": True},
        "c": 1,
    }
    assert current_state([1]) == [1]

"""Objects as plain values, and back."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from helpers.bend import Bend
from pyro_pcflow import serialization
from pyro_pcflow.serialization.classes import OURS, Classes
from pyro_pcflow.testing import randomize_parameters

T = pcf.transforms


def test_plain_copies():
    nested = {"a": [np.float64(1.5), {"b": (1, None, "c")}]}
    copy = serialization.plain(nested, "x")
    assert copy == {"a": [1.5, {"b": [1, None, "c"]}]}
    with pytest.raises(TypeError, match=r"x\['a'\]\[0\] is a set"):
        serialization.plain({"a": [{1}]}, "x")
    with pytest.raises(TypeError, match="ndarray"):
        serialization.plain(np.zeros(2), "x")


def test_an_object_with_a_config_is_its_class_and_its_config():
    classes = Classes()
    value = serialization.plain({"coupling": Bend(0.5), "more": [T.Affine(2.0)]}, "config", classes)
    assert value == {
        "coupling": {"class": "Bend", "config": {"limit": 0.5}},
        "more": [{"class": "Affine", "config": {"max_log_scale": 2.0}}],
    }
    assert classes.find("Bend") is Bend
    made = classes.make("Affine", {"max_log_scale": 0.5}, 1)
    assert (type(made), made.config) == (T.Affine, {"max_log_scale": 0.5})
    with pytest.raises(ValueError, match="more than 1 objects"):
        classes.make("CouplingStack", {"parts": [value["coupling"]]}, 1)
    with pytest.raises(TypeError, match="x is a type, but only tensors, plain values and objects with a `config`"):
        serialization.plain(Bend, "x")


class Rotate(T.PointTransform):
    """A turn of the first two coordinates by a weight: a transform of another."""

    def __init__(self, point_dim):
        super().__init__(point_dim)
        self.config = {"point_dim": point_dim}
        self.angle = nn.Parameter(torch.zeros(()))

    def turned(self, points, angle):
        x, y = points[..., 0], points[..., 1]
        pair = torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)
        return torch.cat([pair, points[..., 2:]], -1), points.new_zeros(points.shape[:-1])

    def transform_and_log_det(self, x):
        return self.turned(x, self.angle)

    def inverse_and_log_det(self, y):
        return self.turned(y, -self.angle)


class Mean(nn.Module):
    """An encoder of another, whose configuration holds a module of ours."""

    def __init__(self, layer, size):
        super().__init__()
        self.config = {"layer": layer, "size": size}
        self.layer = layer
        self.linear = nn.Linear(3, 2 * size)

    def forward(self, clouds, mask=None, context=None):
        return self.linear(self.layer(clouds).mean(-2)).chunk(2, -1)


SMALL = {"hidden_dims": [4]}
SAVED = {
    "stack": lambda: T.coupling_stack(3, num_couplings=2, lu_linear=True, act_norm=True, **SMALL),
    "conditional stack": lambda: T.coupling_stack(
        3, num_couplings=2, context_dim=2, separate_networks=True, context_layers=[0], **SMALL
    ),
    "coupling": lambda: T.additive_point_coupling(3, mask=[True, False, True], num_frequencies=2, **SMALL),
    "spline": lambda: T.spline_point_coupling(3, num_bins=3, bound=2.0, max_log_scale=0.5, **SMALL),
    "cubic": lambda: T.cubic_point_coupling(3, num_terms=2, max_log_scale=0.5, **SMALL),
    "permutation": lambda: T.lu_linear(3, permutation=[2, 0, 1], max_log_scale=0.5),
    "units": lambda: T.standardize(3),
    "encoder": lambda: pcf.nn.CloudEncoder(3, [2, 2], point_dims=[4], hidden_dims=[3], context_dim=2),
    "transform of another": lambda: Rotate(3),
    "stack with one of another": lambda: T.CouplingStack([T.affine_point_coupling(3, **SMALL), Rotate(3)]),
    "flow of such a stack": lambda: pcf.PointCloudFlow(
        3, transform=T.CouplingStack([T.point_coupling(3, Bend(0.5), **SMALL), Rotate(3)])
    ),
    "encoder of another": lambda: pcf.PointCloudVAE(
        3, 2, encoder=Mean(Rotate(3), 2), prior="normal", decoder={"num_couplings": 2, **SMALL}
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_parts_and_classes_of_another_come_back(name, path):
    torch.manual_seed(0)
    module = randomize_parameters(SAVED[name]()).double()
    pcf.save(module, path)
    again = pcf.load(path, custom=[Bend, Mean, Rotate])
    assert type(again) is type(module)
    assert repr(again) == repr(module)
    for key, value in module.state_dict().items():
        found = again.state_dict()[key]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    if isinstance(module, T.PointTransform):
        points = torch.randn(5, 3).double()
        assert torch.equal(again.inv(points), module.inv(points))
    if "another" in name or "flow" in name:
        with pytest.raises(ValueError, match=r"\.pt: holds an object of the class '(Rotate|Bend|Mean)'"):
            pcf.load(path)


def test_every_class_of_ours_is_where_the_table_says():
    classes = Classes()
    for name in OURS:
        cls = classes.find(name)
        assert inspect.isclass(cls)
        assert cls.__name__ == name


def test_names_of_classes_are_unambiguous(path):
    affine = type("Affine", (T.Elementwise,), {})
    with pytest.raises(ValueError, match="has the name of a class of this library"):
        pcf.load(path, custom=[affine])
    with pytest.raises(ValueError, match="two classes have the name Bend"):
        pcf.load(path, custom=[Bend, type("Bend", (T.Elementwise,), {})])
    with pytest.raises(TypeError, match=r"expected classes, as in custom=\[MyClass\], got"):
        pcf.load(path, custom=[Bend()])
    flow = pcf.PointCloudFlow(3, num_couplings=2, coupling=type("Affine", (Bend,), {})(), **SMALL)
    with pytest.raises(ValueError, match="has the name of a class of this library"):
        pcf.save(flow, path)
    assert not path.exists()


def test_nothing_that_a_file_names_is_imported(path, monkeypatch):
    pcf.save(pcf.PointCloudFlow(3, num_couplings=2, coupling=Bend(0.5), **SMALL), path)
    content, asked = torch.load(path), []
    monkeypatch.setattr(serialization.classes, "importlib", Recorder(asked))
    for name in ("helpers.bend.Bend", "os", "Elementwise", "builtins.print", "torch.nn.Linear"):
        content["config"]["coupling"]["class"] = name
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"class '{name}'"):
            pcf.load(path, custom=[Bend])
    assert {*asked} == {"pyro_pcflow.distributions"}


class Recorder:
    def __init__(self, asked):
        self.asked = asked

    def import_module(self, name):
        self.asked.append(name)
        return importlib.import_module(name)


def test_a_module_without_a_config_says_what_is_missing(path):
    vae = pcf.PointCloudVAE(3, 2, encoder=nn.Linear(3, 4))
    with pytest.raises(TypeError, match=r"config\['encoder'\] is a Linear, but only .* `config`, the keyword"):
        pcf.save(vae, path)

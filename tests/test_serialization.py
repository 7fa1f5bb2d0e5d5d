from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from pyro_pcflow import serialization


def make_flow(**options):
    torch.manual_seed(2)
    flow = pcf.PointCloudFlow(**{"point_dim": 3, "num_couplings": 3, "hidden_dims": [8], **options})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    flow.normalize(50 + 3 * torch.randn(100, 3))
    return flow


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.pt"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"act_norm_between": True, "mixing": True}, {"base": "conditional"}])
def test_a_flow_comes_back_to_the_last_bit(path, dtype, options):
    context = torch.randn(4, dtype=dtype) if "base" in options else None
    flow = make_flow(context_dim=0 if context is None else 4, **options).to(dtype)
    points = 50 + torch.randn(20, 3, dtype=dtype)
    before = flow.log_prob(points, context)
    pcf.save(flow, path)
    again = pcf.load(str(path))
    assert again.normalized
    assert again.config == flow.config
    assert torch.equal(again.log_prob(points, context), before)
    assert again.condition(context).sample().dtype == dtype


def test_the_file_holds_plain_values_only(path):
    pcf.save(make_flow(), path)
    content = torch.load(path, weights_only=True)
    assert content["format"] == "pyro-pcflow"
    assert content["class"] == "PointCloudFlow"
    assert content["config"]["hidden_dims"] == [8]


def test_neither_saving_nor_loading_touches_the_random_numbers(path):
    flow = make_flow()
    state = torch.get_rng_state()
    pcf.save(flow, path)
    pcf.load(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_numpy_scalars_in_the_configuration_become_pythons_own(path):
    flow = make_flow(num_couplings=np.int64(2), max_log_scale=np.float32(0.5))
    pcf.save(flow, path)
    config = pcf.load(path).config
    assert config["num_couplings"] == 2
    assert type(config["num_couplings"]) is int
    assert type(config["max_log_scale"]) is float


def test_a_file_is_replaced_at_once_or_not_at_all(path, monkeypatch):
    pcf.save(make_flow(), path)
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            pcf.save(make_flow(num_couplings=4), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["flow.pt"]
    with path.open("rb") as reader:
        pcf.save(make_flow(num_couplings=4), path)
        assert reader.read() == before, "whoever reads meanwhile still reads the file before"
    assert pcf.load(path).config["num_couplings"] == 4


def test_modules_that_cannot_be_saved(path):
    with pytest.raises(
        ValueError, match=r"cannot save a Linear: expected one of AutoDecoder, MixtureOfFlows, PointCloudFlow"
    ):
        pcf.save(nn.Linear(2, 2), path)
    impostor = type("PointCloudFlow", (nn.Module,), {})()
    with pytest.raises(ValueError, match="cannot save a PointCloudFlow"):
        pcf.save(impostor, path)
    mixed = make_flow()
    mixed.units.double()
    with pytest.raises(ValueError, match=r"mixes torch\.float32, torch\.float64"):
        pcf.save(mixed, path)
    odd = make_flow()
    odd.config["masks"] = object()
    with pytest.raises(TypeError, match=r"config\['masks'\] is a object"):
        pcf.save(odd, path)
    assert not path.exists()


class TestFilesThatAreNotOurs:
    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
            pcf.load(tmp_path / "nothing.pt")

    @pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", pickle.dumps({"format": "pyro-pcflow"})])
    def test_other_bytes(self, path, content):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"flow\.pt: "):
            pcf.load(path)

    def test_truncated_anywhere(self, path):
        pcf.save(make_flow(), path)
        whole = path.read_bytes()
        for length in range(0, len(whole) - 1, len(whole) // 40):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"flow\.pt: not a file of pcf\.save, or damaged"):
                pcf.load(path)

    def test_code_is_never_run(self, path, tmp_path):
        class Harm:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "harm"),)

        torch.save({"format": "pyro-pcflow", "version": 1, "class": Harm()}, path)
        with pytest.raises(ValueError, match="damaged"):
            pcf.load(path)
        assert not (tmp_path / "harm").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "another"}, "not one of pcf.save"),
            ({"version": 2}, r"format 2 by pyro-pcflow 9\.9.* upgrade"),
            ({"version": "1"}, "expected a format version"),
            (
                {"class": "Linear"},
                "unknown class 'Linear'; expected one of AutoDecoder, MixtureOfFlows, PointCloudFlow",
            ),
            ({"class": "__import__"}, "unknown class"),
            ({"config": {"point_dim": 3, "no_such": 1}}, "make no PointCloudFlow"),
            ({"config": {"point_dim": 2, "num_couplings": 3, "hidden_dims": [8]}}, "make no PointCloudFlow"),
            ({"config": None}, "make no PointCloudFlow"),
            ({"state_dict": {}}, "make no PointCloudFlow"),
            ({"state_dict": None}, "make no PointCloudFlow"),
        ],
    )
    def test_other_content(self, path, changes, message):
        pcf.save(make_flow(), path)
        content = {**torch.load(path), "library": "9.9", **changes}
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            pcf.load(path)

    def test_a_plain_state_dict(self, path):
        torch.save(make_flow().state_dict(), path)
        with pytest.raises(ValueError, match=r"a torch file, but not one of pcf\.save"):
            pcf.load(path)


def test_plain_copies():
    nested = {"a": [np.float64(1.5), {"b": (1, None, "c")}]}
    copy = serialization.plain(nested, "x")
    assert copy == {"a": [1.5, {"b": [1, None, "c"]}]}
    with pytest.raises(TypeError, match=r"x\['a'\]\[0\] is a set"):
        serialization.plain({"a": [{1}]}, "x")
    with pytest.raises(TypeError, match="ndarray"):
        serialization.plain(np.zeros(2), "x")

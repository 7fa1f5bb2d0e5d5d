"""Files of `pcf.save` and `pcf.load`."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from helpers.flows import make_flow
from pyro_pcflow.serialization.files import VERSION


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"act_norm": True, "lu_linear": True}, {"base": "conditional"}, {"base": "mixture", "num_components": 5}],
)
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
    with pytest.raises(ValueError, match=r"cannot save a Linear: it has no config"):
        pcf.save(nn.Linear(2, 2), path)
    impostor = type("PointCloudFlow", (nn.Module,), {})()
    impostor.config = {}
    with pytest.raises(ValueError, match=r"cannot save a PointCloudFlow: .* has the name of a class of this library"):
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


def expand(flow):
    layer = flow.transform.parts[0].conditioner.output
    layer.weight = nn.Parameter(torch.zeros(1, 1).expand(layer.weight.shape))


def test_a_parameter_without_memory_of_its_own_is_no_reason_to_write_what_is_refused(path):
    flow = make_flow()
    expand(flow)
    pcf.save(flow, path)  # a few bytes less than others
    assert torch.equal(pcf.load(path).state_dict()["transform.parts.0.conditioner.output.weight"], torch.zeros(2, 8))
    big = make_flow(hidden_dims=[1000, 1000])
    layer = big.transform.parts[0].conditioner.hidden[1]
    layer.weight = nn.Parameter(torch.zeros(1, 1).expand(1000, 1000))
    for part in big.transform.parts[1:3]:
        part.conditioner.hidden[1].weight = nn.Parameter(torch.zeros(1, 1).expand(1000, 1000))
    with pytest.raises(ValueError, match=r"could not bring back: tensors of \d+ bytes in a file of \d+"):
        pcf.save(big, path)


MODELS = {
    "flow": lambda: make_flow(),
    "presets": lambda: pcf.PointCloudFlow(
        3, 4, 2, [8, 8, 8], conditioning="film", context_dims=[5], residual=True, masks=[[True, False, False]] * 2
    ),
    "mixture": lambda: pcf.MixtureOfFlows(2, 3, 4, num_couplings=2, hidden_dims=[4]),
    "vae": lambda: pcf.PointCloudVAE(3, 4, num_classes=2, noise_input=True, num_flows=2, decoder={"num_couplings": 2}),
    "auto-decoder": lambda: pcf.models.AutoDecoder(5, 3, 4, prior="normal"),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_state_type_frozen_parameters_and_mode_come_back(path, name, dtype):
    torch.manual_seed(0)
    module = MODELS[name]().to(dtype).eval()
    first = next(iter(dict(module.named_parameters())))
    module.get_parameter(first).requires_grad_(False)
    pcf.save(module, path)
    again = pcf.load(path)
    assert type(again) is type(module)
    assert not again.training
    assert not any(part.training for part in again.modules())
    assert {key: value.requires_grad for key, value in again.named_parameters()} == {
        key: key != first for key, _ in module.named_parameters()
    }
    for key, value in module.state_dict().items():
        found = again.state_dict()[key]
        assert torch.equal(found, value) and found.dtype == dtype if isinstance(value, torch.Tensor) else found == value
    assert {buffer.dtype for buffer in again.buffers() if buffer.is_floating_point()} == {dtype}


def test_a_module_that_was_used_is_saved(path):
    flow = make_flow(act_norm=True, lu_linear=True)
    flow.log_prob(flow.condition().sample((5,))).sum().backward()
    pcf.kernels.set_backend(flow, "plain")
    pcf.save(flow, path)
    pcf.save(pcf.load(path), path)
    assert torch.equal(pcf.load(path).log_prob(torch.zeros(3)), flow.log_prob(torch.zeros(3)))


def test_checksums_are_written_whatever_torch_was_told(path):
    torch.serialization.set_crc32_options(False)
    try:
        pcf.save(make_flow(), path)
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    assert pcf.load(path).normalized


def test_files_without_the_newer_entries_are_read(path):
    pcf.save(make_flow(), path)
    content = torch.load(path)
    del content["frozen"], content["training"]
    torch.save(content, path)
    again = pcf.load(path)
    assert again.training
    assert all(parameter.requires_grad for parameter in again.parameters())


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
            ({"version": VERSION + 1}, rf"format {VERSION + 1} by pyro-pcflow 9\.9.* upgrade"),
            ({"version": "1"}, "expected a format version"),
            (
                {"class": "Linear"},
                r"holds an object of the class 'Linear', .*custom=\[MyClass\]",
            ),
            ({"class": "__import__"}, "holds an object of the class '__import__'"),
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


def test_a_flow_with_parts_of_its_own_ends_with_a_file_of_its_weights(tmp_path):
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[4])
    flow.transform.parts[0] = pcf.transforms.additive_point_coupling(3, hidden_dims=[4])
    options = {
        "max_steps": 2,
        "batch_size": 10,
        "out": tmp_path / "run",
        "logging": pcf.training.Logging(pictures=False),
        "device": "cpu",
    }
    with pytest.warns(UserWarning, match=r"model\.pt holds a state_dict alone.*parts\.0' has elementwise=.*Additive"):
        pcf.fit(flow, torch.randn(100, 3), **options)
    twin = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[4])
    twin.transform.parts[0] = pcf.transforms.additive_point_coupling(3, hidden_dims=[4])
    twin.load_state_dict(torch.load(tmp_path / "run" / "model.pt", weights_only=True))
    points = torch.randn(5, 3)
    assert torch.equal(twin.log_prob(points), flow.log_prob(points))


def test_an_origin_is_kept_to_the_last_bit(tmp_path):
    """Of a flow in float32, beside which a tensor of float64 would be a mixture of types."""
    origin = torch.tensor([701362.1, 4485513.7, 40.25], dtype=torch.float64)
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    flow.normalize(origin + torch.rand(100, 3), origin=origin)
    pcf.save(flow, tmp_path / "flow.pt")
    again = pcf.load(tmp_path / "flow.pt")
    assert torch.equal(again.origin, origin)
    assert again.data_dtype == torch.float64
    content = torch.load(tmp_path / "flow.pt", weights_only=True)
    (name,) = [name for name, value in content["state_dict"].items() if isinstance(value, dict)]
    for wrong in ([1.0], [1.0, 2.0, float("inf")], ["a", "b", "c"], [None] * 3, [[1.0]] * 3):
        content["state_dict"][name]["origin"] = wrong
        torch.save(content, tmp_path / "wrong.pt")
        with pytest.raises(ValueError, match="damaged"):
            pcf.load(tmp_path / "wrong.pt")

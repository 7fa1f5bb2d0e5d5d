"""Which backend a stack takes, and what is said where there is none."""

from __future__ import annotations

import logging

import pytest
import torch

import pyro_pcflow as pcf
from helpers.comparison import example
from pyro_pcflow.kernels import dispatch
from pyro_pcflow.kernels.cpu import build
from pyro_pcflow.kernels.cpu import launch as fused_cpu
from pyro_pcflow.kernels.gpu import launch as fused_gpu
from pyro_pcflow.transforms import coupling_stack


def test_auto_takes_the_fastest(monkeypatch):
    x = torch.randn(4, 250, 3)
    assert dispatch.choose("auto", x, 4) == ("fused" if pcf.kernels.available()["fused"].ok else "tiled")
    assert dispatch.choose("auto", x.double(), 4) == "tiled"
    assert dispatch.choose("fused", x.double(), 4) == "tiled"
    assert dispatch.choose("auto", x.half(), 4) == "plain"
    assert dispatch.choose("auto", x[:, :249].double(), 4) == "plain"
    assert dispatch.choose("tiled", x[:, :249], 4) == "tiled"
    assert dispatch.choose("auto", x[:, :3], 4) == "plain"
    assert dispatch.choose("auto", x, 1000) == "plain"
    assert dispatch.choose("plain", x, 4) == "plain"


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A machine without a compiler, in a process that has not looked for one yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(build.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(dispatch, "_loaded", False)
    for function in (fused_cpu.load, dispatch._fused, dispatch._say_once):
        function.cache_clear()
    yield
    for function in (fused_cpu.load, dispatch._fused, dispatch._say_once):
        function.cache_clear()


def test_without_a_compiler_it_works_and_says_so_once(no_compiler, caplog):
    assert not pcf.kernels.available()["fused"].ok
    assert "no C++ compiler is found" in pcf.kernels.available()["fused"].detail
    stack, x, context = example("plain")
    expected = stack.inverse_and_log_det(x, context)[1]
    pcf.kernels.set_backend(stack, "auto")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            torch.testing.assert_close(stack.inverse_and_log_det(x, context)[1], expected, rtol=1e-5, atol=1e-5)
    assert len(caplog.records) == 1
    assert "no C++ compiler is found" in caplog.text
    pcf.kernels.set_backend(stack, "fused")
    with pytest.raises(ValueError, match="'fused' was asked for, but no C\\+\\+ compiler is found"):
        stack.inverse_and_log_det(x, context)


class NotOurs(torch.nn.Linear):
    """A user's module, whose attributes have names that ours have, too."""

    def __init__(self):
        super().__init__(2, 2)
        self.backend, self.recompute, self.hidden_dtype = "nccl", 3, "half"


def test_modules_of_the_user_are_left_alone():
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    both = torch.nn.ModuleList([NotOurs(), flow])
    pcf.kernels.set_backend(both, "plain")
    assert flow.transform.backend == "plain"
    assert both[0].backend == "nccl"


def test_unknown_backends_are_told():
    with pytest.raises(ValueError, match="auto, plain, tiled, fused, triton, got 'cuda'"):
        coupling_stack(3, backend="cuda")
    with pytest.raises(ValueError, match="got 'fast'"):
        pcf.kernels.set_backend(pcf.PointCloudFlow(3), "fast")


class Pretended:
    """As much of points on a GPU as a choice looks at."""

    def __init__(self, *shape, dtype=torch.float32):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, torch.device("cuda")

    def numel(self):
        return self.shape.numel()


def test_auto_takes_triton_on_a_gpu(monkeypatch):
    monkeypatch.setattr(dispatch, "_triton", lambda: dispatch.Availability(True, "here"))
    assert dispatch.choose("auto", Pretended(4, 100, 3), 4) == "triton"
    assert dispatch.choose("triton", Pretended(4, 1, 3), 4) == "triton"
    assert dispatch.choose("auto", Pretended(4, 1, 3), 4) == "plain"
    assert dispatch.choose("auto", Pretended(4, 100, 9), 4) == "plain"
    for dtype in (torch.float64, torch.float16):
        assert dispatch.choose("triton", Pretended(4, 100, 3, dtype=dtype), 4) == "plain"
    for other in ("plain", "tiled", "fused"):
        assert dispatch.choose(other, Pretended(4, 100, 3), 4) == "plain"
    for module, name in ((torch, "is_autocast_enabled"), (dispatch, "in_function_transform")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: True)
            assert dispatch.choose("triton", Pretended(4, 100, 3), 4) == "plain"


def test_without_triton_it_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(fused_gpu, "TRITON", False)
    dispatch._say_once.cache_clear()
    assert "not installed" in pcf.kernels.available()["triton"].detail
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert dispatch.choose("auto", Pretended(4, 100, 3), 4) == "plain"
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match=r"'triton' was asked for, but Triton.* is not installed"):
        dispatch.choose("triton", Pretended(4, 100, 3), 4)
    dispatch._say_once.cache_clear()


@pytest.mark.skipif(fused_gpu.INTERPRETED, reason="the interpreter takes tensors of a CPU")
def test_points_on_a_cpu_are_refused(monkeypatch):
    monkeypatch.setattr(dispatch, "_triton", lambda: dispatch.Availability(True, "here"))
    with pytest.raises(ValueError, match="'triton' was asked for, but the points are on a CPU"):
        dispatch.choose("triton", torch.randn(4, 100, 3), 4)

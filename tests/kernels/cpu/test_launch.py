"""The compiled kernel on torch's own threads, and where there are none."""

from __future__ import annotations

import ctypes
import multiprocessing
import platform

import pytest
import torch

from helpers.comparison import make
from pyro_pcflow.kernels.cpu import build as compiler
from pyro_pcflow.kernels.cpu import launch as fused_cpu
from pyro_pcflow.transforms.lowering import lower

THREADS = 3


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work():
    """A forward pass and a backward pass, as the operator calls them."""
    try:
        fused_cpu.load()
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))
    stack = make({"point_dim": 3, "num_couplings": 3, "hidden_dims": [24, 20], "context_dim": 4})
    points = torch.randn(3, 500, 3)
    with torch.no_grad():
        arguments = lower(list(stack.parts), torch.randn(3, 4), 3, 3)
    return _Work(points, *arguments)


class _Work:
    def __init__(self, points, program, weights, offsets):
        self.points, self.program, self.weights, self.offsets = points, program, weights, offsets

    def __call__(self):
        out, log_det, saved = fused_cpu.forward(self.program, self.points, self.weights, self.offsets, True, True)
        gradients = fused_cpu.backward(
            self.program, out, saved, self.weights, self.offsets, torch.ones_like(out), log_det, True, True
        )
        return out, log_det, *gradients


@pytest.mark.parametrize("team", ["torch's", "its own"])
def test_threads_change_nothing(work, team, monkeypatch):
    torch.set_num_threads(1)
    expected = work()
    torch.set_num_threads(THREADS)
    if team == "its own":
        monkeypatch.setattr(fused_cpu, "team", lambda: ctypes.c_void_p(None))
    for _ in range(3):
        for got, one in zip(work(), expected, strict=True):
            torch.testing.assert_close(got, one, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="for processors with SSE")
@pytest.mark.parametrize("threads", [1, THREADS])
def test_vanishing_gradients_are_zero_and_the_caller_keeps_subnormal_numbers(work, threads):
    """Arithmetic with subnormal numbers would take ten times as long."""
    torch.set_num_threads(threads)
    out, _, saved = fused_cpu.forward(work.program, work.points, work.weights, work.offsets, True, True)
    vanishing = torch.full_like(out, 1e-40)
    gradients = fused_cpu.backward(
        work.program, out, saved, work.weights, work.offsets, vanishing, torch.zeros_like(out[..., 0]), True, True
    )
    assert not any(gradient.any() for gradient in gradients)
    assert (torch.ones(1000) * vanishing.flatten()[:1000]).all()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent(work):
    torch.set_num_threads(THREADS)
    expected = work()
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    child = forking.Process(target=_send, args=(work, sender))
    child.start()
    try:
        assert receiver.poll(60), "the child hangs"
        got = receiver.recv()
    finally:
        child.kill()
        child.join()
    assert got == [x.flatten().tolist() for x in expected]


def _send(work, sender):
    sender.send([x.flatten().tolist() for x in work()])

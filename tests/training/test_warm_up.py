"""What happens at first use is done before the clock starts; a kernel that comes late takes over between two steps."""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import DiagonalGaussian
from pyro_pcflow.kernels import dispatch as backends
from pyro_pcflow.kernels import operator
from pyro_pcflow.kernels.cpu import build as compiler
from pyro_pcflow.kernels.cpu import launch as fused_cpu
from pyro_pcflow.training.trainer import Trainer
from pyro_pcflow.training.warm_up import WarmUp

CPU = torch.device("cpu")


class Kernel:
    """The fused kernel, not compiled yet: it is there after some seconds, or when it is told to be."""

    def __init__(self, library):
        self.library = library
        self.there = threading.Event()
        self.compiles = 0
        self.seconds = None
        self.error = None

    def load(self, instruction_set=None):
        if not self.there.is_set():
            self.compiles += 1
            self.there.wait(60 if self.seconds is None else self.seconds)
            if self.error is not None:
                raise self.error
            self.there.set()
        return self.library


@pytest.fixture
def kernel(monkeypatch):
    try:
        kernel = Kernel(fused_cpu.load())
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(fused_cpu, "load", kernel.load)
    monkeypatch.setattr(backends, "is_kept", lambda *_: False)
    monkeypatch.setattr(backends, "_loaded", False)
    backends._fused.cache_clear()
    backends._say_once.cache_clear()
    yield kernel
    kernel.there.set()
    while backends._meanwhile is not None:
        time.sleep(0.01)
    backends._fused.cache_clear()
    backends._say_once.cache_clear()


@pytest.fixture
def runs(monkeypatch):
    """Which backends ran, forward and backward."""
    seen = []
    for name, backend in operator.BACKENDS.items():

        def forward(*arguments, name=name, backend=backend):
            seen.append(f"{name} forward")
            return backend.forward(*arguments)

        def backward(*arguments, name=name, backend=backend):
            seen.append(f"{name} backward")
            return backend.backward(*arguments)

        monkeypatch.setitem(operator.BACKENDS, name, operator.Backend(forward, backward))
    return seen


def make(**options):
    torch.manual_seed(0)
    return pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8], **options)


@pytest.fixture
def impatient(monkeypatch):
    """As if `max_seconds` had passed, in no time."""
    wait = backends.BackgroundCompile.wait
    monkeypatch.setattr(backends.BackgroundCompile, "wait", lambda self, seconds=None: wait(self, seconds and 0.0))


POINTS = torch.randn(3000, 3, generator=torch.Generator().manual_seed(1))
OPTIONS = {"batch_size": 1200, "held_out": 0, "device": "cpu"}


def at_step(flow, number, action):
    """Do something as the loss of a step is evaluated."""
    steps = itertools.count()
    log_prob = flow.log_prob

    def watched(points, *arguments):
        if next(steps) == number:
            action()
        return log_prob(points, *arguments)

    flow.log_prob = watched


def test_compiling_takes_nothing_from_max_seconds(kernel, runs, monkeypatch):
    run, there = Trainer.run, []

    def watched(self):
        there.append(kernel.there.is_set())
        run(self)

    monkeypatch.setattr(Trainer, "run", watched)  # where the clock starts
    kernel.seconds = 0.5
    fit(make(), POINTS, max_seconds=60.0, max_steps=5, **OPTIONS)
    assert kernel.compiles == 1
    assert there == [True]
    assert {run.split()[0] for run in runs} == {"fused"}


def test_steps_alone_wait_for_the_kernel_and_end_at_the_same_bits(kernel, runs):
    kernel.seconds = 0.0
    expected = make()
    fit(expected, POINTS, max_steps=4, **OPTIONS)
    backends._fused.cache_clear()
    backends._loaded = False
    kernel.there.clear()
    kernel.seconds = 0.5
    runs.clear()
    got = make()
    fit(got, POINTS, max_steps=4, **OPTIONS)
    assert kernel.compiles == 2
    assert {run.split()[0] for run in runs} == {"fused"}
    for one, other in zip(got.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("works", [True, False])
def test_a_late_kernel_takes_over_between_two_steps(kernel, runs, caplog, works):
    def finish():
        kernel.there.set()
        if not works:
            kernel.error = compiler.KernelUnavailableError("it fails")
        backends._meanwhile.wait()

    kernel.error = None if works else compiler.KernelUnavailableError("it fails")
    flow = make()
    at_step(flow, 3, finish)
    result = fit(flow, POINTS, max_seconds=600.0, max_steps=8, **OPTIONS)
    assert result.steps == 8
    in_torch, fused = (["tiled forward", "tiled backward"], ["fused forward", "fused backward"])
    # The first pair is that of the warm-up; step 3 is not changed in its middle.
    assert runs == 5 * in_torch + 4 * (fused if works else in_torch)
    assert "training starts when the kernel is compiled, or in 600 s in torch" in caplog.text
    assert "training starts in torch, and changes over to the kernel when it is compiled" in caplog.text
    assert ("changes over to the compiled kernel after step 4" in caplog.text) == works


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("comes", [True, False])
def test_torch_leaves_a_core_to_the_compiler(kernel, monkeypatch, comes):
    threads, seen, step = [4], [], Trainer._take_step
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(Trainer, "_take_step", lambda loop: seen.append(threads[-1]) or step(loop))

    def finish():
        kernel.there.set()
        backends._meanwhile.wait()

    flow = make()
    if comes:
        at_step(flow, 3, finish)
    fit(flow, POINTS, max_seconds=600.0, max_steps=8, **OPTIONS)
    assert seen == (4 * [3] + 4 * [4] if comes else 8 * [3])
    assert threads[-1] == 4


@pytest.mark.usefixtures("impatient")
def test_a_kernel_that_comes_after_the_training_is_taken_later(kernel, runs):
    flow = make()
    fit(flow, POINTS, max_seconds=600.0, max_steps=2, **OPTIONS)
    assert {run.split()[0] for run in runs} == {"tiled"}
    flow.log_prob(POINTS)
    assert runs[-1] == "tiled forward"  # and did not wait
    kernel.there.set()
    while backends._meanwhile is not None:
        time.sleep(0.01)
    flow.log_prob(POINTS)
    assert runs[-1] == "fused forward"


def test_a_stack_that_must_be_fused_waits_as_long_as_it_takes(kernel, runs):
    kernel.seconds = 0.8
    fit(make(backend="fused"), POINTS, max_seconds=0.1, max_steps=2, **OPTIONS)
    assert {run.split()[0] for run in runs} == {"fused"}


@pytest.mark.parametrize(
    "module",
    [
        DiagonalGaussian(),
        make(backend="plain"),
        make().double(),
        pcf.PointCloudFlow(9, num_couplings=2, hidden_dims=[8]),
    ],
)
def test_what_needs_no_kernel_compiles_none(kernel, module):
    points = torch.randn(500, getattr(module, "point_dim", 3), dtype=next(module.parameters()).dtype)
    fit(module, points, max_steps=2, device="cpu", batch_size=100, held_out=0)
    assert kernel.compiles == 0


def test_a_run_that_was_interrupted_waits_as_well(kernel, runs, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    kernel.seconds = 0.0
    expected = make()
    fit(expected, POINTS, max_steps=5, **OPTIONS)
    stopped = make()
    at_step(stopped, 2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, POINTS, max_steps=5, out=tmp_path / "run", pictures=False, **OPTIONS)
    backends._fused.cache_clear()
    backends._loaded = False
    kernel.there.clear()
    kernel.seconds = 0.5
    resumed = make()
    runs.clear()
    fit(resumed, POINTS, max_steps=5, out=tmp_path / "run", resume=True, pictures=False, **OPTIONS)
    assert {run.split()[0] for run in runs} == {"fused"}
    for one, other in zip(resumed.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_changes_neither_the_module_nor_the_random_numbers(caplog):
    flow = make(act_norm=True)
    before, random = copy.deepcopy(flow.state_dict()), torch.get_rng_state()
    with caplog.at_level(logging.WARNING), WarmUp(flow, CPU, None) as warm_up:
        warm_up.between_steps(0)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in flow.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(layer.initialized for layer in flow.modules() if hasattr(layer, "initialized"))
    assert all(parameter.grad is None for parameter in flow.parameters())


@pytest.mark.usefixtures("impatient")
def test_available_waits_for_a_kernel_that_is_being_compiled(kernel):
    fit(make(), POINTS, max_seconds=600.0, max_steps=1, **OPTIONS)
    kernel.there.set()
    assert pcf.kernels.available()["fused"].ok

"""Which backends this machine has: tests of one that is missing say why they are skipped."""

from __future__ import annotations

import functools

import pytest

from helpers.comparison import BACKENDS
from pyro_pcflow.kernels.cpu import build as compiler
from pyro_pcflow.kernels.cpu import launch as fused_cpu
from pyro_pcflow.kernels.gpu import launch as fused_gpu


# In Triton's interpreter everything else is as ever; see gpu/test_launch.py, which starts it.
@pytest.fixture(params=["triton"] if fused_gpu.INTERPRETED else BACKENDS)
def backend(request, monkeypatch):
    """The name of a fast backend; the fused one for each of the instruction sets in turn."""
    name, _, instruction_set = request.param.partition(" ")
    if name == "fused":
        try:
            library = fused_cpu.load(instruction_set)
        except compiler.KernelUnavailableError as error:
            pytest.skip(str(error))
        monkeypatch.setattr(fused_cpu, "load", functools.partial(lambda library: library, library))
    return name

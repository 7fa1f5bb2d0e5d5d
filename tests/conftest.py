"""Options and fixtures of the whole suite: `pytest --device cuda --dtype float32`."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest
import torch
from hypothesis import settings

# A script for an earlier version.
collect_ignore = ["files_of_0_1_0/make.py"]

# The same examples on every run, and no limit of time for one: a test fails for what it tests, or not at all.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "ATEN_CPU_CAPABILITY" in os.environ:
    # The cache of torch.compile does not tell this variable apart: code made for other vectors ends in NaN or a crash.
    capability = f"torchinductor_of_{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), capability))

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; threads that wait for each other would take longer than one.
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the arithmetic of the tests runs: cpu or cuda")
    parser.addoption(
        "--dtype",
        default="float64",
        choices=["float32", "float64"],
        help="data type where a test leaves it open",
    )


@pytest.fixture(scope="session")
def device(request):
    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.exit(f"--device {name} was asked for, but torch sees no GPU", returncode=4)
    return torch.device(name)


@pytest.fixture(scope="session")
def dtype(request):
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _validation():
    # The first torch.compile of a process switches it off for all that follow.
    torch.distributions.Distribution.set_default_validate_args(__debug__)

"""The compiled kernel: once, whole, and by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pyro_pcflow.kernels import compiler

pytestmark = pytest.mark.slow

LOAD = "from pyro_pcflow.kernels import fused_cpu; fused_cpu.load('portable')"


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    try:
        compiler.find_compiler()
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))


def start(cache, **environment):
    environment = {**os.environ, compiler.CACHE: str(cache), **environment}
    return subprocess.Popen([sys.executable, "-c", LOAD], env=environment, stderr=subprocess.PIPE, text=True)


def finished(process):
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    return errors


def libraries(cache):
    return sorted(path.name for path in cache.glob("*.so"))


def test_two_at_once_compile_once_and_say_so(tmp_path):
    messages = "".join(finished(process) for process in [start(tmp_path), start(tmp_path)])
    assert messages.count("compiling the fused kernel") == 1
    assert len(libraries(tmp_path)) == 1
    assert finished(start(tmp_path)) == ""


def test_an_interrupted_compile_leaves_nothing_broken(tmp_path):
    """A compiler that stops in the middle of its file, and is killed with its caller."""
    slow = tmp_path / "slow-compiler"
    slow.write_text('#!/bin/sh\nfor last; do :; done\nprintf broken > "$last"\ntouch "$STARTED"\nsleep 100\n')
    slow.chmod(0o755)
    started = tmp_path / "started"
    cache = tmp_path / "cache"
    process = start(cache, CXX=str(slow), STARTED=str(started))
    for _ in range(600):
        if started.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stderr.close()
    assert libraries(cache) == []
    finished(start(cache))
    assert len(libraries(cache)) == 1


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'error: no such flag' >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "cache"))
    with pytest.raises(compiler.KernelUnavailableError, match="status 3: error: no such flag"):
        compiler.compiled("portable")
    assert libraries(tmp_path / "cache") == []


def test_no_place_for_the_result_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "file" / "cache"))
    with pytest.raises(compiler.KernelUnavailableError, match="set PYRO_PCFLOW_CACHE"):
        compiler.compiled("portable")

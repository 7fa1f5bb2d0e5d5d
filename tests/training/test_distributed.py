"""Several processes under torchrun do what one does on the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import shared_run
from helpers.shared_run import run
from pyro_pcflow.training.distributed import start_processes

SCRIPT = Path(shared_run.__file__)


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow", pytest.param("vae", marks=pytest.mark.exhaustive)])
def test_two_processes_have_the_gradients_of_one(kind, tmp_path):
    pytest.importorskip("lightning_fabric")
    ended = torchrun(kind, tmp_path / "two")
    assert ended.returncode == 0, ended.stderr
    expected, result = run(kind, tmp_path / "one")
    for rank in range(2):
        saved = torch.load(tmp_path / f"two.{rank}", weights_only=True)
        torch.testing.assert_close(saved["gradients"], expected, rtol=1e-6, atol=1e-9)
        assert saved["loss"] == pytest.approx(result.history[-1]["loss"], rel=1e-9)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["module"] for name in ("one", "two")]
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=1e-5, atol=1e-8)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_one_process_stays_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = start_processes("auto")
    assert (alone.rank, alone.size, alone.is_first, alone.device) == (0, 1, True, None)
    tensor = torch.ones(2)
    assert alone.mean(tensor) is tensor
    assert alone.from_first(tensor) is tensor
    alone.wait()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"pyro-pcflow\[distributed\]"):
        start_processes("auto")
    with pytest.raises(ValueError, match="each process takes its own"):
        start_processes("cuda:1")

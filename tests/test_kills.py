"""`python -m tests.kills`, of which `make test` runs a few kills and `make test-all` over a hundred."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["train flow", "train vae", "train contexts", "train adamw", "convert", "sample", "score", "matrices"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")]


def kill(*arguments):
    """In a process of its own, which has started no threads before it forks."""
    command = [sys.executable, "-m", "tests.kills", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=1500
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_nothing_is_lost_by_a_few_kills():
    assert "4 kills" in kill("--kills", 4, "--commands", "train flow", "convert")


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_lost_by_many(name):
    kill("--kills", 20, "--seed", 1, "--commands", name)

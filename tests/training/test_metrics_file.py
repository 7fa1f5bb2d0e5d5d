"""Lines of the metrics: whole or not there, and cut off behind the checkpoint."""

from __future__ import annotations

import pytest

from helpers.resumable_run import losses_of, run, stop_at
from pyro_pcflow.training.metrics_file import MetricsFile


def test_a_line_is_whole_or_not_there(tmp_path):
    resource = pytest.importorskip("resource")
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"step": 1})
    whole = metrics.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 5):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, hard))
        try:
            with pytest.raises(OSError, match=r"full|large"):
                metrics.append({"step": 2, "loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert metrics.path.read_bytes() == whole


def test_a_half_written_line_is_dropped(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before_step=stop_at(20))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "loss": 1.0}\n{"step": 22, "lo')
    run(tmp_path)
    assert losses_of(tmp_path) == losses_of(tmp_path / "whole")

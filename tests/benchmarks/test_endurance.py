"""Memory is read while a model trains."""

from __future__ import annotations

import re

import pytest

from benchmarks import endurance


@pytest.mark.slow
def test_endurance_watches_every_training_step(category_file, command, monkeypatch):
    monkeypatch.setattr(endurance, "EVERY", 2)
    out = command(endurance, category_file, "--steps", 7).out
    assert "7 steps" in out
    assert "all finite" in out
    assert len(re.findall(r"resident memory at step 2: \d{2,}\.\d MiB", out)) == 1

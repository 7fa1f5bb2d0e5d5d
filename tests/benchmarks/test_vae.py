"""The race of models of many clouds prints what it promises."""

from __future__ import annotations

import math
import re

import pytest

from benchmarks import vae


@pytest.mark.slow
def test_the_race_prints_its_table(category_file, command):
    contenders = ["ours", "pyro", "prototype"]
    printed = command(vae, category_file, "--seconds", 0.3, "--seeds", 2, "--contenders", *contenders).out
    rows = [line for line in printed.splitlines() if line.startswith("| ellipsoids")]
    assert [row.split(" | ")[1] for row in rows] == ["pyro", "prototype", "ours"]
    for row in rows:
        mean, low, high = map(float, re.findall(r"-?\d+\.\d{3}", row.split(" | ")[2]))
        assert low <= mean <= high
        assert math.isfinite(mean)

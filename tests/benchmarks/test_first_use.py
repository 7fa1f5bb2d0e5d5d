"""Runs with an empty cache and with a full one take turns."""

from __future__ import annotations

import os

from benchmarks import first_use


def test_kinds_take_turns_and_medians_are_compared(command, monkeypatch):
    caches = []

    def train(seconds, environment):
        caches.append(environment.get("PYRO_PCFLOW_CACHE"))
        if caches[-1] is not None:
            assert os.listdir(caches[-1]) == []
        return {"nats": 1.0 if caches[-1] else 1.5, "steps": 10, "trained": seconds, "wall": seconds}

    monkeypatch.setattr(first_use, "train", train)
    lines = command(first_use, "--rounds", 2).out.splitlines()
    assert [cache is None for cache in caches] == [False, True, False, True]
    assert lines[-1] == "medians: 1.000 with an empty cache, 1.500 with a full one, -0.500"

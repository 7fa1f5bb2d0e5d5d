"""The threads that compiled kernels share with torch."""

from __future__ import annotations

import multiprocessing

import pytest

from pyro_pcflow.kernels.cpu import threads


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_they_are_torchs_but_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(threads, "_forked", False)  # the tests may run in a fork themselves
    assert threads.team().value is not None  # every torch for Linux brings OpenMP
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_value) is None


def _value():
    return threads.team().value

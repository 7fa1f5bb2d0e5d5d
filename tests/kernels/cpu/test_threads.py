"""The threads that compiled kernels share with torch."""

from __future__ import annotations

import multiprocessing

import pytest

from pyro_pcflow.kernels.cpu.threads import team


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_they_are_torchs_but_in_a_forked_process():
    assert team().value is not None  # every torch for Linux brings OpenMP
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_value) is None


def _value():
    return team().value

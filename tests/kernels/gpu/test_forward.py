"""The forward kernel for a GPU; its results are those of `test_launch.py`, in Triton's interpreter."""

from __future__ import annotations

import pytest

from helpers.compiled_for_gpus import assert_it_compiles_and_fits, needs_triton, targets
from pyro_pcflow.kernels.gpu import launch
from pyro_pcflow.kernels.gpu.records import CouplingRecord, LayerRecord, NetworkRecord
from pyro_pcflow.kernels.program import Activation


@needs_triton
@pytest.mark.slow
@targets
def test_compiles_for_gpus_and_fits_into_them(capability, tile, tmp_path, monkeypatch):
    from pyro_pcflow.kernels.gpu import forward

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert_it_compiles_and_fits(forward.run, launch.OPTIONS, capability, tile)


@needs_triton
def test_fields_and_activations_are_read_where_they_are_written():
    from pyro_pcflow.kernels.gpu import forward

    for record in (CouplingRecord, NetworkRecord, LayerRecord):
        for place, name in enumerate(record._fields):
            assert getattr(forward, name.upper()).value == place
    for activation in Activation:
        if activation is not Activation.RELU:  # what is left
            assert getattr(forward, activation.name).value == activation

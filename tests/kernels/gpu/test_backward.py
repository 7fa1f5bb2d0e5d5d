"""The backward kernel for a GPU; its results are those of `test_launch.py`, in Triton's interpreter."""

from __future__ import annotations

import pytest

from helpers.compiled_for_gpus import assert_it_compiles_and_fits, needs_triton, targets
from pyro_pcflow.kernels.gpu import launch


@needs_triton
@pytest.mark.slow
@targets
def test_compiles_for_gpus_and_fits_into_them(capability, tile, tmp_path, monkeypatch):
    from pyro_pcflow.kernels.gpu import backward

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert_it_compiles_and_fits(backward.run_back, launch.OPTIONS_BACK, capability, tile)

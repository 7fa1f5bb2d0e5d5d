"""The package without `pyro_pcflow.kernels`: right on the plain way, in processes that do not find the kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
USE = """
import helpers.without_kernels, pytest, sys, torch
helpers.without_kernels.pytest_configure()
import pyro_pcflow as pcf

torch.manual_seed(0)
flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[16])
result = pcf.fit(flow, 5 + torch.randn(500, 3), max_steps=20, batch_size=200, device="cpu")
assert result.history[-1]["step"] == 20
clouds = torch.randn(6, 40, 3)
vae = pcf.PointCloudVAE(3, latent_dim=4, prior="normal")
pcf.fit(vae, clouds, max_steps=2, batch_size=3, device="cpu")
pcf.save(vae, sys.argv[1])
again = pcf.load(sys.argv[1])
for model in (vae, again):
    torch.manual_seed(1)
    model.drawn = model.sample(2, 2000)
assert torch.equal(vae.drawn, again.drawn)
with pytest.raises(ModuleNotFoundError):
    pcf.kernels
with pytest.raises(ValueError, match="'fused' was asked for, but pyro_pcflow.kernels is missing"):
    pcf.transforms.coupling_stack(3, backend="fused").inv(torch.randn(5, 3))
assert not [name for name in sys.modules if name.startswith("pyro_pcflow.kernels")]
"""


def run(*command):
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent, *filter(None, [os.environ.get("PYTHONPATH")]))))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return result.stdout


@pytest.mark.slow
def test_models_are_trained_saved_and_sampled(tmp_path):
    run("-c", USE, tmp_path / "vae.pt")


@pytest.mark.exhaustive
def test_the_registry_of_transforms_passes():
    plugin = ("-p", "helpers.without_kernels", "-p", "no:cacheprovider")
    assert "passed" in run("-m", "pytest", "-q", *plugin, TESTS / "transforms" / "test_registry.py")

"""What must hold after training: inverses, integrals, modes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import pyro_pcflow as pcf


@pytest.fixture(scope="module")
def skull():
    """A real scan with fine detail, which may not be shipped with the package."""
    folder = Path(os.environ.get("PCFLOW_MESHES", Path(__file__).parents[2] / "shared" / "data" / "meshes"))
    if not (folder / "skull.obj").exists():
        pytest.skip("skull.obj is not here: set PCFLOW_MESHES to the folder that holds it")
    points = pcf.data.load_clouds(folder / "skull.obj", 50_000)[0]
    return points / pcf.data.half_extent(points)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coupling", "steps"),
    [
        ("affine", 100),
        ("spline", 30),
        pytest.param("cubic", 30, marks=pytest.mark.exhaustive),
        *(pytest.param(coupling, 400, marks=pytest.mark.exhaustive) for coupling in ("affine", "spline", "cubic")),
    ],
)
def test_round_trip_of_64_couplings_after_training(skull, device, coupling, steps):
    flow = pcf.PointCloudFlow(3, num_couplings=64, hidden_dims=[32, 32], coupling=coupling)
    result = pcf.fit(flow, skull, max_steps=steps, lr=1e-2, noise=0.01, seed=0, device=str(device))
    assert result.nats_per_point > -2.5  # it has learned: a Gaussian stays below
    for dtype, tolerance in [(torch.float32, 1e-4), (torch.float64, 1e-10)]:
        flow.to(device=device, dtype=dtype)
        points = skull[:4096].to(device=device, dtype=dtype)
        with torch.no_grad():
            noise, log_det = flow.transform.inverse_and_log_det(points)
            back, opposite = flow.transform.transform_and_log_det(noise)
            again, _ = flow.transform.inverse_and_log_det(back)
            fresh = torch.randn_like(points)
            there = flow.transform.inverse_and_log_det(flow.transform.transform_and_log_det(fresh)[0])[0]
        assert (back - points).abs().max() <= tolerance
        assert (again - noise).abs().max() <= 20 * tolerance  # noise is the data magnified by the density
        assert (log_det + opposite).abs().max() <= 100 * tolerance
        assert (there - fresh).abs().max() <= 20 * tolerance


@pytest.fixture(scope="module")
def trained(device):
    """A flow trained on the cow, thickened so that a grid resolves it."""
    cow = pcf.data.load_example("spot", 20_000)[0]
    cow = cow / pcf.data.half_extent(cow)
    flow = pcf.PointCloudFlow(3, num_couplings=6, hidden_dims=[32, 32])
    pcf.fit(flow, cow, max_steps=400, noise=0.08, seed=0, device=str(device))
    return flow, cow.to(device)


@pytest.mark.slow
def test_trained_density_integrates_to_one(trained, device):
    """The midpoint rule on a grid of 160 cells a side over a cube of side 5."""
    flow, _ = trained
    cells, side = 160, 5.0
    ticks = (torch.arange(cells, device=device) + 0.5) / cells * side - side / 2
    total = 0.0
    with torch.no_grad():
        for x in ticks:
            plane = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1).reshape(-1, 2)
            points = torch.cat([x.expand(len(plane), 1), plane], 1)
            total += flow.log_prob(points).double().exp().sum().item()
    assert abs(total * (side / cells) ** 3 - 1) < 0.01


@pytest.mark.slow
def test_modes_give_the_same_bits(trained):
    flow, cow = trained
    with torch.no_grad():
        densities = [flow.train(mode).condition().log_prob(cow) for mode in (True, False)]
    assert torch.equal(*densities)


@pytest.mark.slow
def test_samples_have_the_density_of_the_data(trained):
    """E_p[q / p] = 1 with samples of p and a Gaussian q that lies inside its support."""
    flow, cow = trained
    torch.manual_seed(0)
    with torch.no_grad():
        points = flow.condition().sample((100_000,))
        q = torch.distributions.Normal(cow[0], 0.05)
        ratio = (q.log_prob(points).sum(-1) - flow.log_prob(points)).exp()
    error = ratio.std().item() / len(points) ** 0.5
    assert error < 0.1
    assert abs(ratio.mean().item() - 1) < 4 * error

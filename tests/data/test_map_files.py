"""Map coordinates through files of every format, and back: to a millimetre."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from helpers import scan_files
from helpers.cloud_files import put
from helpers.mesh_files import numbers
from pyro_pcflow.cli import main
from pyro_pcflow.data import load_clouds, load_scans, save_clouds
from pyro_pcflow.data.writing_las import write_las
from pyro_pcflow.data.writing_ply import write_ply

UTM = np.array([701362.0, 4485513.0, 40.0])
MILLIMETRE = 1e-3


def cube(count=300):
    return np.random.default_rng(0).uniform(size=(count, 3)).round(3) + UTM


def written(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def hdf5(path, points):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["points"] = points


def e57(path, points):
    pytest.importorskip("pye57")
    fields = {f"cartesian{axis}": (scan_files.double, points[:, place]) for place, axis in enumerate("XYZ")}
    scan_files.write_e57(path, [{"fields": fields}])


def las(path, points):
    pytest.importorskip("laspy")
    write_las(path, dict(zip("xyz", points.T, strict=True)))


def ptx(path, points):
    station = [str(len(points)), "1", "0 0 0", "1 0 0", "0 1 0", "0 0 1", "1 0 0 0", "0 1 0 0", "0 0 1 0"]
    shift = " ".join(map(repr, UTM.tolist()))
    rows = [" ".join([*map(repr, row), "0.5"]) for row in (points - UTM).tolist()]
    put(path.parent, path.name, "\n".join([*station, f"{shift} 1", *rows, ""]).encode())


WRITERS = {
    "a.npy": np.save,
    "a.npz": lambda path, points: np.savez(path, points=points),
    "a.ply": lambda path, points: path.write_bytes(
        written(lambda stream: write_ply(stream, dict(zip("xyz", points.T, strict=True))))
    ),
    "a.xyz": lambda path, points: np.savetxt(path, points, fmt="%.4f"),
    "a.csv": lambda path, points: np.savetxt(path, points, fmt="%.4f", delimiter=",", header="x,y,z", comments=""),
    "a.obj": lambda path, points: path.write_text("".join(f"v {line}\n" for line in numbers(points).splitlines())),
    "a.off": lambda path, points: path.write_text(f"OFF\n{len(points)} 0 0\n{numbers(points)}"),
    "a.pcd": lambda path, points: path.write_bytes(
        scan_files.pcd([(name, "F", 8, 1) for name in "xyz"], list(points.T), "binary")
    ),
    "a.las": las,
    "a.laz": las,
    "a.h5": hdf5,
    "a.e57": e57,
    "a.ptx": ptx,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_keeps_a_millimetre(tmp_path, name):
    points = cube()
    WRITERS[name](tmp_path / name, points)
    (scan,) = load_scans(tmp_path / name)
    assert scan.points.dtype == torch.float32
    assert np.abs(scan.coordinates.numpy() - points).max() < MILLIMETRE
    clouds = load_clouds(tmp_path / name, None)
    assert clouds.dtype == torch.float64
    assert np.abs(clouds[0].numpy() - points).max() < MILLIMETRE


@pytest.mark.parametrize("name", ["b.npy", "b.npz", "b.ply", "b.xyz"])
def test_from_the_file_through_a_flow_and_back(tmp_path, name, monkeypatch):
    """Load, fit, sample, score, save and load again, in Python and on the command line."""
    points = cube(600)
    np.save(tmp_path / "a.npy", points)
    clouds = load_clouds(tmp_path / "a.npy", None)
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    pcf.fit(flow, clouds, max_steps=3, noise=0.01, seed=0)
    assert flow.data_dtype == torch.float64
    pcf.save(flow, tmp_path / "flow.pt")
    again = pcf.load(tmp_path / "flow.pt")
    assert torch.equal(again.origin, flow.origin)
    torch.manual_seed(0)
    samples = again.sample(1, 500)
    # Samples do not lie on the grid of float32, whose steps are half a metre there.
    assert len(samples[0, :, 1].unique()) > 450
    back = load_clouds(save_clouds(samples, tmp_path / name), None)
    assert (back - samples).abs().max() < MILLIMETRE
    with torch.no_grad():
        assert torch.allclose(again.log_prob(back), flow.log_prob(samples), atol=1e-3)
    assert main(["score", str(tmp_path / "flow.pt"), str(tmp_path / name), "--out", str(tmp_path / "scored.ply")]) == 0
    (scored,) = load_scans(tmp_path / "scored.ply", features="scalar_log_density")
    assert (scored.coordinates - samples[0]).abs().max() < MILLIMETRE
    with torch.no_grad():
        assert torch.allclose(scored.features[:, 0].float(), flow.log_prob(samples[0]), atol=1e-3)

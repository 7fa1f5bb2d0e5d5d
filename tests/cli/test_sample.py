"""`pcflow sample`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".ply", ".xyz"])
def test_sample(models, suffix, tmp_path):
    out = tmp_path / f"clouds{suffix}"
    count = 3 if suffix.startswith(".np") else 1
    command = ["sample", str(models["flow"]), "--num-clouds", str(count), "--num-points", "70", "--device", "cpu"]
    command += ["--seed", "6", "--out", str(out)]
    assert main(command) == 0
    torch.manual_seed(6)
    expected = pcf.load(models["flow"]).sample(count, 70)
    assert torch.equal(pcf.data.load_clouds(out, None), expected)
    assert main(command) == 2  # never overwritten


@pytest.mark.parametrize(
    ("name", "options", "ending"),
    [("clouds", [], "ply"), ("clouds.v2/", ["--format", "xyz"], "xyz"), ("new/clouds", ["--format", "npy"], "npy")],
)
def test_a_folder_of_one_file_per_cloud(name, options, ending, models, tmp_path):
    out = f"{tmp_path}/{name}"
    command = ["sample", str(models["flow"]), "--num-clouds", "3", "--num-points", "70", "--seed", "6", "--out", out]
    assert main([*command, *options]) == 0
    folder = tmp_path / name
    assert sorted(path.name for path in folder.iterdir()) == [f"cloud-{number:04}.{ending}" for number in range(3)]
    torch.manual_seed(6)
    assert torch.equal(pcf.data.load_clouds(folder, None), pcf.load(models["flow"]).sample(3, 70))
    before = sorted(folder.iterdir())
    assert main([*command, *options]) == 2
    assert sorted(folder.iterdir()) == before


def test_a_folder_is_there_as_a_whole_or_not_at_all(models, tmp_path, monkeypatch, capsys):
    from pyro_pcflow.data import saving

    save, saved = saving.save_clouds, []

    def fail(*args):
        saved.append(args)
        if len(saved) == 3:
            raise OSError("the disk is full")
        return save(*args)

    monkeypatch.setattr(saving, "save_clouds", fail)
    command = ["sample", str(models["flow"]), "--num-clouds", "4", "--num-points", "9", "--out", str(tmp_path / "new")]
    assert main(command) == 2
    assert capsys.readouterr().err == "pcflow: the disk is full\n"
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_points_that_a_format_lacks(models, tmp_path, capsys):
    assert main(["sample", str(models["flat"]), "--out", str(tmp_path / "new")]) == 2
    assert ".ply holds points of 3 coordinates, got 2" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_the_digits_of_a_model_of_doubles(models, tmp_path):
    words = ["sample", str(models["double"]), "--num-points", "20", "--device", "cpu", "--out"]
    for suffix in ("npy", "xyz"):
        assert main([*words, str(tmp_path / f"a.{suffix}")]) == 0
    assert np.array_equal(np.loadtxt(tmp_path / "a.xyz"), np.load(tmp_path / "a.npy")[0])


def test_samples_are_in_the_frame_of_the_data(tmp_path):
    """Those of a flow of map coordinates, to a millimetre."""
    centre = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)
    flow = pcf.PointCloudFlow(3, num_couplings=1, hidden_dims=[4], base="normal")
    flow.normalize(centre + 0.01 * torch.randn(500, 3, dtype=torch.float64))
    pcf.save(flow, tmp_path / "map.pt")
    words = ["sample", str(tmp_path / "map.pt"), "--num-points", "500", "--out"]
    assert main([*words, str(tmp_path / "a.npy")]) == 0
    assert main([*words, f"{tmp_path}/folder", "--format", "xyz"]) == 0
    points = np.load(tmp_path / "a.npy")[0]
    assert points.dtype == np.float64
    assert np.abs(points.mean(0) - centre.numpy()).max() < 0.01
    assert 0.005 < points.std(0).max() < 0.02
    assert np.array_equal(np.loadtxt(tmp_path / "folder" / "cloud-0000.xyz"), points)

"""`pcflow complete`: what it writes is what `pcf.complete` finds."""

from __future__ import annotations

import json

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main
from pyro_pcflow.distributions import one_sided


@pytest.fixture
def scan(tmp_path):
    torch.manual_seed(1)
    points = 1 + torch.randn(30, 3)
    return pcf.data.save_clouds(points.unsqueeze(0), tmp_path / "scan.npy"), points


def words(model, path, out, *more):
    few = ["--num-samples", "2", "--num-points", "40", "--seed", "5", "--device", "cpu"]
    return ["complete", str(model), str(path), "--out", str(out), *few, *more]


def test_complete(models, scan, tmp_path, capsys):
    path, points = scan
    out = tmp_path / "new" / "whole.npz"
    more = ["--direction", "0", "3", "0", "--softness", "0.2"]
    assert main(words(models["classes"], path, out, "--label", "1", *more)) == 0
    report = out.with_suffix(".json")
    assert f"{out}, {report}" in capsys.readouterr().out
    direction = torch.tensor([0.0, 1.0, 0.0])
    torch.manual_seed(5)
    expected = pcf.complete(
        pcf.load(models["classes"]).eval(),
        points.unsqueeze(0),
        40,
        labels=torch.tensor([1]),
        num_samples=2,
        observe=lambda point: one_sided(point, direction, softness=0.2, num_samples=512),
        fill=lambda point: one_sided(point, direction, softness=0.2, num_samples=512).complement(),
    )
    got = pcf.data.load_clouds(out, None)
    torch.testing.assert_close(got, expected.clouds[:, 0])
    assert torch.equal(got[:, :30], points.expand(2, 30, 3))
    written = json.loads(report.read_text())
    assert (written["method"], written["observed_points"]) == ("hmc", 30)
    assert torch.tensor(written["latents"]["z"]).shape == (2, 2)
    assert main(words(models["classes"], path, out, "--label", "1")) == 2
    assert "whole.npz" in capsys.readouterr().err  # never overwritten


def test_columns_of_a_scan_and_a_result_as_json(models, scan, tmp_path, capsys):
    rows = torch.cat([torch.arange(30.0)[:, None], scan[1]], dim=1)
    rows[4, 2] = torch.nan
    header = "t,E,N,H\n"
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    (tmp_path / "scan.csv").write_text(header + text)
    out = tmp_path / "a.npy"
    more = ["--columns", "E,N,H", "--method", "svi", "--json"]
    assert main(words(models["vae"], tmp_path / "scan.csv", out, *more)) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["out"], found["observed_points"], found["num_clouds"], found["method"]) == (str(out), 29, 2, "svi")
    assert "1 NaN or infinite" in captured.err
    whole = pcf.data.load_clouds(out, None)
    torch.testing.assert_close(whole[0, :29], scan[1][torch.arange(30) != 4])


def test_a_completer_proposes(scan, tmp_path, capsys):
    vae = pcf.PointCloudVAE(
        3, 2, decoder={"num_couplings": 2, "hidden_dims": [8]}, encoder={"point_dims": [8], "hidden_dims": [8]}
    )
    other = pcf.PointCloudVAE(
        3, 2, decoder={"num_couplings": 2, "hidden_dims": [8]}, encoder={"point_dims": [8], "hidden_dims": [8]}
    )
    for name, module in {"vae": vae, "ours": pcf.infer.Completer(vae), "theirs": pcf.infer.Completer(other)}.items():
        pcf.save(module, tmp_path / f"{name}.pt")
    model, out = tmp_path / "vae.pt", tmp_path / "a.ply"
    more = ["--num-samples", "1", "--method", "completer", "--proposal"]
    assert main(words(model, scan[0], out, *more, str(tmp_path / "theirs.pt"))) == 2
    assert "the completer of another model" in capsys.readouterr().err
    assert main(words(model, scan[0], out, *more, str(model))) == 2
    assert "--proposal takes a completer" in capsys.readouterr().err
    assert main(words(model, scan[0], out, *more, str(tmp_path / "ours.pt"))) == 0
    assert pcf.data.load_clouds(out, None).shape == (1, 40, 3)
    assert json.loads(out.with_suffix(".json").read_text())["method"] == "completer"


def test_errors(models, scan, tmp_path, capsys):
    out = tmp_path / "a.npz"
    assert main(words(models["flow"], scan[0], out)) == 2
    assert "one shape, of which nothing is unknown" in capsys.readouterr().err
    assert main(words(models["vae"], scan[0], tmp_path / "a.ply")) == 2
    assert ".ply holds one cloud, got 2" in capsys.readouterr().err
    assert main(words(models["vae"], scan[0], out, "--num-points", "20")) == 2
    assert "no room for 30 observed points" in capsys.readouterr().err
    assert not out.exists()
    assert not out.with_suffix(".json").exists()

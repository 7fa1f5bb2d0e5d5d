"""A small run of the ranks of `complete`."""

from __future__ import annotations

import sys

import pytest

import pyro_pcflow as pcf
from benchmarks import ranks


@pytest.mark.exhaustive
def test_ten_quantities_are_ranked(tmp_path, monkeypatch, capsys):
    decoder = {"base": "mixture", "num_components": 2, "num_couplings": 0, "base_hidden_dims": [4]}
    vae = pcf.PointCloudVAE(latent_dim=3, prior="normal", decoder=decoder)
    monkeypatch.setattr(pcf, "load_pretrained", lambda name: vae)
    command = f"ranks body --out {tmp_path} --points 20 --clouds 3 --draws 8 --chains 4"
    monkeypatch.setattr(sys, "argv", command.split())
    ranks.main()
    table = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    coordinates = [f"{name}[{index}]" for name in ("mean", "spread") for index in range(3)] + ["z[0]", "z[1]"]
    assert table[2:] == [*coordinates, "log prior", "log likelihood", "tarp"]
    assert (tmp_path / "ranks.png").exists()
    assert len((tmp_path / "ranks.jsonl").read_text().splitlines()) == 3

"""`pcflow convert`."""

from __future__ import annotations

import json

import numpy as np
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main


def test_convert(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    pcf.data.save_clouds(torch.randn(3, 60, 3), tmp_path / "data" / "three.npz")
    (tmp_path / "data" / "cow.obj").write_bytes(pcf.data.example_path("spot").read_bytes())
    out = tmp_path / "new" / "all.npy"
    command = ["convert", str(tmp_path / "data"), "--out", str(out), "--num-points", "50", "--seed", "4"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}: 4 clouds of 50 points in 3 dimensions\n"
    expected = pcf.data.load_clouds(tmp_path / "data", 50, seed=4)
    assert torch.equal(pcf.data.MappedClouds(out).read(torch.arange(4)), expected)
    written = out.read_bytes()
    command[-1] = "5"
    assert main(command) == 2
    assert out.read_bytes() == written


def test_convert_takes_a_split_or_asks_for_one(tmp_path, capsys):
    np.savez(tmp_path / "kind.npz", points=np.arange(60.0).reshape(4, 5, 3), split=["train", "test", "train", "val"])
    command = ["convert", str(tmp_path / "kind.npz"), "--num-points", "5", "--out"]
    assert main([*command, str(tmp_path / "out.npy")]) == 2
    words = "holds the splits train, val and test: name one with --split, or take them together with all"
    assert capsys.readouterr().err == f"pcflow: {tmp_path / 'kind.npz'} {words}\n"
    assert not (tmp_path / "out.npy").exists()
    for split, kept in {"train": [0, 2], "test": [1], "all": [0, 1, 2, 3]}.items():
        assert main([*command, str(tmp_path / f"{split}.npy"), "--split", split]) == 0
        assert np.load(tmp_path / f"{split}.npy")[:, 0, 0].tolist() == [15 * number for number in kept]


def test_options_of_the_data_and_a_result_as_json(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(50, 4)) + 4_485_513
    for name in ("a.csv", "b.csv", "c.txt"):
        np.savetxt(tmp_path / name, rows, delimiter=",", header="t,E,N,H", comments="", fmt="%.17g")
    out = tmp_path / "all.npy"
    words = ["convert", str(tmp_path), "--out", str(out), "--num-points", "50", "--columns", "E,N,H", "--json"]
    assert main([*words, "--include", "*.csv"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"out": str(out), "num_clouds": 2, "num_points": 50, "point_dim": 3}
    written = np.load(out)
    assert written.dtype == np.float64
    assert {*map(tuple, written[0].tolist())} == {*map(tuple, rows[:, 1:].tolist())}

"""The check of 1-NNA on sets that are known to be alike or not."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

from benchmarks import separation


def test_axes_are_named_by_where_they_come_from():
    points = torch.tensor([[1.0, 2.0, 3.0]])
    assert separation.turned(points, separation.parse_axes("x,z,-y")).tolist() == [[1.0, 3.0, -2.0]]
    for wrong in ("x,y", "x,x,z", "x,y,w"):
        with pytest.raises(argparse.ArgumentTypeError, match="each of x, y and z once"):
            separation.parse_axes(wrong)


def test_the_table(tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    kinds = {"tall": (30, [0.2, 0.2, 1.0]), "wide": (12, [0.2, 1.0, 0.2])}
    for name, (count, sides) in kinds.items():
        points = generator.normal(size=(count, 50, 3)) * sides
        np.savez(tmp_path / f"{name}.npz", points=points.astype(np.float32))
    files = [str(tmp_path / f"{name}.npz") for name in kinds]
    options = ["--turn", "x,z,-y", "--points", "40", "--halves", "15", "--draws", "2"]
    monkeypatch.setattr("sys.argv", ["separation", *files, *options])
    separation.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[1] for row in rows[1:]] == ["none", "none", "none", "per_cloud", "none", "per_cloud"]
    halves, stored, turned = rows[1:3], rows[3:5], rows[5:]
    for row in (*halves, turned[0]):
        low, high = (float(end.strip(" |%")) for end in row[-1].split(" to "))
        assert low <= float(row[2].split("%")[0]) <= high
    assert all(row[2].startswith("100.0%") for row in stored)

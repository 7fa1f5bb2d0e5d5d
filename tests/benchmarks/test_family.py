"""The comparison of densities reads the names of its members and prints what it promises."""

from __future__ import annotations

import math
import re

import pytest
import trimesh

from benchmarks import family


def test_a_name_is_options_of_a_flow():
    assert family.options_of("mixture 16 + cubic 4x32") == {
        "base": "mixture",
        "num_components": 16,
        "coupling": "cubic",
        "num_couplings": 4,
        "hidden_dims": [32, 32],
    }
    assert family.options_of("mixture 16")["num_couplings"] == 0
    assert family.options_of("default") == {}
    with pytest.raises(ValueError, match=r"expected parts such as .*, got 'cubic 4'"):
        family.options_of("mixture 16 + cubic 4")


@pytest.mark.slow
def test_the_comparison_prints_its_tables(category_file, tmp_path, command):
    mesh = tmp_path / "cube.obj"
    trimesh.creation.box().export(mesh)
    members = ["mixture 8", "affine 2x8"]
    printed = command(
        family, mesh, category_file, "--seconds", 0.1, 0.2, "--seeds", 2, "--rates", 8e-3, "--members", *members
    ).out
    rows = [line for line in printed.splitlines() if line.startswith(("| mixture", "| affine"))]
    assert [row.split(" | ")[0] for row in rows] == ["| mixture 8", "| affine 2x8"] * 2
    for row in rows:
        for cell in row.split(" | ")[2:]:
            mean, low, high = map(float, re.findall(r"-?\d+\.\d{3}", cell)[:3])
            assert low <= mean <= high
            assert math.isfinite(mean)


@pytest.mark.slow
def test_a_sweep_prints_every_run(tmp_path, command):
    mesh = tmp_path / "cube.obj"
    trimesh.creation.box().export(mesh)
    options = ["--scan", 300, "--sweep", "--rates", 4e-3, 8e-3, "--betas", 0.99, 0.999, "--batch-sizes", 64]
    printed = command(family, mesh, "--seconds", 0.1, "--members", "affine 2x8", *options).out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| cube")]
    assert [row[2:5] for row in rows] == [[lr, "64", beta] for lr in ("0.004", "0.008") for beta in ("0.99", "0.999")]
    assert all(math.isfinite(float(row[-2])) for row in rows)

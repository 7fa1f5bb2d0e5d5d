"""The tables of densities of single meshes."""

from __future__ import annotations

import re
from functools import partial

import pytest

import pyro_pcflow as pcf
from benchmarks import density
from benchmarks.density import Run, contender_rows, mesh_rows

SPOT = pcf.data.example_path("spot")


def run(contender, mesh, test, **others):
    told = {"steps": 5, "seconds": 1.0, "validation": 0.0, "diverged_at": None, "stored": 1234, "milliseconds": 7.0}
    return Run(mesh=mesh, contender=contender, seed=0, setting={}, test=test, **told | others)


def test_contenders_are_compared_mesh_by_mesh_and_the_best_comes_first():
    runs = [run("a", "m", 1.0), run("a", "n", 2.0, diverged_at=5), run("b", "m", 3.0), run("b", "n", 1.0)]
    assert contender_rows(runs, {"m": 0.5, "n": 2.5}) == [
        "| b | 2.000 | +0.500 (least -1.500) | 1.0 | 5 | 0 | 1,234 | 7 |",
        "| a | 1.500 | +0.000 (least -0.500) | 1.0 | 5 | 1 | 1,234 | 7 |",
    ]
    assert contender_rows(runs[:1], {"m": None}) == ["| a | 1.000 |  | 1.0 | 5 | 0 | 1,234 | 7 |"]


def test_each_mesh_has_a_line_with_the_runs_of_all():
    runs = [run("a", "m", 1.0), run("b", "m", 3.0), run("a", "m", 2.0), run("b", "m", 3.5), run("a", "n", 7.0)]
    assert mesh_rows(runs, {"m": 4.0, "n": None}) == [
        "| m | 4.000 | 1.500 (1.000 to 2.000) | 3.250 (3.000 to 3.500) |",
        "| n |  | 7.000 (7.000 to 7.000) |",
    ]


def test_contenders_on_a_scan(command, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(density, "load_shape", partial(density.load_shape, num_scored=500))
    names = ["kernel density", density.BAR, "ours, by default"]
    options = ["--scan", 200, "--raw", "--seconds", 0.1, "--seeds", 1, "--log", tmp_path / "log"]
    lines = command(density, SPOT, *options, "--contenders", *names).out.splitlines()
    assert f"above {density.BAR}" in lines[0]
    of_contenders, of_meshes = lines[2:5], lines[6:]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in of_contenders}
    assert set(rows) == set(names)
    assert all(row.count("|") == lines[0].count("|") for row in rows.values())
    assert "+0.000 (least +0.000)" in rows[density.BAR]
    by_validation, by_test = (float(re.findall(r"-?\d+\.\d{3}", rows[name])[0]) for name in names[:2])
    assert by_validation <= by_test + 1e-3
    assert of_meshes[0] == f"| mesh | {density.BAR} | kernel density | ours, by default |"
    assert of_meshes[2].startswith("| spot | ")
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_a_rival_that_is_not_installed_is_told(command, capsys, monkeypatch):
    monkeypatch.setattr(density, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        command(density, SPOT, "--contenders", "zuko")
    assert "pip install 'pyro-pcflow[bench]'" in capsys.readouterr().err


def test_raw_points_have_no_true_density(command, capsys):
    with pytest.raises(SystemExit):
        command(density, SPOT, "--exact", "--raw")
    assert "leave --raw out" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_on_a_mesh_all_are_below_the_true_density(command, monkeypatch):
    monkeypatch.setattr(density, "load_shape", partial(density.load_shape, num_scored=500))
    names = ["pyro", "ours, by default"]
    lines = command(density, SPOT, "--seconds", 0.5, "--seeds", 2, "--contenders", *names).out.splitlines()
    assert "above the true density" in lines[0]
    true, *scores = (float(cell.split()[0]) for cell in lines[-1].strip("| ").split(" | ")[1:])
    assert len(scores) == 2
    assert max(scores) < true

"""Errors of poses by hand, and a line of the table."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks import robust


def pose(quaternion=(1.0, 0.0, 0.0, 0.0), translation=(0.0, 0.0, 0.0), scale=1.0):
    rotation = pcf.transforms.rotation_matrix(torch.tensor(quaternion).double())
    return pcf.transforms.Similarity(rotation, torch.tensor(translation).double(), torch.tensor(scale).double())


def test_errors_by_hand():
    points = torch.eye(3).double()
    same = robust.errors(pose(), pose(), points)
    assert same == robust.Errors(0.0, pytest.approx(0.0, abs=1e-5), 0.0, 0.0)
    # A quarter about z carries x to y and y to -x, each over sqrt(2), and leaves z.
    quarter = robust.errors(pose((math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5))), pose(), points)
    assert quarter.degrees == pytest.approx(90)
    assert quarter.points == pytest.approx(2 * math.sqrt(2) / 3)
    moved = robust.errors(pose(translation=(3.0, 4.0, 0.0), scale=2.0), pose(), points)
    assert (moved.translation, moved.scale) == (pytest.approx(5), pytest.approx(math.log(2)))


def test_a_line_has_medians_and_ratios():
    trials = [
        robust.Trial(robust.Errors(*[clean] * 4), robust.Errors(*[2 * clean] * 4), robust.Errors(*[9.0] * 4), auroc)
        for clean, auroc in [(0.1, 0.9), (0.2, 1.0), (0.7, 0.95)]
    ]
    cells = robust.row("cube", trials).strip("| ").split(" | ")
    assert cells[:3] == ["cube", "0.2, 0.4 (2.00), 9", "0.2°, 0.4° (2.00), 9°"]
    assert cells[-1] == "0.950 (least 0.900)"


@pytest.mark.slow
def test_the_table(command, monkeypatch):
    monkeypatch.setattr(robust, "STAGES", ((2, 1, 0.03), (1, 1, 0.005)))
    options = ["--scans", 1, "--train-steps", 5, "--steps", 3]
    lines = command(robust, pcf.data.example_path("spot"), *options).out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| spot", "| all"]

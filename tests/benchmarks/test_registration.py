"""Regions of registrations by hand, scans, and the table."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks import registration
from pyro_pcflow.transforms import rotation_from_vector


def modes(weight=(0.5, 0.5)):
    """Two poses, a half turn about z apart, each known to 0.1 radians and 0.2 units."""
    rotation = rotation_from_vector(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, math.pi]]).double())
    covariance = torch.diag(torch.tensor([0.1] * 3 + [0.2] * 3).double() ** 2).expand(2, 6, 6)
    zero = torch.zeros(2, 3).double()
    return pcf.infer.PoseModes(torch.tensor(weight).double(), rotation, zero, torch.ones(2), covariance, zero[:, 0])


def test_density_of_two_modes_by_hand():
    turned = rotation_from_vector(torch.tensor([[0.2, 0.0, 0.0]]).double())
    of_rotation, of_translation = registration.log_density(
        modes((0.7, 0.3)), turned, torch.tensor([[0.0, 0.4, 0.0]]).double()
    )
    expected = math.log(0.7) - 2.0 - 3 * math.log(0.1) - 1.5 * math.log(2 * math.pi)
    assert of_rotation.item() == pytest.approx(expected, abs=1e-6)
    assert of_translation.item() == pytest.approx(-2.0 - 3 * math.log(0.2) - 1.5 * math.log(2 * math.pi))


@pytest.mark.exhaustive
def test_regions_hold_what_they_say():
    """Of truths drawn as the draws are, nine of ten are covered, whichever mode they belong to."""
    torch.manual_seed(0)

    def draw(count):
        both = modes()
        mode = torch.arange(count) % 2
        rotation = both.rotation[mode] @ rotation_from_vector(0.1 * torch.randn(count, 3).double())
        return rotation, 0.2 * torch.randn(count, 3).double()

    rotation, translation = draw(4000)
    found = SimpleNamespace(modes=modes(), rotation=rotation, translation=translation)
    covered = torch.tensor([registration.covers(found, *pose) for pose in zip(*draw(500), strict=True)])
    assert ((covered.double().mean(0) - 0.9).abs() < 3 * (0.09 / 500) ** 0.5).all()
    far = rotation_from_vector(torch.tensor([0.0, 0.0, math.pi / 2]).double())
    assert registration.covers(found, far, torch.full((3,), 9.0).double()) == (False, False)


def test_a_scan_is_the_object_in_its_pose_with_outliers_last():
    points = torch.randn(500, 3)
    scan, rotation, translation = registration.make_scan(points, 3)
    back = (scan - translation) @ rotation
    near = torch.cdist(back, points).amin(1) < 0.01
    assert scan.shape == (300, 3)
    assert near[:285].all()
    assert not near[285:].any()
    assert torch.equal(scan, registration.make_scan(points, 3)[0])
    low, high = scan[:285].amin(0), scan[:285].amax(0)
    assert ((scan[285:] >= low) & (scan[285:] <= high)).all()


def test_a_line_has_shares_with_their_errors():
    trials = [registration.Trial(i < 9, i < 5, float(i), 0.1 * i, 1, 0.9, 2.0) for i in range(10)]
    cells = registration.row("cube", trials).strip("| ").split(" | ")
    assert cells == [
        "cube",
        "10",
        "90.0% ± 9.5%",
        "50.0% ± 15.8%",
        "4.5° (most 9°)",
        "0.45 (most 0.9)",
        "1.00",
        "0.900",
        "2.00",
    ]


@pytest.mark.exhaustive
def test_the_table(command, tmp_path):
    options = ["--seconds", 1, "--scans", 1, "--draws", 50, "--flows", tmp_path]
    lines = command(registration, pcf.data.example_path("spot"), *options).out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| spot", "| all"]
    assert (tmp_path / "spot.pt").exists()

"""A small run of the chains that take turns."""

from __future__ import annotations

import sys

import torch
import trimesh

from benchmarks import chains


def test_contenders_take_turns(tmp_path, monkeypatch, capsys):
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.obj")
    monkeypatch.setattr(chains, "NUM_CHAINS", 2)
    command = f"chains {tmp_path / 'box.obj'} --scans 1 --train-steps 2 --steps 4 --warmup 1"
    monkeypatch.setattr(sys, "argv", command.split())
    chains.main()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows == ["chains", "---", "NUTS", "NUTS, TorchScript", "sample_posterior"]


def test_the_slowest_coordinate_counts():
    """Independent draws but of one coordinate, which hardly moves."""
    torch.manual_seed(0)
    translation = torch.randn(4, 200, 3)
    offset = 0.1 * torch.randn(4, 200, 4)
    of_all = chains.effective_draws({"pose_quaternion_offset": offset, "pose_translation": translation})
    assert of_all > 400
    stuck = translation.clone()
    stuck[..., 1] = torch.randn(4, 1)
    assert chains.effective_draws({"pose_quaternion_offset": offset, "pose_translation": stuck}) < 20

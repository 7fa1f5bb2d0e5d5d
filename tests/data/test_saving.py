"""What is saved is loaded back, and nothing is overwritten."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".ply", ".xyz"])
def test_saved_clouds_come_back(suffix, tmp_path):
    clouds = torch.randn(1, 40, 3)
    path = pcf.data.save_clouds(clouds, tmp_path / f"cloud{suffix}")
    back = pcf.data.load_clouds(path, 40)
    # A loader may draw the points in another order.
    order = [sorted(cloud[0].tolist()) for cloud in (clouds, back)]
    torch.testing.assert_close(*map(torch.tensor, order))
    with pytest.raises(FileExistsError):
        pcf.data.save_clouds(clouds, path)
    torch.testing.assert_close(pcf.data.load_clouds(path, 40), back)


@pytest.mark.parametrize(
    ("shape", "name", "words"),
    [
        ((2, 5, 3), "a.ply", "one cloud"),
        ((1, 5, 2), "a.ply", "3 coordinates"),
        ((5, 3), "a.npy", r"\(S, N, D\)"),
        ((1, 5, 3), "a.obj", ".npz"),
    ],
)
def test_what_a_format_cannot_hold_is_told(shape, name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        pcf.data.save_clouds(torch.randn(shape), tmp_path / name)
    assert not list(tmp_path.iterdir())

"""The pictures of a run: what they are asked for, and what they leave alone."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.training import Logging, pictures
from pyro_pcflow.training.inputs import as_clouds

CAMERA = {"up": "z", "azim": 30.0}


@pytest.fixture
def drawn(monkeypatch):
    """What is asked of each function that draws, by its name, in place of the drawing."""
    calls = []
    for name in ("plot_clouds", "animate", "save_html"):
        monkeypatch.setattr(pictures, name, lambda *args, name=name, **options: calls.append((name, args, options)))
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: path)
    return calls


@pytest.fixture
def flow():
    return pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])


@pytest.fixture
def vae():
    small = {"num_couplings": 2, "hidden_dims": [8]}
    return pcf.PointCloudVAE(3, 4, num_classes=3, decoder=small, encoder={"point_dims": [8]}, prior_options=small)


def labelled_clouds():
    clouds = torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(0))
    return as_clouds((clouds, torch.tensor([2, 0, 1])), torch.float32, 3, torch.device("cpu"))


def test_each_picture_of_a_flow_has_the_camera(drawn, flow, tmp_path):
    pictures.write_pictures(flow, torch.randn(50, 3), tmp_path, num_points=20, **CAMERA)
    assert [name for name, _, _ in drawn] == ["plot_clouds", "animate", "animate", "save_html"]
    for _, _, options in drawn:
        assert options.items() >= CAMERA.items()


def test_each_picture_of_clouds_has_the_camera(drawn, vae, tmp_path):
    pictures.write_cloud_pictures(vae, labelled_clouds(), tmp_path, num_points=20, **CAMERA)
    assert [name for name, _, _ in drawn] == ["plot_clouds"] * 3 + ["animate", "save_html"]
    for _, _, options in drawn:
        assert options.items() >= CAMERA.items()


def test_a_reconstruction_has_the_class_of_its_cloud(drawn, vae, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        vae, "reconstruct", lambda cloud, count, labels, check: asked.append(labels.item()) or torch.zeros(count, 3)
    )
    pictures.write_cloud_pictures(vae, labelled_clouds(), tmp_path, num_points=20)
    assert asked == [2, 0, 1]


def test_random_numbers_are_left_alone_and_a_seed_repeats_the_samples(drawn, flow, vae, tmp_path):
    found = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        pictures.write_pictures(
            flow, torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), tmp_path, seed=seed
        )
        assert torch.equal(torch.get_rng_state(), state)
        pictures.write_cloud_pictures(vae, labelled_clouds(), tmp_path, num_points=20, seed=seed)
        sheets = [args[0] for name, args, _ in drawn if name == "plot_clouds"]
        found.append((sheets[0]["samples"], sheets[1]))
        drawn.clear()
        torch.rand(1)
    for first, again, other in zip(*found, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_a_wrong_camera_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="up: expected"):
        pictures.Pictures(up="w")
    with pytest.raises(TypeError, match="pictures must be True, False, or a callback"):
        Logging(pictures={"up": "z"})

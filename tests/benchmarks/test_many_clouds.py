"""The rival VAE is a density and learns; the commands about many clouds print what they promise."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import pyro_pcflow as pcf
from benchmarks import bodies, demo, endurance, pretrain, vae
from benchmarks.pyro_vae import PyroCloudVAE


def make_rival():
    torch.manual_seed(0)
    rival = PyroCloudVAE(
        3,
        4,
        num_couplings=3,
        hidden_dims=(8, 8),
        prior_couplings=2,
        prior_hidden_dims=(8,),
        encoder={"point_dims": [8]},
    ).double()
    for parameter in rival.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rival.normalize(2 + 3 * torch.randn(50, 3, dtype=torch.float64))
    return rival


def density_by_autograd(stack, value):
    """`log N(noise) + log |det d noise / d value|`, with the Jacobian by autograd."""

    def noise_of(point):
        for transform in reversed(stack.transforms):
            point = transform.inv(point)
        return point

    jacobian = torch.autograd.functional.jacobian(noise_of, value).reshape(value.numel(), -1)
    return Normal(0, 1).log_prob(noise_of(value)).sum() + jacobian.slogdet().logabsdet


def test_pyros_decoder_has_the_density_that_autograd_computes():
    rival = make_rival()
    z = torch.randn(2, 4, dtype=torch.float64)
    clouds = 2 + torch.randn(2, 5, 3, dtype=torch.float64)
    got = rival.decode(z, 5).log_prob(clouds)
    one = [rival.decode(row, 1).base_dist.stack for row in z]
    for i in range(2):
        expected = sum(density_by_autograd(one[i], point.unsqueeze(0)) for point in clouds[i])
        torch.testing.assert_close(got[i], expected)


def test_pyros_prior_has_the_density_that_autograd_computes():
    prior = make_rival().latent_prior()
    z = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z), density_by_autograd(prior.stack, z))


def test_pyros_decoder_takes_several_latents_of_one_cloud():
    """As the importance-weighted bound asks of it."""
    rival = make_rival()
    z, clouds = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    got = rival.decode(z, 5).log_prob(clouds)
    expected = torch.stack([rival.decode(particle, 5).log_prob(clouds) for particle in z])
    torch.testing.assert_close(got, expected)
    assert rival.log_prob(clouds, num_particles=3).shape == (2,)


def test_pyros_vae_sees_its_new_weights():
    """Scoring one tensor twice with a step between, which Pyro's own cache would answer from memory."""
    rival = make_rival()
    z, clouds = torch.randn(1, 4, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    for _ in range(2):
        got = rival.latent_prior().log_prob(z), rival.decode(z, 5).log_prob(clouds)
        fresh = make_rival()
        fresh.load_state_dict(rival.state_dict())
        expected = fresh.latent_prior().log_prob(z), fresh.decode(z, 5).log_prob(clouds)
        torch.testing.assert_close(got, expected)
        with torch.no_grad():
            for parameter in rival.parameters():
                parameter.add_(0.1)


def test_contenders_have_as_many_parameters():
    ours, pyros = (vae.count_parameters(make()) for make in (vae.ours, vae.pyros))
    assert abs(pyros - ours) < 0.03 * ours


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    """Forty clouds, each an ellipsoid of its own."""
    path = tmp_path_factory.mktemp("data") / "ellipsoids.npz"
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 2048, 3, generator=generator) * torch.rand(40, 1, 3, generator=generator)
    split = np.array(["train"] * 24 + ["val"] * 8 + ["test"] * 8)
    np.savez(path, points=points.numpy(), split=split)
    return path


@pytest.mark.slow
def test_the_race_prints_its_table(category, monkeypatch, capsys):
    command = ["vae", str(category), "--seconds", "0.3", "--seeds", "2", "--contenders", "ours", "pyro", "prototype"]
    monkeypatch.setattr("sys.argv", command)
    vae.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ellipsoids")]
    assert [row.split(" | ")[1] for row in rows] == ["pyro", "prototype", "ours"]
    for row in rows:
        mean, low, high = map(float, re.findall(r"-?\d+\.\d{3}", row.split(" | ")[2]))
        assert low <= mean <= high
        assert math.isfinite(mean)


@pytest.mark.slow
def test_bodies_are_found_and_walks_measured(category, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    model = pcf.PointCloudVAE(3, 8, decoder={"num_couplings": 4, "hidden_dims": [16]}, encoder={"point_dims": [16]})
    with np.load(category) as file:
        model.normalize(torch.from_numpy(file["points"]))
    pcf.save(model, tmp_path / "model.pt")
    monkeypatch.setattr("sys.argv", ["bodies", str(tmp_path / "model.pt"), str(category), "--walks", "2"])
    bodies.main()
    out = capsys.readouterr().out
    assert "the other 7 test bodies" in out
    assert "2 walks, all finite" in out
    assert len(re.findall(r"(walk|blend, matched|blend, unmatched): 0\.\d{5}", out)) == 3


def test_chamfer_by_hand():
    """One cloud at the origin, the other at distances 1 and 2: (1 + 4) / 2 there and 1 back."""
    x, y = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert bodies.chamfer(x, bodies.trees_of(torch.stack([y, y]))) == pytest.approx([3.5, 3.5])
    assert bodies.matched(y, y.flip(0)).tolist() == y.tolist()


@pytest.mark.slow
def test_the_demo_trains_on_bodies(tmp_path, capsys):
    demo.train_bodies(tmp_path / "bodies", seconds=0.5)
    assert "nats per cloud" in capsys.readouterr().out
    assert {"samples.png", "reconstructions.png", "walk.png", "walk.webp", "walk.html"} <= {
        path.name for path in (tmp_path / "bodies").iterdir()
    }


@pytest.mark.slow
def test_pretraining_leaves_a_model_and_its_curve(category, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr("sys.argv", ["pretrain", str(category), "--seconds", "0.5", "--out", str(out)])
    pretrain.main()
    printed = re.search(r"test split, 8 clouds: (-?\d+\.\d{3}) nats per point", capsys.readouterr().out)
    with np.load(category) as file:
        test = torch.from_numpy(file["points"][file["split"] == "test"])
        noise = 0.01 * pcf.data.half_side(torch.from_numpy(file["points"][file["split"] == "train"]))
    again = vae.score(pcf.load(out / "model.pt"), test, noise)["nats_per_point"]
    assert float(printed[1]) == pytest.approx(again, abs=1e-3)
    assert (out / "curve.png").stat().st_size > 10_000


@pytest.mark.slow
def test_endurance_watches_every_training_step(category, monkeypatch, capsys):
    monkeypatch.setattr(endurance, "EVERY", 2)
    monkeypatch.setattr("sys.argv", ["endurance", str(category), "--steps", "7"])
    endurance.main()
    out = capsys.readouterr().out
    assert "7 steps" in out
    assert "all finite" in out
    assert len(re.findall(r"resident memory at step 2: \d{2,}\.\d MiB", out)) == 1

"""The rivals without a density: their mathematics by brute force, their shapes, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pyro_pcflow as pcf
from benchmarks.cloud_gan import GAMES, GENERATORS, CloudGAN, play
from benchmarks.decoder_vae import DECODERS, DecoderVAE, matched_gaussian, squared_to_nearest
from benchmarks.point_generators import FixedPoints, Folding
from helpers.ellipsoids import ellipsoids


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_the_nearest_are_those_of_brute_force(batch, n, m, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, m, dim, generator=generator, dtype=torch.float64)
    got = squared_to_nearest(x, y)
    for b in range(batch):
        for i in range(n):
            expected = min(float(((x[b, i] - y[b, j]) ** 2).sum()) for j in range(m))
            assert float(got[b, i]) == pytest.approx(expected, abs=1e-12)


def test_matched_gaussian_is_the_density_of_each_point_around_its_nearest():
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    distances = torch.cdist(x, y).square()
    there, back = distances.amin(2), distances.amin(1)
    variance = (there.mean() + back.mean()) / 6
    normal = torch.distributions.Normal(0.0, variance.sqrt())

    def density(squared):
        # Whatever the direction of the difference, a Gaussian with one variance knows its length alone.
        return normal.log_prob(squared.sqrt()) + 2 * normal.log_prob(torch.zeros_like(squared))

    expected = (density(there).mean(1) + density(back).mean(1)) / 2
    torch.testing.assert_close(matched_gaussian(x, y), expected)


def test_the_variance_is_the_best_for_the_batch():
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    squared = squared_to_nearest(x, y).mean() + squared_to_nearest(y, x).mean()

    def value(variance):
        return -1.5 * math.log(2 * math.pi * variance) - float(squared) / (4 * variance)

    best = max(value(float(squared) / 6 * factor) for factor in torch.linspace(0.5, 2, 301).tolist())
    assert float(matched_gaussian(x, y).mean()) == pytest.approx(best, abs=1e-4)


def test_matched_gaussian_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    y = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    matched_gaussian(x, y).sum().backward()
    got, y.grad = y.grad, None
    # With the best variance put in, the sum over a batch of one is a logarithm of the distance.
    distances = torch.cdist(x, y).square()
    (-1.5 * (distances.amin(2).mean() + distances.amin(1).mean()).log()).backward()
    torch.testing.assert_close(got, y.grad)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_decoder_learns_and_gives_clouds_of_the_right_shape(kind):
    clouds = ellipsoids()
    torch.manual_seed(0)
    vae = DecoderVAE(64, latent_dim=8, decoder_kind=kind)
    vae.normalize(clouds)

    def error():
        again = vae.reconstruct(clouds, 64)
        return float(squared_to_nearest(clouds, again).mean())

    before = error()
    result = pcf.fit(vae, clouds, held_out=0, max_steps=60, lr=4e-3, points_per_cloud=64, device="cpu", progress=False)
    assert error() < 0.5 * before
    assert all(math.isfinite(line["loss"]) for line in result.history)
    assert vae.sample(5, 48).shape == (5, 48, 3)
    assert vae.reconstruct(clouds[:2], 64).shape == (2, 64, 3)


def test_the_decoder_has_no_density():
    vae = DecoderVAE(16, latent_dim=4)
    with pytest.raises(TypeError, match="no density"):
        vae.log_prob(torch.randn(2, 16, 3))


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(ValueError, match="decoder_kind must be one of fixed, folding"):
        DecoderVAE(16, decoder_kind="flow")
    with pytest.raises(ValueError, match="writes 16 points and cannot give 17"):
        DecoderVAE(16, latent_dim=4).sample(1, 17)
    with pytest.raises(ValueError, match="got a mask"):
        DecoderVAE(16, latent_dim=4).model(torch.randn(2, 16, 3), torch.ones(2, 16, dtype=torch.bool))


def test_a_part_of_the_fixed_points_is_a_part_of_them():
    torch.manual_seed(0)
    network, z = FixedPoints(4, 10, 2), torch.randn(3, 4)
    every, part = network(z), network(z, 6)
    matches = (part.unsqueeze(2) == every.unsqueeze(1)).all(-1)
    assert matches.sum(2).eq(1).all()
    assert matches.sum(1).max() == 1


def test_folding_carries_noise_to_points_of_its_cloud_alone():
    torch.manual_seed(0)
    network, z = Folding(4, 2), torch.randn(3, 4)
    torch.manual_seed(1)
    points = network(z, 7)
    z[1:] += 1
    torch.manual_seed(1)
    again = network(z, 7)
    assert points.shape == (3, 7, 2)
    torch.testing.assert_close(points[0], again[0])
    assert not torch.allclose(points[1], again[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", GENERATORS)
def test_the_game_moves_samples_to_the_data(kind):
    """Thin shells far from where an untrained generator starts."""
    torch.manual_seed(0)
    clouds = 5 * nn.functional.normalize(torch.randn(12, 64, 3), dim=-1)
    gan = CloudGAN(32, latent_dim=8, generator_kind=kind)
    gan.units.fit(clouds)

    def away():
        return float((gan.sample(12, 32).norm(dim=-1) - 5).square().mean())

    before = away()
    assert play(gan, clouds, max_steps=80, lr=2e-3, batch_size=12) == 80
    assert away() < 0.5 * before
    assert gan.sample(5, 32).shape == (5, 32, 3)
    assert all(parameter.requires_grad for parameter in gan.parameters())


@pytest.mark.parametrize("game", GAMES)
def test_a_critic_learns_to_tell_generated_clouds(game):
    torch.manual_seed(0)
    gan = CloudGAN(32, latent_dim=8, game=game)
    gan.generator.requires_grad_(False)
    real = nn.functional.normalize(torch.randn(12, 32, 3), dim=-1)
    optimizer = torch.optim.Adam(gan.critic.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        losses.append(gan.critic_loss(real))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert gan.critic(real).mean() > gan.critic(gan.generate(12, 32)).mean()


def test_a_game_repeats_from_its_seed():
    def played(seed):
        torch.manual_seed(0)
        gan = CloudGAN(16, latent_dim=4, critic_steps=2)
        play(gan, ellipsoids(), max_steps=3, seed=seed)
        return torch.cat([parameter.flatten() for parameter in gan.generator.parameters()])

    state = torch.get_rng_state()
    first = played(5)
    torch.set_rng_state(state)
    assert torch.equal(first, played(5))
    assert not torch.equal(first, played(6))


def test_the_wgan_penalty_is_that_of_finite_differences():
    """A critic that is linear in the clouds has one slope everywhere, the norm of its weights."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.randn(6, 3, dtype=torch.float64)

        def forward(self, clouds):
            return (clouds * self.weight).sum((-2, -1))

    torch.manual_seed(0)
    gan = CloudGAN(6, latent_dim=4, game="wgan-gp").double()
    gan.critic = Linear()
    real = torch.randn(5, 6, 3, dtype=torch.float64)
    slope = (gan.critic.weight.square().sum() * 6).sqrt()
    gan.generate = lambda *_: real
    assert float(gan.critic_loss(real)) == pytest.approx(float(10 * (slope - 1) ** 2))


def test_a_game_that_diverges_says_so_and_keeps_a_finite_generator():
    torch.manual_seed(0)
    gan = CloudGAN(16, latent_dim=4)
    with pytest.raises(pcf.training.TrainingDivergedError, match="diverged at step"):
        play(gan, ellipsoids(), max_steps=200, lr=1e30)
    assert gan.sample(3, 16).isfinite().all()


def test_a_game_needs_players_that_exist():
    with pytest.raises(ValueError, match="generator_kind in"):
        CloudGAN(16, game="chess")
    with pytest.raises(ValueError, match="at least one step"):
        CloudGAN(16, critic_steps=0)

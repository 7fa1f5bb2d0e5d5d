"""The game: its penalty in closed form, its seeds, and that its samples move to the data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from benchmarks.rivals.gan import GAMES, GENERATORS, CloudGAN, play
from helpers.ellipsoids import ellipsoids


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

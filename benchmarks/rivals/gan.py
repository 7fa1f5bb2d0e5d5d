"""A rival: a generative adversarial network of point clouds, trained as a game."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import pyro_pcflow as pcf
from benchmarks.common.randomness import generator_for, some_points
from benchmarks.rivals.point_generators import FixedPoints, Folding, perceptron

GENERATORS = ("fixed", "folding")
GAMES = ("wgan-gp", "r1")
# The first is that of the paper. The second is one that did well in a few single runs on the val split of body, which
# differed in more than it. Both are on slopes as `_slopes` has them.
WGAN_PENALTY, R1_PENALTY = 10.0, 1.0
# The average of the generator forgets as that of pcf.fit does.
AVERAGE_DECAY = 0.999
WARMUP_STEPS = 50


class Critic(nn.Module):
    """A number for a cloud: a network of every point, maximum and mean over them, and another network.

    Qi et al., PointNet, CVPR 2017; the mean beside the maximum lets it see densities, too.

    Args:
        point_dim: number of coordinates `D`.
        point_dims: widths of the network that is applied to every point.
        hidden_dims: widths of the hidden layers of the other.
    """

    def __init__(
        self, point_dim: int = 3, point_dims: Sequence[int] = (64, 128, 256), hidden_dims: Sequence[int] = (256,)
    ) -> None:
        super().__init__()
        self.points = perceptron([point_dim, *point_dims])
        self.cloud = perceptron([2 * point_dims[-1], *hidden_dims, 1])

    def forward(self, clouds: Tensor) -> Tensor:
        """Shape `(B,)` for clouds of shape `(B, N, D)`."""
        hidden = nn.functional.silu(self.points(clouds))
        return self.cloud(torch.cat([hidden.amax(-2), hidden.mean(-2)], -1)).squeeze(-1)


class CloudGAN(nn.Module):
    """A generator and its critic. It has no density, so no nats per point.

    The defaults are those of the best of eight single runs on the val split of body, 40 seconds each on a busy core,
    about a hundred steps: an early choice, not a search. `"wgan-gp"` was tried at one learning rate alone.

    Args:
        num_points: number of points that a generator of the kind "fixed" writes.
        point_dim: number of coordinates `D`.
        latent_dim: size of a latent.
        generator_kind: `"fixed"`, see `FixedPoints`, the r-GAN of Achlioptas et al., Learning representations and
            generative models for 3D point clouds, ICML 2018; or `"folding"`, see `Folding`.
        game: `"wgan-gp"` (Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017), or `"r1"`, the
            game with logistic losses and a penalty on the critic's gradient at real clouds (Mescheder, Geiger and
            Nowozin, Which training methods for GANs do actually converge?, ICML 2018).
        critic_steps: steps of the critic for one of the generator.
    """

    def __init__(
        self,
        num_points: int,
        point_dim: int = 3,
        latent_dim: int = 64,
        *,
        generator_kind: str = "folding",
        game: str = "r1",
        critic_steps: int = 1,
    ) -> None:
        super().__init__()
        if generator_kind not in GENERATORS or game not in GAMES:
            raise ValueError(
                f"expected generator_kind in {GENERATORS} and game in {GAMES}, got {generator_kind!r} and {game!r}"
            )
        if critic_steps < 1:
            raise ValueError(f"the critic needs at least one step for one of the generator, got {critic_steps}")
        self.num_points = num_points
        self.latent_dim = latent_dim
        self.game = game
        self.critic_steps = critic_steps
        self.units = pcf.transforms.standardize(point_dim)
        self.generator: nn.Module
        if generator_kind == "fixed":
            self.generator = FixedPoints(latent_dim, num_points, point_dim, hidden_dims=(256, 512))
        else:
            self.generator = Folding(latent_dim, point_dim, noise_dim=8)
        self.critic = Critic(point_dim)

    def generate(self, num_clouds: int, num_points: int) -> Tensor:
        """Clouds in standard units, with gradients, shape `(num_clouds, num_points, D)`."""
        z = torch.randn(num_clouds, self.latent_dim, dtype=self.units.loc.dtype, device=self.units.loc.device)
        return self.generator(z, num_points)

    def sample(self, num_clouds: int, num_points: int) -> Tensor:
        """New clouds in the data's units, shape `(num_clouds, num_points, D)`."""
        with torch.no_grad():
            return self.units.transform_and_log_det(self.generate(num_clouds, num_points))[0]

    def critic_loss(self, real: Tensor) -> Tensor:
        """What the critic minimises on real clouds of shape `(B, N, D)` and as many generated ones."""
        with torch.no_grad():
            false = self.generate(*real.shape[:2])
        if self.game == "wgan-gp":
            shares = torch.rand(len(real), 1, 1, dtype=real.dtype, device=real.device)
            between = torch.lerp(real, false, shares).requires_grad_()
            penalty = (_slopes(self.critic(between), between).sqrt() - 1).square().mean()
            return self.critic(false).mean() - self.critic(real).mean() + WGAN_PENALTY * penalty
        real = real.detach().requires_grad_()
        judged = self.critic(real)
        logistic = nn.functional.softplus(self.critic(false)).mean() + nn.functional.softplus(-judged).mean()
        return logistic + R1_PENALTY / 2 * _slopes(judged, real).mean()

    def generator_loss(self, num_clouds: int, num_points: int) -> Tensor:
        """What the generator minimises."""
        judged = self.critic(self.generate(num_clouds, num_points))
        return -judged.mean() if self.game == "wgan-gp" else nn.functional.softplus(-judged).mean()


def _slopes(judged: Tensor, clouds: Tensor) -> Tensor:
    """Squared norms of the critic's gradient at clouds, times the number of points, shape `(B,)`.

    A mean over points has a gradient that shrinks with their number; a penalty should not.
    """
    (gradient,) = torch.autograd.grad(judged.sum(), clouds, create_graph=True)
    return (gradient.square().sum((-2, -1)) * clouds.shape[-2]).clamp(min=1e-12)


def play(
    gan: CloudGAN,
    clouds: Tensor,
    *,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    lr: float = 2e-3,
    seed: int = 0,
    batch_size: int = 32,
    points_per_cloud: int = 256,
) -> int:
    """Train the game with Adam, whose rates fall to zero along half a cosine, and leave the averaged generator.

    Args:
        gan: the players.
        clouds: training clouds, shape `(S, N, D)`.
        max_seconds: seconds to train for.
        max_steps: steps of the generator to train for.
        lr: the highest rate of both players.
        seed: decides the batches and all noise.
        batch_size: clouds in a step.
        points_per_cloud: points that the critic sees of a cloud.

    Returns:
        The steps of the generator.

    Raises:
        TrainingDivergedError: if a loss or a weight stops being finite. The generator then holds its last average
            that was finite.
    """
    count = min(points_per_cloud, gan.num_points, clouds.shape[1])
    step = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not gan.units.fitted:
            gan.units.fit(clouds.flatten(0, 1))
        players = {"critic": gan.critic, "generator": gan.generator}
        optimizers = {
            name: torch.optim.Adam(player.parameters(), lr=lr, betas=(0.0, 0.9), fused=True)
            for name, player in players.items()
        }
        weights = list(gan.generator.parameters())
        averages = [weight.detach().clone() for weight in weights]
        start = time.perf_counter()
        try:
            while (progress := _progress(step, time.perf_counter() - start, max_steps, max_seconds)) < 1.0:
                rate = lr * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1.0 + math.cos(math.pi * progress))
                losses = []
                for turn in range(gan.critic_steps):
                    batch = _batch(clouds, step * gan.critic_steps + turn, batch_size, count, seed)
                    real = gan.units.inverse_and_log_det(batch)[0]
                    losses.append(_move(optimizers["critic"], gan.critic_loss(real), rate))
                gan.critic.requires_grad_(False)
                losses.append(_move(optimizers["generator"], gan.generator_loss(len(real), count), rate))
                gan.critic.requires_grad_(True)
                new = [weight.detach() for weight in weights]
                if not bool(torch.stack([*losses, *(weight.sum() for weight in new)]).isfinite().all()):
                    raise pcf.training.TrainingDivergedError(
                        f"the game diverged at step {step + 1}: the losses, of the generator last, are "
                        f"{[float(loss) for loss in losses]}, or a weight of the generator is not finite",
                        step=step + 1,
                        first_nonfinite=None,
                    )
                step += 1
                torch._foreach_lerp_(averages, new, 1 - min(AVERAGE_DECAY, step / (step + 10)))
        finally:
            gan.critic.requires_grad_(True)
            with torch.no_grad():
                for weight, average in zip(weights, averages, strict=True):
                    weight.copy_(average)
    return step


def _progress(step: int, seconds: float, max_steps: int | None, max_seconds: float | None) -> float:
    """The share of the training that is over."""
    return max(0.0 if max_steps is None else step / max_steps, 0.0 if max_seconds is None else seconds / max_seconds)


def _batch(clouds: Tensor, step: int, batch_size: int, num_points: int, seed: int) -> Tensor:
    """Some points of some clouds, of other clouds in each step of an epoch."""
    size = min(batch_size, len(clouds))
    epoch, index = divmod(step, len(clouds) // size)
    order = torch.randperm(len(clouds), generator=generator_for(seed, f"epoch {epoch}")).to(clouds.device)
    chosen = clouds[order[index * size : (index + 1) * size]]
    return some_points(chosen, num_points, generator_for(seed, f"points {step}"))


def _move(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> Tensor:
    """One step of one player; its loss."""
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()

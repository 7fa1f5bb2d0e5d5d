"""Small densities to train, one of them through transforms like the library's own."""

from __future__ import annotations

import math

import torch
from torch import nn


class DiagonalGaussian(nn.Module):
    """A Gaussian whose maximum-likelihood estimate is known in closed form."""

    def __init__(self, point_dim=3):
        super().__init__()
        self.point_dim = point_dim
        self.loc = nn.Parameter(torch.zeros(point_dim))
        self.log_scale = nn.Parameter(torch.zeros(point_dim))

    def log_prob(self, points):
        noise = (points - self.loc) * torch.exp(-self.log_scale)
        return (-0.5 * noise.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)


class NormalizedGaussian(DiagonalGaussian):
    """The same in units that it takes from the training points."""

    def __init__(self, point_dim=3):
        super().__init__(point_dim)
        self.context_dim = 0
        self.config = {"point_dim": point_dim}
        self.register_buffer("mean", torch.zeros(point_dim))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("is_normalized", torch.tensor(False))

    @property
    def normalized(self):
        return bool(self.is_normalized)

    def normalize(self, points):
        self.mean.copy_(points.mean(0))
        self.std.copy_((points - self.mean).square().mean().sqrt())
        self.is_normalized.fill_(True)

    def log_prob(self, points):
        return super().log_prob((points - self.mean) / self.std) - self.point_dim * self.std.log()


class Shift(nn.Module):
    """A transform in one pass; the layer that breaks at a call is planted here."""

    def __init__(self, point_dim, width=16):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(point_dim - 1, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 2), Breakable()
        )

    def inverse_and_log_det(self, y):
        shift, log_scale = self.network(y[..., 1:]).unbind(-1)
        log_scale = torch.tanh(log_scale)
        moved = y[..., 0] * log_scale.exp() + shift
        return torch.cat([y[..., 1:], moved.unsqueeze(-1)], -1), log_scale


class Breakable(nn.Module):
    """The identity, until it is told to break."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.break_at = None
        self.value = math.inf

    def forward(self, x):
        self.calls += 1
        return x * self.value if self.break_at is not None and self.calls >= self.break_at else x


class SmallStack(nn.Module):
    """Couplings with dropout and a running statistic, so that every kind of state matters."""

    def __init__(self, point_dim=3, num_couplings=3, before_step=None, tracks=True):
        super().__init__()
        self.point_dim = point_dim
        self.layers = nn.ModuleList(Shift(point_dim) for _ in range(num_couplings))
        self.register_buffer("running_mean", torch.zeros(point_dim))
        self.before_step = before_step
        self.tracks = tracks
        self.calls = 0

    def log_prob(self, points):
        if self.training:
            self.calls += 1
            if self.before_step is not None:
                self.before_step(self.calls)
            if self.tracks:
                self.running_mean.lerp_(points.detach().mean(0), 0.1)
        total = points.new_zeros(points.shape[:-1])
        for layer in self.layers:
            points, log_det = layer.inverse_and_log_det(points)
            total = total + log_det
        return total - 0.5 * (points.square() + math.log(2 * math.pi)).sum(-1)


def small_stack(**options):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return SmallStack(**options)


def some_points(count=2000, point_dim=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 2.0, point_dim)
    return torch.randn(count, point_dim, generator=generator) * scale + torch.arange(point_dim)


def same_state(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )

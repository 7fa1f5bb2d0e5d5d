"""Particles that are carried from a proposal to a posterior, on the way from where they have equal weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_pcflow.infer.hmc import TARGET_ACCEPTANCE, LogDensities, State, Tempered, move

__all__ = ["Population", "annealed", "num_candidates", "resampled"]

# Draws of the proposal, or of the prior, of which some are where chains start, at least, and for each chain: by
# importance weights, which are flattened until so many effective candidates per chain are left.
CANDIDATES, CANDIDATES_PER_CHAIN, HAVE_A_SAY = 512, 8, 1.5
# Share of the particles that have a say at the next temperature, and how much higher it is at least.
KEPT, LEAST_RISE, LOWEST = 0.5, 1.25, 1e-3
# Halvings that find a temperature, and a log-weight of nothing, which is still a number times zero.
HALVINGS, NOTHING = 30, -1e30
# The first step size, in units of the root of a covariance, and the gain of its adaptation.
STEP_SIZE, STEP_GAIN = 0.35, 0.5
# From where particles are, (chains, *batch, L), and temperatures (*batch,), to a root of the covariance (*batch, L, L).
FindRoot = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Population:
    """Particles on the way from a proposal to a target.

    Attributes:
        noise: where they are, shape `(chains, *batch, L)`.
        temperature: how far they have come, from 0 at the proposal to 1 at the target, shape `(*batch,)`.
        step_size: of the trajectories that carry them, shape `(*batch,)`.
    """

    noise: Tensor
    temperature: Tensor
    step_size: Tensor


def num_candidates(num_chains: int) -> int:
    """How many draws `resampled` has to choose from."""
    return max(CANDIDATES, CANDIDATES_PER_CHAIN * num_chains)


def resampled(candidates: Tensor, path: LogDensities, num_chains: int, *, distinct: bool) -> Population:
    """Some of many draws of a proposal, as far on the way to the target as importance weights reach.

    Weights are flattened until more candidates have a say than there are chains.

    Args:
        candidates: draws of the proposal, shape `(candidates, *batch, L)`.
        path: log-densities of the proposal, and of the target over it, up to constants.
        num_chains: how many are wanted.
        distinct: whether to draw without replacement, so that no two chains start from one candidate; otherwise
            draws are as many of each as it has weight.
    """
    with torch.no_grad():
        height = torch.cat([path(noise)[1] for noise in candidates.split(num_chains)])
        height = _finite(height)
        temperature = _reached(height, 0.0, HAVE_A_SAY * num_chains)
        weights = (temperature * height).softmax(0)
        chosen = _distinct(weights, num_chains) if distinct else _systematic(weights, num_chains)
        return Population(_at(candidates, chosen), temperature, torch.full_like(temperature, STEP_SIZE))


def annealed(path: LogDensities, population: Population, find_root: FindRoot, *, num_leapfrogs: int) -> Population:
    """Carry particles to the target: sequential Monte Carlo along the geometric path.

    In turn, the temperature rises as far as half of the particles keep a say, particles are drawn by their weights, and
    all are moved by a trajectory of Hamiltonian Monte Carlo (Del Moral, Doucet and Jasra, Sequential Monte Carlo
    samplers, Journal of the Royal Statistical Society B 2006; Jasra, Stephens, Doucet and Tsagaris, Inference for
    Lévy-driven stochastic volatility models via adaptive sequential Monte Carlo, Scandinavian Journal of Statistics
    2011). So a mode gets as many particles as it has mass, which chains alone, that cannot go from one to another, do
    not bring about.

    Args:
        path: log-densities of the proposal, and of the target over it, up to constants.
        population: as `resampled` returns it.
        find_root: the scale of the steps at a temperature.
        num_leapfrogs: of each trajectory.
    """
    position, temperature, step_size = population.noise, population.temperature, population.step_size
    with torch.no_grad():
        gain = path(position)[1]
    while (temperature < 1).any():
        gain = _finite(gain)
        after = _reached(gain, temperature, KEPT * len(position))
        after = torch.maximum(after, (LEAST_RISE * temperature).clamp(min=LOWEST)).clamp(max=1)
        position = _at(position, _systematic(((after - temperature) * gain).softmax(0), len(position)))
        temperature = after
        target = Tempered(path, temperature)
        root = find_root(position, temperature)
        state, log_acceptance = move(target, State.at(target, position), step_size, num_leapfrogs, root)
        position, gain = state.position, state.log_likelihood
        surplus = (log_acceptance.exp().mean(0) - TARGET_ACCEPTANCE).to(step_size)
        step_size = step_size * (STEP_GAIN * surplus).exp()
    return Population(position, temperature, step_size)


def _finite(gain: Tensor) -> Tensor:
    """Log-weights of which those of particles that left the numbers, or the support, are next to nothing."""
    return gain.nan_to_num(nan=NOTHING, neginf=NOTHING)


def _reached(gain: Tensor, temperature: Tensor | float, least: float) -> Tensor:
    """The highest temperature at which so many of particles `(particles, *batch)` have a say, shape `(*batch,)`."""
    low, high = torch.zeros_like(gain[0]) + temperature, torch.ones_like(gain[0])
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        weights = ((middle - temperature) * gain).softmax(0)
        enough = weights.square().sum(0).reciprocal() > least
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    # All of the way, if that is what is left.
    return torch.where(high == 1, high, low)


def _systematic(weights: Tensor, count: int) -> Tensor:
    """So many particles `(count, *batch)` by weights `(particles, *batch)`: `count w` of each, up or down at random."""
    flat = weights.movedim(0, -1).reshape(-1, len(weights))
    places = (torch.arange(count, device=weights.device) + torch.rand(len(flat), 1).to(weights)) / count
    chosen = torch.searchsorted(flat.cumsum(-1), places.to(flat)).clamp(max=len(weights) - 1)
    return chosen.T.reshape(count, *weights.shape[1:])


def _distinct(weights: Tensor, count: int) -> Tensor:
    """So many different particles `(count, *batch)`, drawn by weights `(particles, *batch)` without replacement."""
    flat = weights.movedim(0, -1).reshape(-1, len(weights))
    return torch.multinomial(flat, count).T.reshape(count, *weights.shape[1:])


def _at(particles: Tensor, chosen: Tensor) -> Tensor:
    return particles.gather(0, chosen.unsqueeze(-1).expand(*chosen.shape, particles.shape[-1]))

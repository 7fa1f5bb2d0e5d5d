"""Hamiltonian Monte Carlo for many chains of many problems at once, and what tells whether they mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["HmcResult", "LogDensities", "State", "Target", "Tempered", "move", "sample_hmc"]

# Stochastic approximation of the logarithm of the step size (Andrieu and Thoms, A tutorial on adaptive MCMC, Statistics
# and Computing 2008, section 4.2.2). The mean over chains is so sure that a few steps are enough.
TARGET_ACCEPTANCE, GAIN, DECAY = 0.8, 1.5, 0.6
# Nats of energy that a trajectory may lose before it counts as divergent (Betancourt, A conceptual introduction to
# Hamiltonian Monte Carlo, 2017, section 6.2; the threshold is Stan's).
LOST_ENERGY = 1000.0
# From noise (chains, *batch, L) to the log-densities of prior and likelihood, (chains, *batch) each.
LogDensities = Callable[[Tensor], tuple[Tensor, Tensor]]
# From noise to the log-density that is sampled, and the log-likelihood, (chains, *batch) each.
Target = Callable[[Tensor], tuple[Tensor, Tensor]]
# From where chains are, (chains, *batch, L), to the root of what the covariance is about there, (*batch, L, L).
FindRoot = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tempered:
    """The logarithm of prior times likelihood to some power, up to a constant.

    Args:
        log_densities: of prior and likelihood.
        exponent: of the likelihood, a number or one per problem, shape `(*batch,)`.
    """

    log_densities: LogDensities
    exponent: Tensor | float = 1.0

    def __call__(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density and the log-likelihood, shape `(chains, *batch)`."""
        log_prior, log_likelihood = self.log_densities(noise)
        return log_prior + self.exponent * log_likelihood, log_likelihood


@dataclass(frozen=True, eq=False)
class HmcResult:
    """Chains.

    Attributes:
        noise: kept draws, shape `(num_steps, chains, *batch, L)`.
        log_likelihood: at the draws, not tempered, shape `(num_steps, chains, *batch)`.
        log_acceptance: log-probability of acceptance of the trajectory to each draw, `-inf` where it left the numbers,
            shape `(num_steps, chains, *batch)`.
        step_size: shape `(*batch,)`.
    """

    noise: Tensor
    log_likelihood: Tensor
    log_acceptance: Tensor
    step_size: Tensor

    @property
    def acceptance(self) -> Tensor:
        """Mean probability of acceptance, shape `(*batch,)`."""
        return self.log_acceptance.exp().mean((0, 1))

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Of each draw, by the names of ArviZ, shape `(num_steps, chains, *batch)`: see `Chains.statistics`."""
        return {
            "acceptance_rate": self.log_acceptance.exp(),
            "diverging": self.log_acceptance < -LOST_ENERGY,
            "step_size": self.step_size.expand(self.log_acceptance.shape),
        }


def sample_hmc(
    target: Target,
    start: Tensor,
    *,
    num_steps: int,
    warmup_steps: int,
    num_leapfrogs: int = 8,
    root: Tensor | FindRoot | None = None,
    step_size: Tensor | float = 0.1,
) -> HmcResult:
    """Hamiltonian Monte Carlo (Neal, MCMC using Hamiltonian dynamics, 2011), vectorised over chains and problems.

    A step is a trajectory of a random number of leapfrogs, the same for all. The step size of each problem is adapted
    in the warm-up to a mean acceptance of 0.8 over its chains. A trajectory that leaves the numbers is rejected.

    Args:
        target: what is sampled.
        start: where chains start, shape `(chains, *batch, L)`.
        num_steps: trajectories that are kept.
        warmup_steps: trajectories before them.
        num_leapfrogs: mean number of leapfrogs of a trajectory.
        root: root of what the covariance is about, shape `(*batch, L, L)`, or what finds it from where chains
            are, asked at the start and amid the warm-up; the identity by default.
        step_size: the first step size, in units of `root`, a number or shape `(*batch,)`.

    Returns:
        The chains.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> def log_densities(x):
        ...     return -0.5 * x.square().sum(-1), -0.5 * (x - 1).square().sum(-1)
        >>> result = sample_hmc(Tempered(log_densities), torch.zeros(50, 3, 2), num_steps=40, warmup_steps=20)
        >>> result.noise.shape, bool((result.noise.mean((0, 1)) - 0.5).abs().max() < 0.2)
        (torch.Size([40, 50, 3, 2]), True)
    """
    state = State.at(target, start)
    log_step = torch.as_tensor(step_size).to(start).log().expand(start.shape[1:-1])
    matrix = root(start) if callable(root) else root
    draws, likelihoods, log_acceptances = [], [], []
    for step in range(warmup_steps + num_steps):
        if callable(root) and 0 < step == warmup_steps // 2:
            matrix = root(state.position)
        leapfrogs = int(torch.randint(max(1, num_leapfrogs // 2), num_leapfrogs + num_leapfrogs // 2 + 1, ()))
        state, log_acceptance = move(target, state, log_step.exp(), leapfrogs, matrix)
        if step >= warmup_steps:
            draws.append(state.position)
            likelihoods.append(state.log_likelihood)
            log_acceptances.append(log_acceptance)
            continue
        surplus = (log_acceptance.exp().mean(0) - TARGET_ACCEPTANCE).to(log_step)
        log_step = log_step + GAIN * (step + 1) ** -DECAY * surplus
    return HmcResult(torch.stack(draws), torch.stack(likelihoods), torch.stack(log_acceptances), log_step.exp())


@dataclass(frozen=True, eq=False)
class State:
    """Where chains are, `(chains, *batch, L)`, and there the log-density, its gradient and the log-likelihood."""

    position: Tensor
    value: Tensor
    gradient: Tensor
    log_likelihood: Tensor

    @classmethod
    def at(cls, target: Target, position: Tensor) -> State:
        """The state at some positions."""
        position = position.detach().requires_grad_()
        with torch.enable_grad():
            value, log_likelihood = target(position)
            (gradient,) = torch.autograd.grad(value.sum(), position)
        return cls(position.detach(), value.detach(), gradient, log_likelihood.detach())


def move(
    target: Target, state: State, step_size: Tensor, num_leapfrogs: int, root: Tensor | None
) -> tuple[State, Tensor]:
    """One trajectory of every chain, and its log-probability of acceptance.

    Args:
        target: what is sampled.
        state: where chains are.
        step_size: of each problem, shape `(*batch,)`.
        num_leapfrogs: of the trajectory.
        root: see `sample_hmc`.

    Returns:
        Where chains are then, and log-probabilities, shape `(chains, *batch)`.
    """
    momentum = torch.randn_like(state.position)
    log_joint = state.value - 0.5 * momentum.square().sum(-1)
    size, moved = step_size.unsqueeze(-1), state
    for _ in range(num_leapfrogs):
        momentum = momentum + 0.5 * size * _times(root, moved.gradient, transposed=True)
        moved = State.at(target, moved.position + size * _times(root, momentum))
        momentum = momentum + 0.5 * size * _times(root, moved.gradient, transposed=True)
    change = moved.value - 0.5 * momentum.square().sum(-1) - log_joint
    log_acceptance = torch.where(change.isnan(), -torch.inf, change.clamp(max=0))
    accepted = torch.rand_like(log_acceptance) < log_acceptance.exp()
    chosen = accepted.unsqueeze(-1)
    return State(
        torch.where(chosen, moved.position, state.position),
        torch.where(accepted, moved.value, state.value),
        torch.where(chosen, moved.gradient, state.gradient),
        torch.where(accepted, moved.log_likelihood, state.log_likelihood),
    ), log_acceptance


def _times(root: Tensor | None, vectors: Tensor, *, transposed: bool = False) -> Tensor:
    if root is None:
        return vectors
    return ((root.mT if transposed else root) @ vectors.unsqueeze(-1)).squeeze(-1)

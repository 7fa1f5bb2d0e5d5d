"""Ways to draw from the posterior over the noise of partial clouds: guides, chains, a completer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_pcflow.infer.chains import Chains, gathered
from pyro_pcflow.infer.completer import Completer
from pyro_pcflow.infer.hmc import Tempered, sample_hmc
from pyro_pcflow.infer.noise_space import BASE_SUFFIX, NoiseSpace, non_centred, without_validation
from pyro_pcflow.infer.population import annealed, num_candidates, resampled

__all__ = ["by_hmc", "by_nuts", "by_proposal", "by_svi"]

# Random gradients of all chains by which the information of the points is found, which is the scale of the steps.
NUM_GRADIENTS = 64
# Mean number of leapfrogs of a trajectory, and their number where a temperature has a single one.
NUM_LEAPFROGS, AT_A_TEMPERATURE = 5, 7


def by_svi(
    space: NoiseSpace,
    model: Callable[[], None],
    num_samples: int,
    num_steps: int,
    init: Callable,
    lr: float,
    guide: Callable,
) -> tuple[Tensor, dict[str, Any]]:
    """Fit a guide to each cloud: draws, shape `(num_samples, *batch, L)`, and diagnostics."""
    model = non_centred(model)
    autoguide = guide(model, init_loc_fn=init)
    elbo = Trace_ELBO()
    elbo.differentiable_loss(model, autoguide)  # a new guide has no parameters before its first run
    parameters = list(autoguide.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / num_steps))
    losses = []
    for _ in range(num_steps):
        loss = elbo.differentiable_loss(model, autoguide)
        # Only for the guide, so that no gradient gathers in the flow.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        draws = [autoguide() for _ in range(num_samples)]
    return space.join({name: torch.stack([draw[name] for draw in draws]) for name in space.names}), {"losses": losses}


def by_nuts(
    space: NoiseSpace,
    model: Callable[[], None],
    num_samples: int,
    num_chains: int,
    num_steps: int,
    warmup_steps: int,
    init: Callable,
) -> tuple[Tensor, dict[str, Any], Chains]:
    """Chains one after the other: some of their draws, shape `(num_samples, *batch, L)`, diagnostics, all draws."""
    chains = []
    for _ in range(num_chains):
        kernel = NUTS(non_centred(model), init_strategy=init)
        chain = MCMC(kernel, num_samples=num_steps, warmup_steps=warmup_steps, disable_progbar=True)
        chain.run()
        chains.append(chain)
    noise = torch.stack([space.join(chain.get_samples()) for chain in chains], 1)
    diagnostics = chains[0].diagnostics()
    if num_chains > 1:
        diagnostics |= _mixing(noise, {})
    diverging = torch.zeros(num_steps, num_chains, dtype=torch.bool)
    for index, chain in enumerate(chains):
        diverging[chain.diagnostics()["divergences"]["chain 0"], index] = True
    return _thinned(noise, num_samples), diagnostics, gathered(space, noise, diverging=diverging)


def by_hmc(
    space: NoiseSpace,
    partial: Tensor,
    mask: Tensor,
    labels: Tensor | None,
    proposal: Completer | None,
    temper: float | None,
    num_samples: int,
    num_chains: int,
    num_steps: int,
    warmup_steps: int,
) -> tuple[Tensor, dict[str, Any], Chains]:
    """Many short chains of each cloud: some draws, shape `(num_samples, *batch, L)`, diagnostics, all draws."""
    space.check_that_chains_are_apart()
    exponent = _exponent(temper, proposal, mask)
    exponent = exponent if exponent.shape == space.batch_shape else exponent.mean()
    count = num_candidates(num_chains)
    candidates = space.from_prior(count)
    prior_deviation = candidates.std(0)
    log_ratio: Callable[[Tensor], Tensor] = _zeros
    if proposal is not None:
        candidates, log_ratio = by_proposal(space, proposal, partial, mask, labels, count)
    proposed = _gain(candidates, prior_deviation)

    def path(noise: Tensor) -> tuple[Tensor, Tensor]:
        log_prior, log_likelihood = space.log_densities(noise)
        ratio = log_ratio(noise)
        return log_prior - ratio, ratio + exponent * log_likelihood

    def find_root(noise: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        information = exponent[..., None, None] * space.information(noise, -(-NUM_GRADIENTS // num_chains))
        gain = prior_deviation.unsqueeze(-1) * information * prior_deviation.unsqueeze(-2)
        if isinstance(temperature, Tensor):
            gain = torch.lerp(proposed, gain, temperature[..., None, None])
        return _root(prior_deviation, gain)

    # Where Bayes' rule is asked for, the likelihood weighs modes against each other, and otherwise the proposal: on
    # held-out bodies, of which the model is not quite right, draws scored less where it was the likelihood. Without a
    # proposal nothing else knows of modes, and chains start too far from them to get there in a few steps.
    by_bayes = proposal is None or (temper is not None and temper >= 1)
    population = resampled(candidates, path, num_chains, distinct=not by_bayes)
    if by_bayes:
        population = annealed(path, population, find_root, num_leapfrogs=AT_A_TEMPERATURE)
    result = sample_hmc(
        Tempered(space.log_densities, exponent),
        population.noise,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        num_leapfrogs=NUM_LEAPFROGS,
        root=find_root,
        step_size=population.step_size,
    )
    chains = gathered(space, result.noise, **result.statistics)
    log_prior = chains.statistics["log_prior"].transpose(0, 1)
    diagnostics = {
        **_mixing(result.noise, {"log_prior": log_prior, "log_likelihood": result.log_likelihood}),
        "acceptance": result.acceptance,
        "step_size": result.step_size,
        "temper": exponent.expand(space.batch_shape),
        "log_likelihood": result.log_likelihood,
    }
    return _thinned(result.noise, num_samples), diagnostics, chains


def _exponent(temper: float | None, proposal: Completer | None, mask: Tensor) -> Tensor:
    """The exponent of the likelihood of each cloud, shape `(*batch,)`; by default what the proposal says, or 1."""
    if temper is None and proposal is not None:
        return proposal.exponent(mask.sum(-1))
    return torch.full(mask.shape[:-1], 1.0 if temper is None else float(temper), device=mask.device)


def by_proposal(
    space: NoiseSpace, proposal: Completer, partial: Tensor, mask: Tensor, labels: Tensor | None, count: int
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Draws of the proposal, and of the prior of what it does not know, and the log-ratio of the prior to it."""
    name = "z" + BASE_SUFFIX if proposal.model.prior is not None else "z"
    if name not in space.names or not space.batch_shape == partial.shape[:-2]:
        raise ValueError(
            "the proposal is for latents of its model, one for each cloud, and this model has "
            f"{', '.join(space.names)}: give the model that the completer was made of, or leave the proposal out"
        )
    place, prior = space.slice_of(name), proposal.noise_prior(labels)
    with torch.no_grad():
        posterior = proposal.condition_noise(partial, mask, labels=labels)
        drawn = posterior.sample(torch.Size((count,)))
        noise = drawn if drawn.shape[-1] == space.size else space.from_prior(count)
        noise[..., place] = drawn

    def log_ratio(noise: Tensor) -> Tensor:
        with without_validation():
            return prior.log_prob(noise[..., place]) - posterior.log_prob(noise[..., place])

    return noise, log_ratio


def _zeros(noise: Tensor) -> Tensor:
    return noise.new_zeros(noise.shape[:-1])


def _gain(draws: Tensor, prior_deviation: Tensor) -> Tensor:
    """How much more precise draws `(count, *batch, L)` are than the prior, in its units, shape `(*batch, L, L)`."""
    scaled = ((draws - draws.mean(0)) / prior_deviation).movedim(0, -2).double()
    count, size = scaled.shape[-2:]
    identity = torch.eye(size).to(scaled)
    # As if as many draws of the prior were seen as there are coordinates, so that few draws have an inverse.
    covariance = (scaled.mT @ scaled + size * identity) / (count + size)
    return (torch.linalg.inv(covariance) - identity).to(draws)


def _root(prior_deviation: Tensor, gain: Tensor) -> Tensor:
    """Root of a covariance, shape `(*batch, L, L)`, by how much more precise it is than the prior, in its units.

    The metric of Girolami and Calderhead (Riemann manifold Langevin and Hamiltonian Monte Carlo methods, Journal of the
    Royal Statistical Society B 2011), the same for all chains of a cloud.
    """
    # In double precision: rounding errors of the largest eigenvalues would be taken for information elsewhere.
    values, vectors = torch.linalg.eigh(gain.double())
    root = vectors * (1 + values.clamp(min=0)).rsqrt().unsqueeze(-2)
    return prior_deviation.unsqueeze(-1) * root.to(prior_deviation)


def _mixing(noise: Tensor, others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split `r_hat` and effective numbers of draws, of arrays of shape `(steps, chains, *batch, ...)`."""
    found = {}
    for name, values in {"": noise, **others}.items():
        suffix = f"_{name}" if name else ""
        found[f"r_hat{suffix}"] = split_gelman_rubin(values, chain_dim=1, sample_dim=0)
        found[f"n_eff{suffix}"] = effective_sample_size(values, chain_dim=1, sample_dim=0)
    return found


def _thinned(noise: Tensor, num_samples: int) -> Tensor:
    """Draws at even distances of chains `(steps, chains, *batch, L)`: shape `(num_samples, *batch, L)`."""
    steps, chains = noise.shape[:2]
    kept = math.ceil(num_samples / chains)
    # From the last one backwards.
    rows = steps - 1 - torch.arange(kept) * steps // kept
    # Of all chains alike: those side by side may come from one mode, and the first from the likeliest.
    some = torch.arange(num_samples) * (kept * chains) // num_samples
    return noise[rows].flatten(0, 1)[some]

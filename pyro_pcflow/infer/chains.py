"""Many Markov chains of any Pyro model, in one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_pcflow.infer.hmc import Tempered, sample_hmc
from pyro_pcflow.infer.noise_space import NoiseSpace
from pyro_pcflow.infer.population import num_candidates, resampled

__all__ = ["FEWEST_STEPS", "Chains", "gathered", "sample_posterior"]

# Fewest draws of a chain that tell whether it mixed.
FEWEST_STEPS = 4
# Shares of the warm-up that end with a new scale of the steps; the rest adapts their size alone.
WINDOWS = (0.15, 0.25, 0.35)
# How many draws the prior guess of a covariance is worth, and its variance, in noise whose prior has the width 1 (Stan
# Reference Manual, HMC algorithm parameters).
GUESS_COUNTS, GUESSED_VARIANCE = 5.0, 1e-3


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of Markov chains.

    Attributes:
        samples: of every latent, and of every deterministic site, shape `(num_chains, num_steps, *shape)` each: of a
            latent `z` whose prior is a flow, and of `z_base`, the noise that the flow carries to it.
        statistics: of every draw, shape `(num_chains, num_steps, *batch)` each: `log_prior`, of the noise;
            `log_likelihood`; `acceptance_rate`, probability that its trajectory was accepted; `diverging`, whether the
            trajectory lost its energy; `step_size`.
    """

    samples: dict[str, Tensor]
    statistics: dict[str, Tensor]

    @property
    def r_hat(self) -> dict[str, Tensor]:
        """Split Gelman-Rubin statistic of each latent, of `log_prior` and of `log_likelihood`: 1 where chains mixed.

        Ranks of coordinates can agree where densities do not: look at the latter two first (Gelman et al., Bayesian
        Data Analysis, 2013, section 11.4). Shape `shape`, or `(*batch,)`.
        """
        return {name: split_gelman_rubin(value, 0, 1) for name, value in self._quantities().items()}

    @property
    def n_eff(self) -> dict[str, Tensor]:
        """Effective numbers of draws, all chains together; names and shapes as of `r_hat`."""
        return {name: effective_sample_size(value, 0, 1) for name, value in self._quantities().items()}

    def _quantities(self) -> dict[str, Tensor]:
        return {**self.samples, **{name: self.statistics[name] for name in ("log_prior", "log_likelihood")}}


def sample_posterior(
    model: Callable[[], Any],
    *,
    num_chains: int = 16,
    num_steps: int = 100,
    warmup_steps: int = 100,
    num_leapfrogs: int = 8,
    batch_shape: Sequence[int] = (),
) -> Chains:
    """Many chains of Hamiltonian Monte Carlo of any Pyro model at once, in one program: MCMC, vectorised.

    One evaluation of the model is of all chains, in a plate of Pyro to the left of its own, so that 16 chains cost
    little more than one, and whether they agree tells whether they have mixed. So a model must be one that can be put
    into a plate, which `vectorize_particles` wants, too: index and sum events from the right (`z[..., 0]`), and let
    shapes broadcast.

    Chains walk in the noise under a flow prior, see `non_centred`, and latents of bounded support on the real line.
    They start from the best of many draws of the prior. In the warm-up the covariance of all chains becomes the scale
    of their steps, three times, and the size of the steps is adapted to a mean acceptance of 0.8; see Neal, MCMC using
    Hamiltonian dynamics, 2011.

    Weights of flows are not trained, and Pyro's parameter store does not change. Random numbers come from torch's
    global generator: `pyro.set_rng_seed` makes a run repeat.

    Args:
        model: a Pyro model with an observed site, called without arguments: `lambda: model(scan)`.
        num_chains: chains of each problem.
        num_steps: draws of a chain that are kept.
        warmup_steps: draws before them, which adapt the steps.
        num_leapfrogs: mean number of gradients per draw.
        batch_shape: sizes of plates in which every latent is sampled, such as those of some clouds, each of which is a
            problem of its own, with steps of its own. By default all latents are one problem.

    Returns:
        The chains.

    Raises:
        ValueError: if the model has no latents or discrete ones, a number is out of range, latents are not in plates of
            the batch shape, or the model cannot be put into a plate.

    Examples:
        >>> import pyro.distributions as dist
        >>> pyro.set_rng_seed(0)
        >>> heights = torch.tensor([1.6, 1.8, 1.7])
        >>> def model():
        ...     loc = pyro.sample("loc", dist.Normal(1.0, 1.0))
        ...     with pyro.plate("people", 3):
        ...         pyro.sample("height", dist.Normal(loc, 0.1), obs=heights)
        >>> chains = sample_posterior(model, num_steps=200)
        >>> chains.samples["loc"].shape, bool((chains.samples["loc"].mean() - 1.7).abs() < 0.02)
        (torch.Size([16, 200]), True)
        >>> bool(chains.r_hat["loc"] < 1.05)
        True
    """
    if num_chains < 2 or num_steps < FEWEST_STEPS or warmup_steps < 0 or num_leapfrogs < 1:
        raise ValueError(
            f"expected num_chains of at least 2, num_steps of at least {FEWEST_STEPS}, warmup_steps of at least 0 and "
            f"num_leapfrogs of at least 1, got num_chains={num_chains}, num_steps={num_steps}, "
            f"warmup_steps={warmup_steps}, num_leapfrogs={num_leapfrogs}"
        )
    with pyro.get_param_store().scope():
        space = NoiseSpace(model, torch.Size(batch_shape))
        if space.batch_shape != torch.Size(batch_shape):
            raise ValueError(
                f"not every latent is sampled in plates of batch_shape={tuple(batch_shape)}: {', '.join(space.names)}; "
                "leave batch_shape out to make one problem of all"
            )
        space.check_that_chains_are_apart()
        target = Tempered(space.log_densities)
        candidates = space.from_prior(num_candidates(num_chains))
        start = resampled(candidates, space.log_densities, num_chains, distinct=True).noise
        root, left = None, warmup_steps
        for share in WINDOWS:
            steps = int(share * warmup_steps)
            if steps < FEWEST_STEPS:
                continue
            window = sample_hmc(
                target,
                start,
                num_steps=steps - steps // 2,
                warmup_steps=steps // 2,
                num_leapfrogs=num_leapfrogs,
                root=root,
            )
            start, root = window.noise[-1], _pooled_scale(window.noise)
            left -= steps
        result = sample_hmc(
            target,
            start,
            num_steps=num_steps,
            warmup_steps=left,
            num_leapfrogs=num_leapfrogs,
            root=root,
        )
        return gathered(space, result.noise, **result.statistics)


def gathered(space: NoiseSpace, noise: Tensor, **statistics: Tensor) -> Chains:
    """Chains of noise, `(num_steps, num_chains, *batch, L)`, as chains of latents; statistics `(num_steps, ...)`."""
    latents = [space.latents(step) for step in noise]
    with torch.no_grad():
        log_prior, log_likelihood = map(torch.stack, zip(*map(space.log_densities, noise), strict=True))
    statistics = {"log_prior": log_prior, "log_likelihood": log_likelihood, **statistics}
    return Chains(
        {name: torch.stack([draw[name] for draw in latents], 1) for name in latents[0]},
        {name: value.transpose(0, 1) for name, value in statistics.items()},
    )


def _pooled_scale(noise: Tensor) -> Tensor:
    """Root of the covariance of draws `(steps, chains, *batch, L)`, all chains together, shape `(*batch, L, L)`."""
    draws = noise.flatten(0, 1).movedim(0, -2)
    count, size = draws.shape[-2:]
    centred = draws - draws.mean(-2, keepdim=True)
    covariance = centred.mT @ centred / count
    guess = GUESSED_VARIANCE * torch.eye(size, dtype=noise.dtype, device=noise.device)
    return torch.linalg.cholesky((count * covariance + GUESS_COUNTS * guess) / (count + GUESS_COUNTS))

"""The evidence of clouds under a model of many: bounds by annealed importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor
from torch.distributions import ComposeTransform, Distribution, MultivariateNormal, TransformedDistribution

from pyro_pcflow.infer.hmc import LogDensities, State, Tempered, move, sample_hmc
from pyro_pcflow.infer.noise_space import without_validation
from pyro_pcflow.models.latent import LatentCloudModel
from pyro_pcflow.models.refinement import noise_and_transforms

__all__ = ["Evidence", "evidence", "pareto_k"]

# Trajectories that find the step size before the annealing, and the first step size in units of the start's covariance.
PILOT_STEPS, STEP_SIZE = 12, 0.3
# Fewest weights whose tail is fitted.
FEWEST_WEIGHTS = 25


@dataclass(frozen=True, eq=False)
class Evidence:
    """Bounds of the log-densities of clouds, latents integrated out, in nats per cloud.

    Attributes:
        lower: a stochastic lower bound, shape `(*batch,)`.
        upper: a stochastic upper bound, of clouds whose true latents were given; None otherwise.
        log_weights: of the particles, whose log-mean is `lower`, shape `(num_particles, *batch)`.
        effective_sample_size: of the particles, shape `(*batch,)`.
        pareto_k: shape of the weights' tail, shape `(*batch,)`: above 0.7 the lower bound is far from the truth, and
            more particles hardly help (Vehtari et al., Pareto smoothed importance sampling, JMLR 2024). NaN of fewer
            than 25 particles.
        acceptance: mean probability of acceptance of the trajectories, shape `(*batch,)`.
    """

    lower: Tensor
    upper: Tensor | None
    log_weights: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    acceptance: Tensor


def evidence(
    model: LatentCloudModel,
    clouds: Tensor,
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    noise_level: Tensor | float = 0.0,
    posterior: Distribution | None = None,
    num_particles: int = 16,
    num_temperatures: int = 32,
    num_leapfrogs: int = 4,
    latents: Tensor | None = None,
) -> Evidence:
    """Bound the log-density of clouds under a model, by annealed importance sampling.

    Particles are drawn from an approximate posterior `q` and carried to the posterior along

        log f_t(e) = (1 - t) log q(e) + t [ log p(x | z(e)) + log p(e) ],        0 = t_0 < ... < t_T = 1,

    by Hamiltonian Monte Carlo in the noise `e` under the prior (Neal, Annealed importance sampling, Statistics and
    Computing 2001; Wu et al., On the quantitative analysis of decoder-based generative models, ICLR 2017). The mean of
    their weights is an unbiased estimate of the density, so that its logarithm is a lower bound in expectation. From
    latents that made the clouds, the same way back gives an upper bound (Grosse, Ghahramani and Adams, Sandwiching the
    marginal likelihood using bidirectional Monte Carlo, 2015): the gap says how loose both can be, on data of the model
    itself.

    The default start is `model.refine`, a normal with full covariance, which is also the scale of the steps.

    Args:
        model: such as a `PointCloudVAE`.
        clouds: shape `(*batch, N, D)`, in the data's units.
        mask: True at points, shape `(*batch, N)`; all of them by default.
        labels: class numbers, shape `(*batch,)`; needed if the model has classes.
        noise_level: for a model with `noise_input`, between 0 and 1.
        posterior: where particles start, as `model.refine` returns it: a normal in the noise under the prior's own
            transforms.
        num_particles: particles per cloud.
        num_temperatures: steps `T` from `q` to the posterior.
        num_leapfrogs: of the trajectory at every temperature.
        latents: for the upper bound, the latents that made the clouds, shape `(*batch, latent_dim)`.

    Returns:
        The bounds, with what tells how far to trust them.

    Raises:
        TypeError: if labels are missing.
        ValueError: if a shape, a label or a number does not fit.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
        >>> z = vae.latent_prior().sample((2,))
        >>> clouds = vae.decode(z, 100).sample()
        >>> found = evidence(vae, clouds, latents=z, num_particles=8, num_temperatures=4)
        >>> found.lower.shape, found.upper.shape
        (torch.Size([2]), torch.Size([2]))
    """
    if num_particles < 1 or num_temperatures < 1 or num_leapfrogs < 1:
        raise ValueError(
            "expected num_particles, num_temperatures and num_leapfrogs of at least 1, got "
            f"{num_particles}, {num_temperatures} and {num_leapfrogs}"
        )
    clouds, mask = model.check_clouds(clouds, mask)
    if posterior is None:
        posterior = model.refine(clouds, mask, labels=labels, noise_level=noise_level)
    start = posterior.base_dist if isinstance(posterior, TransformedDistribution) else posterior
    if not isinstance(start, MultivariateNormal):
        raise ValueError(
            "expected a posterior as model.refine returns it, a multivariate normal in the noise under the prior's "
            f"transforms, got {type(posterior).__name__}"
        )
    density, transforms = noise_and_transforms(model.latent_prior(labels))
    transform = ComposeTransform(transforms)

    def log_densities(noise: Tensor) -> tuple[Tensor, Tensor]:
        cloud = model.decode(transform(noise), clouds.shape[-2], mask=mask, labels=labels, noise_level=noise_level)
        return start.log_prob(noise), cloud.log_prob(clouds) + density.log_prob(noise) - start.log_prob(noise)

    with without_validation(), torch.inference_mode(False), torch.no_grad():
        drawn = start.sample(torch.Size((num_particles,)))
        scale_tril = start.scale_tril
        pilot = sample_hmc(
            Tempered(log_densities),
            drawn,
            num_steps=1,
            warmup_steps=PILOT_STEPS,
            num_leapfrogs=num_leapfrogs,
            root=scale_tril,
            step_size=STEP_SIZE,
        )
        options = (num_temperatures, num_leapfrogs, pilot.step_size, scale_tril)
        log_weights, acceptance = _anneal(log_densities, drawn, *options)
        upper = None
        if latents is not None:
            expected = (*clouds.shape[:-2], model.latent_dim)
            if latents.shape != expected:
                raise ValueError(f"expected latents of shape {expected}, got {tuple(latents.shape)}")
            true = transform.inv(latents).expand(num_particles, *expected)
            back, _ = _anneal(log_densities, true, *options, backwards=True)
            upper = math.log(num_particles) - back.logsumexp(0)
    weights = log_weights.softmax(0)
    return Evidence(
        lower=log_weights.logsumexp(0) - math.log(num_particles),
        upper=upper,
        log_weights=log_weights,
        effective_sample_size=weights.square().sum(0).reciprocal(),
        pareto_k=pareto_k(log_weights),
        acceptance=acceptance,
    )


def _anneal(
    log_densities: LogDensities,
    start: Tensor,
    num_temperatures: int,
    num_leapfrogs: int,
    step_size: Tensor,
    root: Tensor,
    backwards: bool = False,
) -> tuple[Tensor, Tensor]:
    """Carry particles from the start to the target or back, and sum up the logarithms of their weights."""
    temperatures = torch.linspace(0, 1, num_temperatures + 1).tolist()
    if backwards:
        temperatures.reverse()
    position, log_weight, acceptance = start, start.new_zeros(start.shape[:-1]), []
    gain = log_densities(start)[1]
    for before, after in pairwise(temperatures):
        log_weight = log_weight + (after - before) * gain
        if after == temperatures[-1]:
            break
        target = Tempered(log_densities, after)
        state, log_acceptance = move(target, State.at(target, position), step_size, num_leapfrogs, root)
        position, gain = state.position, state.log_likelihood
        acceptance.append(log_acceptance.exp().mean(0))
    mean = torch.stack(acceptance).mean(0) if acceptance else torch.ones_like(log_weight[0])
    return log_weight, mean


def pareto_k(log_weights: Tensor) -> Tensor:
    """The shape of the tail of importance weights, by a generalized Pareto distribution.

    Vehtari et al., Pareto smoothed importance sampling, JMLR 2024, section 3.

    Args:
        log_weights: shape `(S, *batch)`.

    Returns:
        Shape `(*batch,)`; NaN of fewer than 25 weights.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> x = normal.sample((4000,))
        >>> wide, narrow = (torch.distributions.Normal(0.0, s).log_prob(x) - normal.log_prob(x) for s in (3.0, 0.5))
        >>> bool(pareto_k(wide) > 0.7), bool(pareto_k(narrow) < 0.5)
        (True, True)
    """
    count, batch = len(log_weights), log_weights.shape[1:]
    if count < FEWEST_WEIGHTS:
        return log_weights.new_full(batch, math.nan)
    tail = int(min(count / 5, 3 * math.sqrt(count)))
    found = []
    for column in log_weights.reshape(count, -1).T:
        largest = (column - column.max()).exp().sort().values
        threshold = largest[-tail - 1]
        found.append(fit_generalized_pareto(largest[-tail:] - threshold)[0])
    return log_weights.new_tensor(found).reshape(batch)

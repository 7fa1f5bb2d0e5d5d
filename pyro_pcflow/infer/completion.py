"""Shape completion: whole clouds that agree with an observed part."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial as partial_call
from typing import Any, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_median
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow
from pyro_pcflow.infer.chains import FEWEST_STEPS, Chains, gathered
from pyro_pcflow.infer.completer import Completer
from pyro_pcflow.infer.hmc import CANDIDATES_PER_CHAIN, Tempered, resampled, sample_hmc
from pyro_pcflow.infer.noise_space import BASE_SUFFIX, NoiseSpace, non_centred

__all__ = ["Completion", "complete"]

AUTO = "auto"
METHODS = (AUTO, "completer", "hmc", "svi", "nuts")
CHAINS = ("hmc", "nuts")
# What options are for, beside those that are for all.
TAKES = {
    "proposal": ("hmc", "completer"),
    "temper": ("hmc",),
    "num_steps": ("hmc", "svi", "nuts"),
    "lr": ("svi",),
    "guide": ("svi",),
    "init": ("svi", "nuts"),
    "num_chains": ("hmc", "nuts"),
    "warmup_steps": ("hmc", "nuts"),
}
LEARNING_RATE = 0.02
# Steps that are kept, and those before them that adapt a method.
NUM_STEPS = {"hmc": 8, "svi": 500, "nuts": 500}
WARMUP_STEPS = {"hmc": 8, "nuts": 200}
# Added to the variances of candidates, whose covariance is the scale of the steps.
LEAST_VARIANCE = 0.02
# Mean number of leapfrogs of a trajectory.
NUM_LEAPFROGS = 7
Wrapper = Callable[[Distribution], Distribution]


@runtime_checkable
class HasPointModel(Protocol):
    """A model of clouds such as `PointCloudVAE`."""

    def point_model(self, num_clouds: int | None = None) -> Distribution:
        """Sample the latents of some clouds, or of one without a batch shape, and return the density of a point."""


@dataclass(frozen=True, eq=False)
class Completion:
    """Clouds that agree with a partial one.

    Attributes:
        clouds: shape `(num_samples, *batch, num_points, D)`; the observed points, to the last bit and in their
            places, and drawn ones elsewhere.
        observed: True at observed points, shape `(*batch, num_points)`.
        latents: posterior samples of every latent, shape `(num_samples, *shape)` each: of a latent `z` whose prior is a
            flow, and of `z_base`, the noise that the flow carries to it.
        method: how they were found.
        diagnostics: for `"hmc"` see `complete`; for `"nuts"` what `MCMC.diagnostics` says (`r_hat`, `n_eff`,
            divergences); for `"svi"` the `losses`, negative evidence lower bounds in nats, one per step.
        chains: all draws that `"hmc"` and `"nuts"` kept; None for other methods.
    """

    clouds: Tensor
    observed: Tensor
    latents: dict[str, Tensor]
    method: str
    diagnostics: dict[str, Any]
    chains: Chains | None = None


def complete(
    model: PointCloudFlow | MixtureOfFlows | HasPointModel | Callable[[], Distribution],
    partial: Tensor,
    num_points: int,
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    observe: Wrapper | None = None,
    fill: Wrapper | None = None,
    method: str = AUTO,
    proposal: Completer | None = None,
    temper: float | str = AUTO,
    num_samples: int = 16,
    num_chains: int | None = None,
    num_steps: int | None = None,
    warmup_steps: int | None = None,
    lr: float | None = None,
    guide: Callable[[Callable], nn.Module] | None = None,
    init: Callable | None = None,
) -> Completion:
    """Complete a partial cloud: infer the latents of its shape, and draw the missing points given them.

    The observed points are modelled as independent draws from the shape as the sensor sees it. If a sensor misses a
    part of the object, say so with `observe`, or the missing part counts as evidence that nothing is there.

    All methods work in the noise under a flow prior, see `pyro_pcflow.infer.noise_space.non_centred`:

    | method | what |
    | --- | --- |
    | `"hmc"` | many short chains of each cloud at once, from draws of the proposal, or from the best of the prior |
    | `"completer"` | draws of the proposal as they are, whatever the sensor |
    | `"svi"` | a guide that is fitted to each cloud |
    | `"nuts"` | one chain after the other, of any length: exact in the limit |
    | `"auto"` | `"completer"` if there is a proposal and no `observe`, `"hmc"` otherwise |

    A model is never quite right, and where its error is multiplied by the number of points a posterior is sure and
    wrong. `temper` is the exponent of the likelihood that `"hmc"` samples by: 1 for Bayes' rule, less where held-out
    clouds of the real data show that it is too sure (Grünwald and van Ommen, Inconsistency of Bayesian inference for
    misspecified linear models, and a proposal for repairing it, Bayesian Analysis 2017).

    Weights of flows are not trained, and neither Pyro's parameter store nor your gradients change. Random numbers
    come from torch's global generator: `pyro.set_rng_seed` makes a run repeat.

    Args:
        model: a model with a `point_model`, such as `PointCloudVAE`; a function that samples latents and returns a
            point distribution, such as a posed flow; or a conditional flow, whose context then has a standard normal
            prior. Where each of some clouds has latents of its own, sample them in a plate of Pyro.
        partial: observed points, shape `(*batch, N, D)`, in the data's units.
        num_points: points of a completed cloud, at least `N`.
        mask: True at observed points, shape `(*batch, N)`, if clouds have different sizes; padding is filled too.
        labels: class numbers of the clouds, shape `(*batch,)`, for a model with a `point_model` that has classes.
        observe: from the point distribution of the object to that of observed points, for example
            `lambda point: one_sided(point, direction)`; by default the identity. It is called in plates of the clouds,
            so that a latent that it samples is one of each cloud, such as those of `UnknownBackground` and
            `UnknownNoise`.
        fill: from the point distribution of the object to that of the drawn points, for example
            `lambda point: one_sided(point, direction).complement()`; by default the identity.
        method: see above.
        proposal: an amortised posterior of the same model, such as that of `load_pretrained("body").completer`.
        temper: for `"hmc"`, the exponent of the likelihood; "auto" takes what `proposal` says of as many points, and 1
            without one.
        num_samples: number of completed clouds.
        num_chains: chains per cloud, 16 by default; for `"nuts"` one after the other, 1 by default.
        num_steps: steps of the optimizer for `"svi"`, 500 by default; samples of a chain otherwise, of which
            `num_samples` are kept at even distances, by default 8 of `"hmc"` and 500 of `"nuts"`, or as many as
            `num_samples` needs.
        warmup_steps: steps of a chain that adapt it and are dropped, 8 of `"hmc"` and 200 of `"nuts"` by default.
        lr: step size of Adam for `"svi"`, which decays to a hundredth of it; 0.02 by default.
        guide: for `"svi"`, one of Pyro's automatic guides, `AutoMultivariateNormal` by default; `AutoNormal` is cheaper
            for many clouds at once.
        init: where `"svi"` and `"nuts"` start, one of Pyro's `init_to_...`, `init_to_median` by default. A latent `z`
            with a flow prior is the site `z_base` there.

    Returns:
        The completion. Its diagnostics for `"hmc"`, each of the batch shape of the clouds: `r_hat`, split, of the
        latents' noise (with a last dimension), `r_hat_log_prior` and `r_hat_log_likelihood`; `n_eff`, effective numbers
        of draws, alike; `acceptance`, `step_size` and `temper`.

    Raises:
        ValueError: if shapes do not fit, the observed points are not finite, or an option is unknown.
        TypeError: if the model is none of these, or a flow without a context.

    Examples:
        >>> flow = PointCloudFlow(point_dim=3, context_dim=2, num_couplings=2, hidden_dims=[8])
        >>> result = complete(flow, torch.randn(20, 3), num_points=50, num_samples=4)
        >>> result.clouds.shape, result.latents["context"].shape
        (torch.Size([4, 50, 3]), torch.Size([4, 2]))
    """
    method = _check_method(method, proposal, observe)
    _check_words(
        method,
        proposal=proposal,
        temper=None if temper == AUTO else temper,
        num_chains=num_chains,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        lr=lr,
        guide=guide,
        init=init,
    )
    num_chains = (1 if method == "nuts" else 16) if num_chains is None else num_chains
    if num_steps is None:
        num_steps = NUM_STEPS.get(method, 1)
        if method in CHAINS:
            num_steps = max(num_steps, math.ceil(num_samples / num_chains))
    warmup_steps = WARMUP_STEPS.get(method, 0) if warmup_steps is None else warmup_steps
    _check_sizes(method, num_samples, num_chains, num_steps, warmup_steps)
    mask = _check_partial(partial, num_points, mask)
    point_model = _point_model(model, partial, labels)
    batch_shape = partial.shape[:-2]

    def observed_model() -> None:
        point = point_model()
        with ExitStack() as plates:
            for dim, size in enumerate(batch_shape, -len(batch_shape)):
                plates.enter_context(pyro.plate(f"partial{dim}", size, dim=dim))
            # In the plates, so that what a sensor does not know is a latent of each cloud.
            cloud = PointCloud(point if observe is None else observe(point), mask=mask)
            pyro.sample("partial", cloud, obs=partial)

    # What inference registers is forgotten afterwards.
    with pyro.get_param_store().scope():
        space = NoiseSpace(observed_model, batch_shape)
        chains: Chains | None = None
        if method == "svi":
            noise, diagnostics = _by_svi(
                space,
                observed_model,
                num_samples,
                num_steps,
                init or init_to_median,
                LEARNING_RATE if lr is None else lr,
                guide or AutoMultivariateNormal,
            )
        elif method == "nuts":
            noise, diagnostics, chains = _by_nuts(
                space, observed_model, num_samples, num_chains, num_steps, warmup_steps, init or init_to_median
            )
        elif method == "completer":
            assert proposal is not None  # as was checked
            noise, diagnostics = _proposed(space, proposal, partial, mask, labels, num_samples)[0], {}
        else:
            noise, diagnostics, chains = _by_hmc(
                space, partial, mask, labels, proposal, temper, num_samples, num_chains, num_steps, warmup_steps
            )
        latents = space.latents(noise)
        missing = nn.functional.pad(~mask, (0, num_points - partial.shape[-2]), value=True)
        padded = nn.functional.pad(partial, (0, 0, 0, num_points - partial.shape[-2]))
        clouds = [
            _fill(poutine.condition(point_model, data=_row(latents, index))(), padded, missing, fill)
            for index in range(num_samples)
        ]
    return Completion(torch.stack(clouds), ~missing, latents, method, diagnostics, chains)


def _check_method(method: str, proposal: Completer | None, observe: Wrapper | None) -> str:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if proposal is not None and not isinstance(proposal, Completer):
        raise TypeError(f"expected a Completer as proposal, got {type(proposal).__name__}")
    if method == "completer" and proposal is None:
        raise ValueError("method='completer' draws from a completer: give proposal")
    if method == AUTO:
        return "completer" if proposal is not None and observe is None else "hmc"
    return method


def _check_words(method: str, **given: Any) -> None:
    """Refuse what a method would ignore."""
    unused = [name for name, value in given.items() if value is not None and method not in TAKES[name]]
    if unused:
        methods = ", ".join(repr(name) for name in TAKES[unused[0]])
        raise ValueError(f"{unused[0]} is for method={methods}, and this is {method!r}: leave it out, or give method")


def _check_sizes(method: str, num_samples: int, num_chains: int, num_steps: int, warmup_steps: int) -> None:
    if min(num_samples, num_chains, num_steps) < 1 or warmup_steps < 0:
        raise ValueError(
            "expected num_samples, num_chains and num_steps of at least 1 and warmup_steps of at least 0, got "
            f"num_samples={num_samples}, num_chains={num_chains}, num_steps={num_steps}, warmup_steps={warmup_steps}"
        )
    if method in CHAINS:
        if num_steps < FEWEST_STEPS:
            raise ValueError(f"a chain of num_steps={num_steps} tells nothing: give at least {FEWEST_STEPS}")
        if num_steps * num_chains < num_samples:
            raise ValueError(
                f"{num_chains} chains of num_steps={num_steps} have fewer than num_samples={num_samples} draws: raise "
                "num_steps or num_chains, or lower num_samples"
            )


def _check_partial(partial: Tensor, num_points: int, mask: Tensor | None) -> Tensor:
    if not isinstance(partial, Tensor) or partial.dim() < 2:
        got = f"shape {tuple(partial.shape)}" if isinstance(partial, Tensor) else type(partial).__name__
        raise ValueError(f"expected a partial cloud as a tensor of shape (*batch, N, D), got {got}")
    if num_points < partial.shape[-2]:
        raise ValueError(
            f"a completed cloud of num_points={num_points} has no room for {partial.shape[-2]} observed points, which "
            "are all kept: raise num_points, or thin the observed cloud"
        )
    if mask is None:
        mask = torch.ones(partial.shape[:-1], dtype=torch.bool, device=partial.device)
    if mask.dtype != torch.bool or mask.shape != partial.shape[:-1]:
        raise ValueError(
            f"expected a mask of booleans of shape {tuple(partial.shape[:-1])}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    if not partial[mask].isfinite().all():
        raise ValueError("the partial cloud holds points that are NaN or infinite: drop them, or mask them out")
    return mask


def _point_model(model: Any, partial: Tensor, labels: Tensor | None) -> Callable[[], Distribution]:
    """The function that samples latents for the partial clouds and returns the density of a point."""
    batch_shape = partial.shape[:-2]
    if labels is not None and not isinstance(model, HasPointModel):
        raise ValueError(f"labels are for a model with a point_model, and this is a {type(model).__name__}")
    if isinstance(model, PointCloudFlow | MixtureOfFlows):
        if model.context_dim == 0:
            raise TypeError("the flow has no context (context_dim=0), so there is nothing to infer about its shape")

        def sample_context() -> Distribution:
            loc = partial.new_zeros(model.context_dim)
            with ExitStack() as plates:
                for dim, size in enumerate(batch_shape, -len(batch_shape)):
                    plates.enter_context(pyro.plate(f"clouds{dim}", size, dim=dim))
                return model.condition(pyro.sample("context", dist.Normal(loc, 1.0).to_event(1)))

        return sample_context
    if isinstance(model, HasPointModel):
        if len(batch_shape) > 1:
            raise ValueError(f"expected a partial cloud of shape (N, D) or (B, N, D), got {tuple(partial.shape)}")
        classes: dict[str, Any] = {} if labels is None else {"labels": labels}
        return partial_call(model.point_model, *batch_shape, **classes)
    if not callable(model):
        raise TypeError(
            "expected a model with point_model, a conditional flow, or a function that samples latents and returns a "
            f"point distribution, got {type(model).__name__}"
        )
    return model


def _by_svi(
    space: NoiseSpace,
    model: Callable[[], None],
    num_samples: int,
    num_steps: int,
    init: Callable,
    lr: float,
    guide: Callable,
) -> tuple[Tensor, dict[str, Any]]:
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


def _by_nuts(
    space: NoiseSpace,
    model: Callable[[], None],
    num_samples: int,
    num_chains: int,
    num_steps: int,
    warmup_steps: int,
    init: Callable,
) -> tuple[Tensor, dict[str, Any], Chains]:
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


def _by_hmc(
    space: NoiseSpace,
    partial: Tensor,
    mask: Tensor,
    labels: Tensor | None,
    proposal: Completer | None,
    temper: float | str,
    num_samples: int,
    num_chains: int,
    num_steps: int,
    warmup_steps: int,
) -> tuple[Tensor, dict[str, Any], Chains]:
    exponent = _exponent(temper, proposal, mask)
    exponent = exponent if exponent.shape == space.batch_shape else exponent.mean()
    target = Tempered(space.log_densities, exponent)
    scale_tril = None
    count = CANDIDATES_PER_CHAIN * num_chains
    if proposal is None:
        with torch.no_grad():
            candidates = space.from_prior(count)
        log_ratio = candidates.new_zeros(())
    else:
        candidates, log_ratio = _proposed(space, proposal, partial, mask, labels, count)
        scale_tril = _scale_tril(candidates)
    start = resampled(candidates, log_ratio, target, num_chains)
    result = sample_hmc(
        target,
        start,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        num_leapfrogs=NUM_LEAPFROGS,
        scale_tril=scale_tril,
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


def _exponent(temper: float | str, proposal: Completer | None, mask: Tensor) -> Tensor:
    """The exponent of the likelihood of each cloud, shape `(*batch,)`."""
    if isinstance(temper, str):
        if temper != AUTO:
            raise ValueError(f"temper must be a positive number or 'auto', got {temper!r}")
        counts = mask.sum(-1)
        return torch.ones(counts.shape, device=mask.device) if proposal is None else proposal.exponent(counts)
    if not temper > 0:
        raise ValueError(f"temper must be a positive number or 'auto', got {temper}")
    return torch.full(mask.shape[:-1], float(temper), device=mask.device)


def _proposed(
    space: NoiseSpace, proposal: Completer, partial: Tensor, mask: Tensor, labels: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Draws of the proposal, and of the prior of what it does not know, with log-ratios of the prior to it."""
    name = "z" + BASE_SUFFIX if proposal.model.prior is not None else "z"
    if name not in space.names or not space.batch_shape == partial.shape[:-2]:
        raise ValueError(
            "the proposal is for latents of its model, one for each cloud, and this model has "
            f"{', '.join(space.names)}: give the model that the completer was made of, or leave the proposal out"
        )
    with torch.no_grad():
        posterior = proposal.condition_noise(partial, mask, labels=labels)
        drawn = posterior.sample(torch.Size((count,)))
        log_ratio = proposal.noise_prior(labels).log_prob(drawn) - posterior.log_prob(drawn)
        place = space.slice_of(name)
        if place.stop - place.start == space.size:
            return drawn, log_ratio
        noise = space.from_prior(count)
        noise[..., place] = drawn
        return noise, log_ratio


def _scale_tril(draws: Tensor) -> Tensor:
    """Root of the covariance of draws `(K, *batch, L)`, shape `(*batch, L, L)`."""
    centred = (draws - draws.mean(0)).movedim(0, -2)
    covariance = centred.mT @ centred / len(draws)
    return torch.linalg.cholesky(covariance + LEAST_VARIANCE * torch.eye(draws.shape[-1]).to(draws))


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
    rows = torch.linspace(steps - 1, 0, kept + 1)[:kept].round().long() if kept > 1 else torch.tensor([steps - 1])
    return noise[rows].flatten(0, 1)[:num_samples]


def _row(latents: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: draws[index] for name, draws in latents.items()}


def _fill(point: Distribution, padded: Tensor, missing: Tensor, fill: Wrapper | None) -> Tensor:
    with torch.no_grad():
        points = PointCloud(point if fill is None else fill(point), num_points=missing.shape[-1])
        return torch.where(missing.unsqueeze(-1), points.expand(missing.shape[:-1]).sample(), padded)

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
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_median
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow
from pyro_pcflow.infer.chains import FEWEST_STEPS, Chains
from pyro_pcflow.infer.checks import CompletionCheck, check_draws
from pyro_pcflow.infer.completer import Completer
from pyro_pcflow.infer.methods import by_hmc, by_nuts, by_proposal, by_svi
from pyro_pcflow.infer.noise_space import NoiseSpace, without_validation
from pyro_pcflow.models.latent import LatentCloudModel

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
# Chains of a cloud, steps that are kept, and those before them that adapt a method.
NUM_CHAINS = {"hmc": 64, "nuts": 1}
NUM_STEPS = {"hmc": 4, "svi": 500, "nuts": 500}
WARMUP_STEPS = {"hmc": 4, "nuts": 200}
# Draws that a posterior is checked by, and those of the prior that their log-density is compared with.
CHECKED, PRIOR_DRAWS = 16, 256
# Standard deviation of the log-likelihood of draws, in nats, below which chains have nothing to disagree on.
LEAST_DIFFERENCE = 0.1
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
        checked: what `check` returns; None if `complete` was told not to check.
    """

    clouds: Tensor
    observed: Tensor
    latents: dict[str, Tensor]
    method: str
    diagnostics: dict[str, Any]
    chains: Chains | None = None
    checked: CompletionCheck | None = None

    def check(self) -> CompletionCheck:
        """What speaks against the result; true if nothing does.

        Raises:
            ValueError: if `complete` was told not to check.
        """
        if self.checked is None:
            raise ValueError("this completion was made with check=False, and what it would be compared with is gone")
        return self.checked


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
    proposal: Completer | str | None = AUTO,
    temper: float | str = AUTO,
    num_samples: int = 16,
    num_chains: int | None = None,
    num_steps: int | None = None,
    warmup_steps: int | None = None,
    lr: float | None = None,
    guide: Callable[[Callable], nn.Module] | None = None,
    init: Callable | None = None,
    check: bool = True,
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
    misspecified linear models, and a proposal for repairing it, Bayesian Analysis 2017). Then chains stay in the modes
    of the draws that they start from. If `temper=1` is asked for, and without a proposal, the likelihood says how much
    mass each mode has: chains are carried to the posterior by as many temperatures as are needed, see
    `pyro_pcflow.infer.population`, which takes several times as long, and finds the more modes the more `num_chains`
    there are.

    What was found is compared with what was observed, and a warning says what speaks against it: see
    `Completion.check`.

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
        proposal: an amortised posterior of the same model; "auto" takes the one that came with it, such as
            `load_pretrained("body").completer`, and None takes none.
        temper: for `"hmc"`, the exponent of the likelihood, 1 for Bayes' rule; "auto" takes what `proposal` says of as
            many points, and 1 without one. Unless a number of at least 1 is given, modes have the masses that the
            proposal gives them.
        num_samples: number of completed clouds.
        num_chains: chains per cloud, 64 by default; for `"nuts"` one after the other, 1 by default.
        num_steps: steps of the optimizer for `"svi"`, 500 by default; samples of a chain otherwise, of which
            `num_samples` are kept at even distances, by default 4 of `"hmc"` and 500 of `"nuts"`, or as many as
            `num_samples` needs.
        warmup_steps: steps of a chain that adapt it and are dropped, 4 of `"hmc"`, after those that carry it to the
            posterior, and 200 of `"nuts"` by default.
        lr: step size of Adam for `"svi"`, which decays to a hundredth of it; 0.02 by default.
        guide: for `"svi"`, one of Pyro's automatic guides, `AutoMultivariateNormal` by default; `AutoNormal` is cheaper
            for many clouds at once.
        init: where `"svi"` and `"nuts"` start, one of Pyro's `init_to_...`, `init_to_median` by default. A latent `z`
            with a flow prior is the site `z_base` there.
        check: whether to compare what was found with what was observed, and to warn.

    Returns:
        The completion. Its diagnostics for `"hmc"`, each of the batch shape of the clouds: `r_hat`, split, of the
        latents' noise (with a last dimension), `r_hat_log_prior` and `r_hat_log_likelihood`; `n_eff`, effective numbers
        of draws, alike; `acceptance`, `step_size` and `temper`.

    Raises:
        ValueError: if shapes do not fit, the observed points are not finite, or an option is unknown.
        TypeError: if the model is none of these, or a flow without a context.

    Examples:
        >>> pyro.set_rng_seed(0)
        >>> flow = PointCloudFlow(point_dim=3, context_dim=2, num_couplings=2, hidden_dims=[8])
        >>> result = complete(flow, torch.randn(20, 3), num_points=50, num_samples=4)
        >>> result.clouds.shape, result.latents["context"].shape
        (torch.Size([4, 50, 3]), torch.Size([4, 2]))
    """
    given = None if proposal == AUTO else proposal
    proposal = _check_proposal(model, proposal)
    method = _check_method(method, proposal, observe)
    exponent = _check_temper(temper)
    _check_words(
        method,
        proposal=given,
        temper=exponent,
        num_chains=num_chains,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        lr=lr,
        guide=guide,
        init=init,
    )
    num_chains = NUM_CHAINS.get(method, 1) if num_chains is None else num_chains
    if num_steps is None:
        num_steps = NUM_STEPS.get(method, 1)
        if method in CHAINS:
            num_steps = max(num_steps, math.ceil(num_samples / num_chains))
    warmup_steps = WARMUP_STEPS.get(method, 0) if warmup_steps is None else warmup_steps
    _check_sizes(method, num_samples, num_chains, num_steps, warmup_steps)
    mask = _check_partial(partial, num_points, mask)
    point_model = _point_model(model, partial, labels)
    batch_shape = partial.shape[:-2]

    def seen_model() -> Distribution:
        point = point_model()
        # In plates, so that what a sensor does not know is a latent of each cloud.
        with ExitStack() as plates:
            for dim, size in enumerate(batch_shape, -len(batch_shape)):
                plates.enter_context(pyro.plate(f"partial{dim}", size, dim=dim))
            return point if observe is None else observe(point)

    def observed_model() -> None:
        cloud = PointCloud(seen_model(), mask=mask)
        with ExitStack() as plates:
            for dim, size in enumerate(batch_shape, -len(batch_shape)):
                plates.enter_context(pyro.plate(f"observed{dim}", size, dim=dim))
            pyro.sample("partial", cloud, obs=partial)

    count = max(num_samples, CHECKED)
    if method in CHAINS:
        count = min(count, num_steps * num_chains)
    chains: Chains | None = None
    checked: CompletionCheck | None = None
    # What inference registers is forgotten afterwards.
    with pyro.get_param_store().scope():
        space = NoiseSpace(observed_model, batch_shape)
        if method == "svi":
            noise, diagnostics = by_svi(
                space,
                observed_model,
                count,
                num_steps,
                init or init_to_median,
                LEARNING_RATE if lr is None else lr,
                guide or AutoMultivariateNormal,
            )
        elif method == "nuts":
            noise, diagnostics, chains = by_nuts(
                space, observed_model, count, num_chains, num_steps, warmup_steps, init or init_to_median
            )
        elif method == "completer":
            assert proposal is not None  # as was checked
            noise, diagnostics = by_proposal(space, proposal, partial, mask, labels, count)[0], {}
        else:
            noise, diagnostics, chains = by_hmc(
                space, partial, mask, labels, proposal, exponent, count, num_chains, num_steps, warmup_steps
            )
        latents = space.latents(noise)
        missing = nn.functional.pad(~mask, (0, num_points - partial.shape[-2]), value=True)
        padded = nn.functional.pad(partial, (0, 0, 0, num_points - partial.shape[-2]))
        # Of all chains alike, of which more draws may be looked at than are asked for.
        rows = torch.arange(num_samples) * count // num_samples
        clouds = [_fill(_given(point_model, latents, row), padded, missing, fill) for row in rows.tolist()]
        if check:
            with torch.no_grad(), without_validation():
                few = range(min(CHECKED, len(noise)))
                checked = check_draws(
                    [_given(seen_model, latents, index) for index in few],
                    [_given(point_model, latents, index) for index in few],
                    partial,
                    mask,
                    prior=_prior_deviation(space, noise[:CHECKED]),
                    r_hat=_disagreement(diagnostics),
                    any_part=method == "completer",
                )
    if checked is not None:
        checked.warn()
    kept = {name: draws[rows] for name, draws in latents.items()}
    return Completion(torch.stack(clouds), ~missing, kept, method, diagnostics, chains, checked)


def _check_proposal(model: Any, proposal: Completer | str | None) -> Completer | None:
    if proposal == AUTO:
        proposal = model.completer if isinstance(model, LatentCloudModel) else None
        if isinstance(proposal, Completer) and not proposal.is_of(model):
            raise ValueError(
                "the model was changed since its completer was trained, or is of another type or elsewhere: give "
                "proposal=None, or one that was trained for it"
            )
    if proposal is not None and not isinstance(proposal, Completer):
        raise TypeError(f"expected a Completer as proposal, got {type(proposal).__name__}")
    return proposal


def _check_method(method: str, proposal: Completer | None, observe: Wrapper | None) -> str:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "completer" and proposal is None:
        raise ValueError("method='completer' draws from a completer: give proposal")
    if method == AUTO:
        return "completer" if proposal is not None and observe is None else "hmc"
    return method


def _check_temper(temper: float | str) -> float | None:
    """The exponent of the likelihood, None for "auto"."""
    if temper == AUTO:
        return None
    if isinstance(temper, str) or not temper > 0:
        raise ValueError(f"temper must be a positive number or 'auto', got {temper!r}")
    return temper


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
            loc = next(model.parameters()).new_zeros(model.context_dim)
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


def _given(model: Callable[[], Distribution], latents: dict[str, Tensor], index: int) -> Distribution:
    """What a model returns given one draw of its latents."""
    return poutine.condition(model, data={name: draws[index] for name, draws in latents.items()})()


def _disagreement(diagnostics: dict[str, Any]) -> Tensor | None:
    """Split r_hat of the log-likelihood, shape `(*batch,)`, and 1 where it hardly differs between draws at all."""
    if "log_likelihood" not in diagnostics:
        return None
    differs = diagnostics["log_likelihood"].std((0, 1)) > LEAST_DIFFERENCE
    return torch.where(differs, diagnostics["r_hat_log_likelihood"], 1.0)


def _prior_deviation(space: NoiseSpace, noise: Tensor) -> Tensor:
    """How many standard deviations the log-density of draws lies above its mean under the prior, shape `(*batch,)`.

    NaN of a model that cannot be evaluated for many draws at once.
    """
    if not space.chains_are_apart:
        return noise.new_full(space.batch_shape, math.nan)
    expected = space.log_prior(space.from_prior(PRIOR_DRAWS))
    return (space.log_prior(noise).mean(0) - expected.mean(0)) / expected.std(0)


def _fill(point: Distribution, padded: Tensor, missing: Tensor, fill: Wrapper | None) -> Tensor:
    with torch.no_grad():
        points = PointCloud(point if fill is None else fill(point), num_points=missing.shape[-1])
        return torch.where(missing.unsqueeze(-1), points.expand(missing.shape[:-1]).sample(), padded)

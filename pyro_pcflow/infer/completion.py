"""Shape completion: whole clouds that agree with an observed part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial as partial_call
from typing import Any, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_median
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow

__all__ = ["Completion", "complete"]

METHODS = ("svi", "nuts")
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
        latents: posterior samples of every latent, shape `(num_samples, *shape)` each.
        diagnostics: for `"nuts"` what `MCMC.diagnostics` says (`r_hat`, `n_eff`, divergences); for `"svi"` the
            `losses`, negative evidence lower bounds in nats, one per step.
    """

    clouds: Tensor
    observed: Tensor
    latents: dict[str, Tensor]
    diagnostics: dict[str, Any]


def complete(
    model: PointCloudFlow | MixtureOfFlows | HasPointModel | Callable[[], Distribution],
    partial: Tensor,
    num_points: int,
    *,
    mask: Tensor | None = None,
    observe: Wrapper | None = None,
    fill: Wrapper | None = None,
    method: str = "svi",
    num_samples: int = 16,
    num_steps: int = 500,
    lr: float = 0.02,
    warmup_steps: int = 200,
    guide: Callable[[Callable], nn.Module] = AutoMultivariateNormal,
    init: Callable = init_to_median,
) -> Completion:
    """Complete a partial cloud: infer the latents of its shape, and draw the missing points given them.

    The observed points are modelled as independent draws from the shape as the sensor sees it. If a sensor misses a
    part of the object, say so with `observe`, or the missing part counts as evidence that nothing is there.

    Weights of flows are not trained, and neither Pyro's parameter store nor your gradients change. Random numbers
    come from torch's global generator: `pyro.set_rng_seed` makes a run repeat.

    Args:
        model: a model with a `point_model`, such as `PointCloudVAE`; a function that samples latents and returns a
            point distribution, such as a posed flow, or `functools.partial(vae.point_model, labels=labels)`; or a
            conditional flow, whose context then has a standard normal prior.
        partial: observed points, shape `(*batch, N, D)`, in the data's units.
        num_points: points of a completed cloud, at least `N`.
        mask: True at observed points, shape `(*batch, N)`, if clouds have different sizes; padding is filled too.
        observe: from the point distribution of the object to that of observed points, for example
            `lambda point: one_sided(point, direction)`; by default the identity.
        fill: from the point distribution of the object to that of the drawn points, for example
            `lambda point: one_sided(point, direction).complement()`; by default the identity.
        method: `"svi"`, fast, a fitted guide; `"nuts"`, exact in the limit of many samples.
        num_samples: number of completed clouds.
        num_steps: steps of the optimizer for `"svi"`; samples of the chain for `"nuts"`, of which `num_samples` are
            kept at even distances.
        lr: step size of Adam for `"svi"`, which decays to a hundredth of it.
        warmup_steps: steps of `"nuts"` that adapt it and are dropped.
        guide: one of Pyro's automatic guides; `AutoNormal` is cheaper for many clouds at once.
        init: where inference starts, one of Pyro's `init_to_...`.

    Raises:
        ValueError: if shapes do not fit, the observed points are not finite, or an option is unknown.
        TypeError: if the model is none of these, or a flow without a context.

    Examples:
        >>> flow = PointCloudFlow(point_dim=3, context_dim=2, num_couplings=2, hidden_dims=[8])
        >>> result = complete(flow, torch.randn(20, 3), num_points=50, num_samples=4, num_steps=10)
        >>> result.clouds.shape, result.latents["context"].shape
        (torch.Size([4, 50, 3]), torch.Size([4, 2]))
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if num_samples < 1 or num_steps < 1 or (method == "nuts" and num_steps < num_samples):
        raise ValueError(
            f"expected num_samples and num_steps of at least 1, and a chain of at least num_samples, got "
            f"num_samples={num_samples}, num_steps={num_steps}"
        )
    mask = _check_partial(partial, num_points, mask)
    point_model = _point_model(model, partial)

    def observed_model() -> None:
        point = point_model()
        cloud = PointCloud(point if observe is None else observe(point), mask=mask).expand(partial.shape[:-2])
        pyro.sample("partial", cloud.to_event(len(cloud.batch_shape)), obs=partial)

    # What inference registers is forgotten afterwards.
    with pyro.get_param_store().scope():
        infer = _by_nuts if method == "nuts" else _by_svi
        options = (warmup_steps,) if method == "nuts" else (lr, guide)
        latents, diagnostics = infer(observed_model, num_samples, num_steps, init, *options)
        missing = nn.functional.pad(~mask, (0, num_points - partial.shape[-2]), value=True)
        padded = nn.functional.pad(partial, (0, 0, 0, num_points - partial.shape[-2]))
        clouds = [
            _fill(poutine.condition(point_model, data=_row(latents, index))(), padded, missing, fill)
            for index in range(num_samples)
        ]
    return Completion(torch.stack(clouds), ~missing, latents, diagnostics)


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


def _point_model(model: Any, partial: Tensor) -> Callable[[], Distribution]:
    """The function that samples latents for the partial clouds and returns the density of a point."""
    batch_shape = partial.shape[:-2]
    if isinstance(model, PointCloudFlow | MixtureOfFlows):
        if model.context_dim == 0:
            raise TypeError("the flow has no context (context_dim=0), so there is nothing to infer about its shape")

        def sample_context() -> Distribution:
            loc = partial.new_zeros(*batch_shape, model.context_dim)
            prior = dist.Normal(loc, 1.0).to_event(loc.dim())
            return model.condition(pyro.sample("context", prior))

        return sample_context
    if isinstance(model, HasPointModel):
        if len(batch_shape) > 1:
            raise ValueError(f"expected a partial cloud of shape (N, D) or (B, N, D), got {tuple(partial.shape)}")
        return partial_call(model.point_model, *batch_shape)
    if not callable(model):
        raise TypeError(
            "expected a model with point_model, a conditional flow, or a function that samples latents and returns a "
            f"point distribution, got {type(model).__name__}"
        )
    return model


def _by_svi(
    model: Callable[[], None], num_samples: int, num_steps: int, init: Callable, lr: float, guide: Callable
) -> tuple[dict[str, Tensor], dict[str, Any]]:
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
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}, {"losses": losses}


def _by_nuts(
    model: Callable[[], None], num_samples: int, num_steps: int, init: Callable, warmup_steps: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    chain = MCMC(
        NUTS(model, init_strategy=init), num_samples=num_steps, warmup_steps=warmup_steps, disable_progbar=True
    )
    chain.run()
    kept = torch.linspace(0, num_steps - 1, num_samples).round().long()
    return {name: draws[kept] for name, draws in chain.get_samples().items()}, chain.diagnostics()


def _row(latents: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: draws[index] for name, draws in latents.items()}


def _fill(point: Distribution, padded: Tensor, missing: Tensor, fill: Wrapper | None) -> Tensor:
    with torch.no_grad():
        points = PointCloud(point if fill is None else fill(point), num_points=missing.shape[-1])
        return torch.where(missing.unsqueeze(-1), points.expand(missing.shape[:-1]).sample(), padded)

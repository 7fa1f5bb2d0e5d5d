"""Approximate posteriors over latents, one cloud at a time: Gauss-Newton steps and a Laplace approximation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, Distribution, Transform, TransformedDistribution

from pyro_pcflow.models.generator import Generator

__all__ = ["Decode", "laplace_posterior", "refined_posterior"]

# Points whose clouds are refined at once.
POINTS_AT_ONCE = 2**13

# Groups of points per coordinate of a latent, and their least number: their scores must span its space, and each group
# costs a decoding.
GROUPS_PER_DIM, LEAST_GROUPS = 2, 64
# The shares of a step of which the best is taken; the last leaves a latent where it is.
SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)
# Steps over which the Fisher information is averaged.
MEMORY = 4
# How far beyond the sphere on which most draws of a prior of width 1 lie a start is at most.
BEYOND = 4.0

# From latents (*batch, L), a number of points N and their mask (*batch, N) to the density of clouds.
Decode = Callable[[Tensor, int, Tensor | None], Distribution]


def refined_posterior(
    model: Generator,
    clouds: Tensor,
    mask: Tensor | None,
    posterior: Distribution,
    num_steps: int,
    labels: Tensor | None,
    noise_level: Tensor | float,
) -> TransformedDistribution:
    """What `LatentCloudModel.refine` returns, see there: a normal in the prior's noise for each cloud.

    Args:
        model: a prior over latents, and a density of clouds given them.
        clouds: shape `(*batch, N, D)`.
        mask: True at points, shape `(*batch, N)`; None if all are.
        posterior: where to start, at its mean, `batch_shape (*batch,)`.
        num_steps: number of steps.
        labels: class numbers, shape `(*batch,)`; None if there are no classes.
        noise_level: of clouds, shape `(*batch,)` or a number.

    Returns:
        A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.
    """
    batch = clouds.shape[:-2]

    def decode(labels: Tensor | None, level: Tensor, z: Tensor, num_points: int, mask: Tensor | None) -> Distribution:
        return model.decode(z, num_points, mask=mask, labels=labels, noise_level=level)

    # Gradients are needed in any mode of the caller's, who gets none.
    with torch.inference_mode(False), torch.no_grad():
        level = _flat(torch.as_tensor(noise_level, device=clouds.device), batch)
        flat_labels = None if labels is None else _flat(labels, batch)
        flat_mask = None if mask is None else _flat(mask, batch)
        flat_clouds, starts = _flat(clouds, batch), _flat(posterior.mean, batch)
        found = []
        at_once = max(1, POINTS_AT_ONCE // max(1, clouds.shape[-2]))
        for first in range(0, len(starts), at_once):
            some = slice(first, first + at_once)
            some_labels = None if flat_labels is None else flat_labels[some]
            some_mask = None if flat_mask is None else flat_mask[some]
            density = partial(decode, some_labels, level[some])
            prior = model.latent_prior(some_labels)
            found.append(laplace_posterior(density, prior, starts[some], flat_clouds[some], some_mask, num_steps))
        loc, scale_tril = (torch.cat(parts).reshape(*batch, *parts[0].shape[1:]) for parts in zip(*found, strict=True))
        noise = dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
        _, transforms = noise_and_transforms(model.latent_prior(labels))
    return dist.TransformedDistribution(noise, transforms, validate_args=False)


def laplace_posterior(
    decode: Decode, prior: Distribution, latents: Tensor, clouds: Tensor, mask: Tensor | None, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Climb from latents to the modes of their posteriors, and approximate these by normals in the prior's noise.

    Where a latent is `z = f(e)` with noise `e` under the prior `f`, the step is that of Fisher scoring (Osborne,
    Fisher's method of scoring, International Statistical Review 1992),

        e  <-  e + (F + I)^-1 d/de [ log p(x | f(e)) + log p(e) ],

    with the identity as the curvature of `log p(e)`. The Fisher information `F` is estimated by the scores of groups of
    points that are drawn from `p(x | f(e))`, and averaged over steps. Of several shares of a step, the best is taken.
    The covariance of the approximation (Laplace's; Tierney and Kadane, JASA 1986) is `(F + I)^-1`.

    Args:
        decode: the density of clouds given their latents.
        prior: over latents, `event_shape (L,)`: noise under transforms, or the noise itself.
        latents: where to start, shape `(B, L)`.
        clouds: shape `(B, N, D)`.
        mask: True at points, shape `(B, N)`; None if all are.
        num_steps: number of steps.

    Returns:
        The means, shape `(B, L)`, and the lower triangular roots of the covariances, `(B, L, L)`, in the prior's noise.
    """
    noise_density, transforms = noise_and_transforms(prior)
    transform = ComposeTransform(transforms)
    num_groups = max(LEAST_GROUPS, GROUPS_PER_DIM * latents.shape[-1])
    count = max(1, math.ceil(clouds.shape[-2] / num_groups))
    points_of_each = latents.new_full((len(latents),), clouds.shape[-2]) if mask is None else mask.sum(-1)
    share = (points_of_each / count)[:, None, None]
    identity = torch.eye(latents.shape[-1], dtype=torch.float64, device=latents.device)

    def height(noise: Tensor) -> Tensor:
        density = decode(transform(noise), clouds.shape[-2], mask)
        return density.log_prob(clouds) + noise_density.log_prob(noise)

    noise, precision = _pulled_back(transform.inv(latents)), identity
    for step in range(num_steps + 1):
        information = share * _information(decode, transform, noise, num_groups, count)
        precision = precision + (information + identity - precision) / min(step + 1, MEMORY)
        if step == num_steps:
            break
        gradient = _gradient(height, noise).double().unsqueeze(-1)
        move = torch.cholesky_solve(gradient, torch.linalg.cholesky(precision)).squeeze(-1).to(noise)
        tried = noise + noise.new_tensor(SHARES)[:, None, None] * move
        best = height(tried).nan_to_num(nan=-torch.inf).argmax(0)
        noise = tried[best, torch.arange(len(noise), device=noise.device)]
    # Reversed in order, the root of the precision is the inverse of a lower triangular root of the covariance.
    root = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1)
    return noise, torch.linalg.solve_triangular(root.mT, identity, upper=False).to(noise)


def noise_and_transforms(prior: Distribution) -> tuple[Distribution, list[Transform]]:
    """The noise under a prior, and the transforms that carry it to latents: none for a prior that is noise itself."""
    if isinstance(prior, TransformedDistribution):
        return prior.base_dist, list(prior.transforms)
    return prior, []


def _pulled_back(noise: Tensor) -> Tensor:
    """Starts that are as far out as a prior of width 1 has some mass: an encoder can point to where it has none."""
    longest = math.sqrt(noise.shape[-1]) + BEYOND
    norm = torch.linalg.vector_norm(noise.double(), dim=-1, keepdim=True)
    return torch.where(norm <= longest, noise, (noise * (longest / norm)).nan_to_num(0.0, 0.0, 0.0).to(noise))


def _information(decode: Decode, transform: Transform, noise: Tensor, num_groups: int, count: int) -> Tensor:
    """The Fisher information about noise, shape `(B, L, L)`, in each of `num_groups` groups of `count` points."""
    points = decode(transform(noise), num_groups * count, None).sample()
    groups = points.unflatten(1, (num_groups, count)).movedim(1, 0)

    def log_prob(noise: Tensor) -> Tensor:
        return decode(transform(noise), count, None).log_prob(groups)

    scores = _gradient(log_prob, noise.expand(num_groups, *noise.shape)).double()
    return torch.einsum("gbi,gbj->bij", scores, scores) / num_groups


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(at).sum(), at)[0]


def _flat(values: Tensor, batch: torch.Size) -> Tensor:
    """A copy for each cloud of a batch, in one row; it may be differentiated, whatever the mode of the caller."""
    event = values.shape[len(batch) :] if values.dim() > len(batch) else torch.Size()
    return values.detach().clone().expand(batch + event).reshape(batch.numel(), *event)

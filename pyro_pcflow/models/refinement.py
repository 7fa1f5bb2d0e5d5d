"""Approximate posteriors over latents, one cloud at a time: Gauss-Newton steps and a Laplace approximation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import ComposeTransform, Distribution, Transform, TransformedDistribution

__all__ = ["Decode", "laplace_posterior", "noise_and_transforms"]

# Groups of points per coordinate of a latent, and their least number: their scores must span its space, and each group
# costs a decoding.
GROUPS_PER_DIM, LEAST_GROUPS = 2, 64
# The shares of a step of which the best is taken; the last leaves a latent where it is.
SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)
# Steps over which the Fisher information is averaged.
MEMORY = 4

# From latents (*batch, L), a number of points N and their mask (*batch, N) to the density of clouds.
Decode = Callable[[Tensor, int, Tensor | None], Distribution]


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

    noise, precision = transform.inv(latents), identity
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

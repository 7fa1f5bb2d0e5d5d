"""Quasi-Monte Carlo samples, for integrals that must be smooth in the parameters of a distribution."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution
from torch.quasirandom import SobolEngine

from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture
from pyro_pcflow.ops.random import seeded

__all__ = ["quasi_monte_carlo"]


def quasi_monte_carlo(distribution: Distribution, num_samples: int) -> tuple[Tensor, Tensor]:
    """Weighted quasi-Monte Carlo samples, the same each time, differentiable in the parameters of the distribution.

    A flow on normal noise gets a scrambled Sobol sequence (Owen, Scrambling Sobol' and Niederreiter-Xing points,
    Journal of Complexity 14, 1998), whose integration error falls nearly as `1 / num_samples`. One on a mixture of
    Gaussians gets equally many samples of each component, with its weight. Any other distribution gets its own samples
    from a fixed seed, with the usual `1 / sqrt(num_samples)`.

    Args:
        distribution: a distribution with `event_shape (D,)`.
        num_samples: number of samples, best a power of two.

    Returns:
        Samples of shape `(S, *batch_shape, D)`, where `S` is `num_samples`, or its nearest multiple of the number of
        components, and logarithms of their weights, which sum to 1, of a shape that broadcasts to `(S, *batch_shape)`.

    Raises:
        TypeError: if the distribution has no `rsample`.

    Examples:
        >>> import pyro.distributions as dist
        >>> point = dist.Normal(torch.zeros(5, 3), torch.ones(5, 3)).to_event(1)
        >>> samples, log_weights = quasi_monte_carlo(point, 1024)
        >>> samples.shape, bool(((log_weights.exp().unsqueeze(-1) * samples).sum(0).abs() < 0.01).all())
        (torch.Size([1024, 5, 3]), True)
    """
    if isinstance(distribution, TransformedDistribution):
        samples, log_weights = quasi_monte_carlo(distribution.base_dist, num_samples)
        for transform in distribution.transforms:
            samples = transform(samples)
        return samples, log_weights
    if isinstance(distribution, GaussianMixture):
        count = max(1, round(num_samples / distribution.num_components))
        noise = _sobol_normal(count * distribution.num_components, distribution.event_shape[0])
        # Neighbours in the sequence fill the space; every K-th point would not.
        return distribution.stratified(noise.unflatten(0, (-1, count)).transpose(0, 1))
    inner = distribution
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if isinstance(inner, Normal) and len(distribution.event_shape) == 1:
        noise = _sobol_normal(num_samples, distribution.event_shape[0]).to(inner.loc)
        samples = inner.loc + inner.scale * noise.reshape(num_samples, *(1,) * len(distribution.batch_shape), -1)
    elif distribution.has_rsample:
        with seeded(0):
            samples = distribution.rsample(torch.Size((num_samples,)))
    else:
        raise TypeError(f"expected a distribution whose samples carry gradients, got {type(distribution).__name__}")
    return samples, samples.new_full(samples.shape[:-1], -math.log(num_samples))


@lru_cache(maxsize=16)
def _sobol_normal(num_samples: int, dim: int) -> Tensor:
    # In a thread of its own: around this one may be `torch.func.vmap`, under which nothing is drawn.
    with ThreadPoolExecutor(1) as thread:
        uniform = thread.submit(
            lambda: SobolEngine(dim, scramble=True, seed=0).draw(num_samples, dtype=torch.float64)
        ).result()
    # A coordinate may be 0 or 1 to the last bit, whose quantile is infinite.
    return torch.special.ndtri(uniform.clamp(1e-10, 1 - 1e-10))

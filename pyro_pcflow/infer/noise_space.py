"""Latents of a Pyro model as unconstrained noise: many chains of many clouds at once, in one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.reparam import TransformReparam
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Independent, Transform, TransformedDistribution, biject_to

from pyro_pcflow.distributions import PointCloud

__all__ = ["BASE_SUFFIX", "NoiseSpace", "non_centred", "without_validation"]

# What Pyro's `TransformReparam` appends to the name of a site.
BASE_SUFFIX = "_base"
# Observed numbers of so many chains are evaluated at once on a CPU, where the memory of more is slower than they are.
NUMBERS_AT_ONCE = 2**18


def non_centred(model: Callable[..., Any]) -> Callable[..., Any]:
    """The same Pyro model with every latent whose prior is a flow sampled as the noise under it.

    A latent `z` with a flow prior becomes a site `z_base`, the noise, and a deterministic `z`. In the noise the prior
    is round, which a guide of normals or a chain can follow; in `z` it has thin curved parts (Papaspiliopoulos, Roberts
    and Sköld, A general framework for the parametrization of hierarchical models, Statistical Science 2007; Hoffman et
    al., NeuTra-lizing bad geometry in Hamiltonian Monte Carlo using neural transport, 2019).

    Args:
        model: any Pyro model.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
        >>> trace = poutine.trace(non_centred(vae.point_model)).get_trace()
        >>> trace.stochastic_nodes, trace.nodes["z"]["value"].shape
        (['z_base'], torch.Size([4]))
    """
    return poutine.reparam(model, config=_reparametrized)


def _reparametrized(site: dict[str, Any]) -> TransformReparam | None:
    if site["is_observed"] or site["name"].endswith(BASE_SUFFIX):
        return None
    density = site["fn"]
    while isinstance(density, Independent):
        density = density.base_dist
    # Those of a bounded support, such as a log-normal, have their own way to the real line.
    is_real = isinstance(density, TransformedDistribution) and all(
        transform.bijective and _is_real(transform.codomain) for transform in density.transforms
    )
    return TransformReparam() if is_real else None


def _is_real(constraint: Any) -> bool:
    while isinstance(constraint, torch.distributions.constraints.independent):
        constraint = constraint.base_constraint
    return constraint is torch.distributions.constraints.real


@contextmanager
def without_validation() -> Iterator[None]:
    """Let no distribution check its arguments: a step that went too far is then a number, and not an error."""
    with pyro.validation_enabled(False):
        yield


@dataclass(frozen=True)
class _Site:
    """A latent: where it lies in a vector of noise, and how it comes out of it."""

    name: str
    start: int
    size: int
    shape: torch.Size
    to_support: Transform


class NoiseSpace:
    """The latents of a Pyro model as one vector of real numbers, and the terms of the model's log-density there.

    Flow priors are non-centred, see `non_centred`, and latents of bounded support are carried to the real line.
    Everything is evaluated for many chains at once, in a plate of Pyro to the left of the model's own.

    If each of some clouds has latents of its own, in a plate, there is one problem per cloud. Otherwise all of them are
    one problem, whose batch shape is `()`.

    Args:
        model: a Pyro model with an observed site, called without arguments.
        batch_shape: of its clouds.

    Attributes:
        batch_shape: one problem each.
        size: real numbers per problem.

    Raises:
        ValueError: if the model has no latents, or a discrete one.

    Examples:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("clouds", 3):
        ...         loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=torch.ones(3, 2))
        >>> space = NoiseSpace(model, torch.Size([3]))
        >>> space.batch_shape, space.size
        (torch.Size([3]), 2)
        >>> [term.shape for term in space.log_densities(torch.zeros(10, 3, 2))]
        [torch.Size([10, 3]), torch.Size([10, 3])]
    """

    def __init__(self, model: Callable[[], Any], batch_shape: torch.Size) -> None:
        self._model = non_centred(model)
        trace = poutine.trace(self._model).get_trace()
        frames = [frame for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ())]
        self._chain_dim = min((frame.dim for frame in frames if frame.vectorized), default=0) - 1
        latents = {name: site for name, site in trace.nodes.items() if _is_latent(site)}
        if not latents:
            raise ValueError("the model has no latents to infer: sample some of them with pyro.sample")
        for name, site in latents.items():
            if site["fn"].has_enumerate_support or not site["value"].is_floating_point():
                raise ValueError(f"the latent {name!r} is discrete: sum over it in the model, as a mixture does")
        plates = -1 - self._chain_dim
        separate = all(site["fn"].batch_shape == batch_shape for site in latents.values())
        self.batch_shape = batch_shape if separate else torch.Size()
        self._between = plates - len(self.batch_shape)
        self._sites: list[_Site] = []
        start = 0
        for name, site in latents.items():
            to_support = biject_to(site["fn"].support)
            shape = to_support.inverse_shape(site["value"].shape)
            # As under the plate of the chains, which every plate of the model lies to the right of.
            rank = len(site["fn"].batch_shape)
            shape = torch.Size([*(1,) * (plates - rank), *shape])
            size = shape.numel() // self.batch_shape.numel()
            self._sites.append(_Site(name, start, size, shape, to_support))
            start += size
        self.size = start
        numbers = sum(site["value"].numel() for site in trace.nodes.values() if _is_observed(site))
        self._chains_at_once = max(1, NUMBERS_AT_ONCE // max(1, numbers))
        # Of latents and of deterministic sites, such as a latent whose noise it is.
        self._shapes = {
            name: site["value"].shape
            for name, site in trace.nodes.items()
            if name in latents or (site["type"] == "sample" and _is_deterministic(site, latents))
        }

    @cached_property
    def chains_are_apart(self) -> bool:
        """Whether some chains at once have the densities of each alone: a model that does not broadcast is wrong."""
        noise = self.from_prior(4)
        with torch.no_grad():
            together = torch.stack(self.log_densities(noise))
            alone = torch.cat([torch.stack(self.log_densities(chain.unsqueeze(0))) for chain in noise], 1)
        # Sums in another order and integrals by other points are somewhat off; what sees the data of all chains is a
        # multiple.
        return torch.allclose(together, alone, rtol=0.02, atol=0.3, equal_nan=True)

    def check_that_chains_are_apart(self) -> None:
        """Refuse a model that cannot be evaluated for many chains at once.

        Raises:
            ValueError: if its log-density is another one then.
        """
        if not self.chains_are_apart:
            raise ValueError(
                "the model has another log-density when many chains are evaluated at once, in a plate to the left of "
                f"its own, of dimension {self._chain_dim}: sample what belongs to a cloud in a plate, let shapes "
                "broadcast, and index events from the right"
            )

    @property
    def names(self) -> list[str]:
        """Names of the sites that the noise is made of."""
        return [site.name for site in self._sites]

    def from_prior(self, num_chains: int) -> Tensor:
        """Draws of the prior, shape `(num_chains, *batch_shape, size)`."""
        with torch.no_grad(), without_validation(), pyro.plate("_chains", num_chains, dim=self._chain_dim):
            trace = poutine.trace(poutine.block(self._model, hide_fn=_is_observed)).get_trace()
        return self.join({site.name: trace.nodes[site.name]["value"] for site in self._sites})

    def join(self, values: dict[str, Tensor]) -> Tensor:
        """One vector of the values of all sites, as `latents` gives them."""
        parts = [site.to_support.inv(values[site.name]) for site in self._sites]
        lead = (len(parts[0]), *self.batch_shape)
        return torch.cat([part.reshape(*lead, site.size) for part, site in zip(parts, self._sites, strict=True)], -1)

    def slice_of(self, name: str) -> slice:
        """Where a site lies in a vector of noise."""
        (site,) = [site for site in self._sites if site.name == name]
        return slice(site.start, site.start + site.size)

    def log_densities(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density of the noise under the prior, and that of what is observed given it.

        Args:
            noise: shape `(chains, *batch_shape, size)`.

        Returns:
            Two tensors of shape `(chains, *batch_shape)`, of which first derivatives can be taken.
        """
        pieces = self._pieces(noise)
        if len(pieces) == 1:
            return self._log_densities(noise)
        if noise.requires_grad and torch.is_grad_enabled():
            return _PieceByPiece.apply(noise, self._log_densities, pieces)
        log_priors, log_likelihoods = zip(*map(self._log_densities, pieces), strict=True)
        return torch.cat(log_priors), torch.cat(log_likelihoods)

    def _pieces(self, noise: Tensor) -> tuple[Tensor, ...]:
        return noise.split(self._chains_at_once if noise.device.type == "cpu" else len(noise))

    def _log_densities(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        values = self._values(noise)
        with without_validation():
            trace = self._trace(values, len(noise))
            trace.compute_log_prob()
        log_likelihood = noise.new_zeros(noise.shape[:-1])
        for site in self._data(trace):
            log_likelihood = log_likelihood + self._per_problem(site["log_prob"])
        return self._log_prior(noise, values, trace), log_likelihood

    def log_prior(self, noise: Tensor) -> Tensor:
        """The first of `log_densities`, at a fraction of the cost."""
        values = self._values(noise)
        with without_validation():
            trace = self._trace(values, len(noise))
            trace.compute_log_prob(lambda name, _: name in values)
        return self._log_prior(noise, values, trace)

    def _log_prior(self, noise: Tensor, values: dict[str, Tensor], trace: poutine.Trace) -> Tensor:
        log_prior = noise.new_zeros(noise.shape[:-1])
        for site in self._sites:
            log_det = site.to_support.log_abs_det_jacobian(self._part(site, noise), values[site.name])
            log_prob = trace.nodes[site.name]["log_prob"]
            log_prior = log_prior + self._per_problem(log_det) + self._per_problem(log_prob)
        return log_prior

    def information(self, noise: Tensor, num_repeats: int) -> Tensor:
        """An estimate of the Fisher information that the observed has of the noise, averaged over chains.

        It is the mean of outer products of gradients of sums of log-densities of points under random signs, which are
        uncorrelated: that of the products of the scores of each point. Of an observed site that is no `PointCloud` it
        is the mean over data drawn from it (Amari, Information geometry and its applications, 2016, section 12.1).

        Args:
            noise: shape `(chains, *batch_shape, size)`.
            num_repeats: random gradients of each chain.

        Returns:
            Shape `(*batch_shape, size, size)`, positive semi-definite.
        """
        products = [self._products_of_scores(piece, num_repeats) for piece in self._pieces(noise.detach())]
        return torch.stack(products).sum(0) / (num_repeats * len(noise))

    def _products_of_scores(self, noise: Tensor, num_repeats: int) -> Tensor:
        noise = noise.requires_grad_()
        with torch.enable_grad(), without_validation():
            trace = self._trace(self._values(noise), len(noise))
            data = self._data(trace)
            terms = [site["fn"].log_prob_of_points(site["value"]) for site in data if _is_cloud(site)]
            others = [site["fn"] for site in data if not _is_cloud(site)]
            total = noise.new_zeros(*self.batch_shape, self.size, self.size)
            for _ in range(num_repeats):
                score = noise.new_zeros(())
                for term in terms:
                    score = score + (term * (2 * torch.randint_like(term, 2) - 1)).sum()
                for density in others:
                    score = score + density.log_prob(density.sample()).sum()
                (gradient,) = torch.autograd.grad(score, noise, retain_graph=True)
                gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                total = total + torch.einsum("c...i,c...j->...ij", gradient, gradient)
        return total

    def latents(self, noise: Tensor) -> dict[str, Tensor]:
        """The value of every latent, and of every deterministic site, such as a latent whose noise it is.

        Args:
            noise: shape `(chains, *batch_shape, size)`.

        Returns:
            By name, shape `(chains, *shape)`.
        """
        with torch.no_grad(), without_validation():
            trace = self._trace(self._values(noise), len(noise))
        # Without the dimensions that a plate of the chains puts between it and a site's own.
        return {name: trace.nodes[name]["value"].reshape(len(noise), *shape) for name, shape in self._shapes.items()}

    def _part(self, site: _Site, noise: Tensor) -> Tensor:
        """What a site's noise is, in the shape that the site has under the plate of the chains."""
        return noise[..., site.start : site.start + site.size].reshape(len(noise), *site.shape)

    def _values(self, noise: Tensor) -> dict[str, Tensor]:
        """The value of every site that the noise is made of."""
        return {site.name: site.to_support(self._part(site, noise)) for site in self._sites}

    def _data(self, trace: poutine.Trace) -> list[dict[str, Any]]:
        """The sites of what is observed, which does not count what the trace was given as latents."""
        return [
            site
            for name, site in trace.nodes.items()
            if _is_observed(site)
            and name not in self.names
            and name not in self._shapes
            and not poutine.util.site_is_subsample(site)
        ]

    def _trace(self, values: dict[str, Tensor], num_chains: int) -> poutine.Trace:
        with pyro.plate("_chains", num_chains, dim=self._chain_dim):
            return poutine.trace(poutine.condition(self._model, data=values)).get_trace()

    def _per_problem(self, log_prob: Tensor) -> Tensor:
        """Sums of log-probabilities, shape `(chains, *plates)`, over all that belongs to one problem."""
        if not self.batch_shape:
            return log_prob.flatten(1).sum(-1) if log_prob.dim() > 1 else log_prob
        return log_prob.sum(tuple(range(1, 1 + self._between))) if self._between else log_prob


class _PieceByPiece(torch.autograd.Function):
    """Log-densities of some chains at a time, whose graphs are gone before those of the next are made."""

    @staticmethod
    def forward(
        ctx: Any, noise: Tensor, log_densities: Callable[[Tensor], tuple[Tensor, Tensor]], pieces: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        found, slopes = [], []
        for piece in pieces:
            piece = piece.detach().requires_grad_()
            with torch.enable_grad():
                terms = log_densities(piece)
                slopes.append([_slope(term, piece) for term in terms])
            found.append([term.detach() for term in terms])
        ctx.save_for_backward(*map(torch.cat, zip(*slopes, strict=True)))
        return tuple(map(torch.cat, zip(*found, strict=True)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None, None]:
        weighted = [weight.unsqueeze(-1) * slope for weight, slope in zip(weights, ctx.saved_tensors, strict=True)]
        return sum(weighted[1:], weighted[0]), None, None


def _slope(term: Tensor, noise: Tensor) -> Tensor:
    if not term.requires_grad:
        return torch.zeros_like(noise)
    (slope,) = torch.autograd.grad(term.sum(), noise, retain_graph=True, allow_unused=True, materialize_grads=True)
    return slope


def _is_latent(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site)


def _is_deterministic(site: dict[str, Any], latents: dict[str, Any]) -> bool:
    return site["infer"].get("_deterministic", False) or site["name"] + BASE_SUFFIX in latents


def _is_cloud(site: dict[str, Any]) -> bool:
    return isinstance(site["fn"], PointCloud)


def _is_observed(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and site["is_observed"]

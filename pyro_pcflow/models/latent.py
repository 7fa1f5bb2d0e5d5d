"""A latent for each cloud: its Pyro model and guide, and bounds on the log-density of clouds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import ComposeTransform, Distribution, TransformedDistribution

from pyro_pcflow.models.generator import PRIOR_DECAY, Generator
from pyro_pcflow.models.refinement import refined_posterior
from pyro_pcflow.models.replicates import warn_of_latents

__all__ = ["LatentCloudModel", "unregistered"]

# Points that `log_prob` evaluates at once, which bounds its memory.
POINTS_AT_ONCE = 2**18
_registers: ContextVar[bool] = ContextVar("registers", default=True)


@contextmanager
def unregistered() -> Iterator[None]:
    """Keep `model` and `guide` from registering parameters with Pyro, for training by an optimizer of torch.

    `SVI` finds the parameters of a module by its registration, `pyro.module`, which sends a message per parameter and
    call. An optimizer that holds `module.parameters()` needs none. Without it, Pyro's parameter store stays as it was,
    the module can still be pickled, and a step is faster: registration added 6 to 22% to the time of a step of the
    default model on 16 clouds of 128 points, on one CPU core. `pcf.fit` trains this way.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> pyro.clear_param_store()
        >>> vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
        >>> elbo = pyro.infer.Trace_ELBO()
        >>> with unregistered():
        ...     elbo.differentiable_loss(vae.model, vae.guide, torch.randn(2, 50, 3)).backward()
        >>> len(pyro.get_param_store())
        0
    """
    token = _registers.set(False)
    try:
        yield
    finally:
        _registers.reset(token)


class LatentCloudModel(Generator):
    """A generator of clouds with a latent for each of them, and a guide: the base of `PointCloudVAE` and `AutoDecoder`.

    Attributes:
        name: under which `model` and `guide` register the parameters with Pyro; two models in one parameter store need
            two names.
        learning_rate: what `pyro_pcflow.fit` takes if it is given none.
        completer: an amortised posterior of partial clouds that came with the model, a `pyro_pcflow.infer.Completer`,
            or None. It has a frozen copy of the model, and is neither trained nor saved nor moved with it.
    """

    name = "clouds"
    learning_rate = 8e-3
    completer: Any = None

    @property
    def weight_decay(self) -> dict[str, float]:
        """What `pyro_pcflow.fit` takes if it is given none: that of the prior, if it is a flow."""
        return {} if self.prior is None else {"prior": PRIOR_DECAY}

    def encode(
        self, clouds: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None, check: bool = True
    ) -> Distribution:
        """The approximate posterior over the latents of clouds.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            check: whether to warn of clouds that a trained model hardly knows, such as parts of shapes.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define encode")

    def model(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        dataset_size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        encoder_points: Tensor | None = None,
        encoder_mask: Tensor | None = None,
    ) -> Tensor:
        """The generative model: latents `z` and observed clouds `x`, in a plate `clouds`.

        Pyro gives the same arguments to a model and its guide: both take all of them, and each ignores those that the
        other needs. Parameters are registered with Pyro as `name`, except in `unregistered()`.

        Args:
            clouds: observed clouds, shape `(B, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(B, N)`; all of them by default.
            dataset_size: number of clouds that the `B` stand for; `B` by default.
            labels: class numbers, shape `(B,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(B,)` or a number.
            num_points: number of points of the whole clouds, of which `clouds` has some: a number or shape `(B,)`; by
                default `clouds` are whole.
            kl_weight: weight of the latent's terms, below 1 during a warm-up; the result is a bound only at 1.
            index: for the guide of an `AutoDecoder`, which training clouds these are, shape `(B,)`.
            encoder_points: for the guide of a `PointCloudVAE`, points that the encoder reads, shape `(B, M, D)`; by
                default `clouds`.
            encoder_mask: True at points, shape `(B, M)`; all of `encoder_points` by default.

        Returns:
            The latents, shape `(B, latent_dim)`.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a shape, a label or a size does not fit.
        """
        clouds, mask = self._check_batch(clouds, mask)
        self._register()
        with _clouds_plate(clouds, dataset_size):
            with poutine.scale(scale=kl_weight):
                z = pyro.sample("z", self.latent_prior(labels))
            density = self.decode(z, clouds.shape[-2], mask=mask, labels=labels, noise_level=noise_level)
            with poutine.scale(scale=_points_per_observed(clouds, mask, num_points)):
                pyro.sample("x", density, obs=clouds)
            return z

    def guide(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        dataset_size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        encoder_points: Tensor | None = None,
        encoder_mask: Tensor | None = None,
    ) -> Tensor:
        """The guide: the approximate posterior over latents `z`, in a plate `clouds`; arguments as for `model`."""
        return self._sample_latents(
            partial(self._batch_posterior, index=index),
            clouds,
            mask,
            dataset_size,
            labels=labels,
            kl_weight=kl_weight,
            encoder_points=encoder_points,
            encoder_mask=encoder_mask,
        )

    def _sample_latents(
        self,
        posterior: Callable[..., Distribution],
        clouds: Tensor,
        mask: Tensor | None,
        dataset_size: int | None,
        *,
        labels: Tensor | None,
        kl_weight: float,
        encoder_points: Tensor | None,
        encoder_mask: Tensor | None,
    ) -> Tensor:
        """A guide by a posterior, which is called with points, their mask and labels."""
        clouds, mask = self._check_batch(clouds, mask)
        if encoder_points is None:
            encoder_points, encoder_mask = clouds, mask
        self._register()
        with _clouds_plate(clouds, dataset_size), poutine.scale(scale=kl_weight):
            return pyro.sample("z", posterior(encoder_points, encoder_mask, labels=labels))

    def _batch_posterior(
        self, points: Tensor, mask: Tensor | None, *, labels: Tensor | None, index: Tensor | None
    ) -> Distribution:
        """The approximate posterior over the latents of a training batch."""
        return self.encode(points, mask, labels=labels, check=False)

    def _register(self) -> None:
        if _registers.get():
            pyro.module(self.name, self)

    def point_model(self, num_clouds: int | None = None, *, labels: Tensor | None = None) -> Distribution:
        """Sample latents as the site `z`, in a plate `clouds`, and return the density of a point: for `complete`.

        Args:
            num_clouds: number of clouds `B`; one cloud, without a batch shape, by default.
            labels: class numbers, shape `(B,)`, or `()` for one cloud; needed if the model has classes.

        Returns:
            A distribution with `batch_shape (B,)`, or `()`, and `event_shape (D,)`.
        """
        clouds = nullcontext() if num_clouds is None else pyro.plate("clouds", num_clouds)
        with clouds:
            z = pyro.sample("z", self.latent_prior(labels))
        return self.decoder.condition(self.decoder_context(z, labels))

    def reconstruct(
        self,
        clouds: Tensor,
        num_points: int,
        mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        refine_steps: int = 0,
        check: bool = True,
    ) -> Tensor:
        """Encode clouds and draw new points of them, from the mean of the posterior.

        Args:
            clouds: shape `(*batch, N, D)`.
            num_points: number of new points.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            refine_steps: steps that `refine` takes from there, to the mode of the posterior.
            check: see `encode`.

        Returns:
            Shape `(*batch, num_points, D)`, in the data's units.
        """
        with torch.no_grad():
            latents = self._best_latents(clouds, mask, labels, refine_steps, check)
            return self.decode(latents, num_points, labels=labels).sample()

    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        steps: int,
        num_points: int,
        *,
        labels: Tensor | None = None,
        refine_steps: int = 0,
        check: bool = True,
    ) -> Tensor:
        """Walk from clouds to clouds through the space of latents.

        Args:
            a: clouds at the start, shape `(*batch, N, D)`.
            b: clouds at the end, shape `(*batch, M, D)`.
            steps: number of clouds on the way, both ends included, at least 2.
            num_points: number of points per cloud.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            refine_steps: steps that `refine` takes from where the encoder puts both ends.
            check: see `encode`.

        Returns:
            Shape `(steps, *batch, num_points, D)`. A point of one cloud becomes the same point of the next,
            see `interpolate_latents`.
        """
        with torch.no_grad():
            start, end = (self._best_latents(clouds, None, labels, refine_steps, check) for clouds in (a, b))
        return self.interpolate_latents(start, end, steps, num_points, labels=labels)

    def _best_latents(
        self, clouds: Tensor, mask: Tensor | None, labels: Tensor | None, refine_steps: int, check: bool
    ) -> Tensor:
        if not refine_steps:
            return self.encode(clouds, mask, labels=labels, check=check).mean
        refined = self.refine(clouds, mask, refine_steps, labels=labels)
        latents = ComposeTransform(refined.transforms)(refined.base_dist.mean)
        if check:
            self._check_latents(latents, clouds, mask, labels)
        return latents

    def _check_latents(self, latents: Tensor, clouds: Tensor, mask: Tensor | None, labels: Tensor | None) -> None:
        """Warn of clouds that are not like what their latents stand for, of a trained model alone."""
        if not self.normalized:
            return
        with torch.no_grad():
            density = self.decoder.condition(self.decoder_context(latents, labels))
            warn_of_latents(density, clouds, mask, self._most_points)

    @property
    def _most_points(self) -> int | None:
        """How many points the encoder reads at once; None for any number."""
        return None

    def refine(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        num_steps: int = 3,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        posterior: Distribution | None = None,
    ) -> TransformedDistribution:
        """A better approximate posterior over the latents of clouds: a normal in the prior's noise for each.

        What `encode` finds in one go is the start of a few Gauss-Newton steps on each cloud's own posterior, whose last
        also gives the full covariance, by Laplace's approximation, see `pyro_pcflow.models.refinement`. It draws from
        torch's generators, and has no gradient.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            num_steps: number of steps, at least 1. Each takes the time of some hundred log-densities of the clouds.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(*batch,)` or a number.
            posterior: where to start, at its mean; `encode(clouds)` by default.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.

        Raises:
            TypeError: if labels are missing.
            ValueError: if there is no step, or a shape, a label or a level does not fit.

        Examples:
            >>> import pyro_pcflow as pcf
            >>> vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
            >>> clouds = torch.randn(2, 100, 3)
            >>> better = vae.refine(clouds)
            >>> better.sample((10,)).shape
            torch.Size([10, 2, 4])
            >>> vae.log_prob(clouds, posterior=better).shape
            torch.Size([2])
        """
        if num_steps < 1:
            raise ValueError(f"expected at least one step, got num_steps={num_steps}")
        clouds, mask = self.check_clouds(clouds, mask)
        if posterior is None:
            with torch.no_grad():
                posterior = self.encode(clouds, mask, labels=labels, check=False)
        return refined_posterior(self, clouds, mask, posterior, num_steps, labels, noise_level)

    def log_prob(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        num_particles: int = 64,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        posterior: Distribution | None = None,
        refine_steps: int = 0,
    ) -> Tensor:
        """A stochastic lower bound of the log-density of clouds, in nats per cloud.

        The importance-weighted bound `log mean_k p(x, z_k) / q(z_k | x)` (Burda, Grosse and Salakhutdinov, Importance
        weighted autoencoders, ICLR 2016), which rises to the log-density with the number of particles.

        How loose it is depends on the encoder. Of the shipped model of bodies, clouds of 2048 points and 64 particles,
        it was up to 25 nats per cloud below the evidence on clouds that the model drew, and up to 600 on held-out ones;
        with `refine_steps=3` up to 1.4 and up to 312 (`benchmarks.evidence`). Where that matters, use
        `pyro_pcflow.infer.evidence`.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            num_particles: number of latents per cloud.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1.
            posterior: what the latents are drawn from, `encode(clouds)` by default. With any distribution it is a
                bound; the nearer to the true posterior, the tighter.
            refine_steps: steps that `refine` takes from there; with any number it is a bound.

        Returns:
            Shape `(*batch,)`.
        """
        if num_particles < 1:
            raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
        if refine_steps < 0:
            raise ValueError(f"refine_steps must not be negative, got {refine_steps}")
        clouds, mask = self.check_clouds(clouds, mask)
        prior = self.latent_prior(labels)
        if posterior is None:
            posterior = self.encode(clouds, mask, labels=labels, check=False)
        if refine_steps:
            options: dict[str, Any] = {"labels": labels, "noise_level": noise_level, "posterior": posterior}
            posterior = self.refine(clouds, mask, refine_steps, **options)
        at_once = max(1, POINTS_AT_ONCE // max(1, clouds.numel() // self.point_dim))
        log_weights = []
        for first in range(0, num_particles, at_once):
            z = posterior.rsample(torch.Size((min(at_once, num_particles - first),)))
            density = self.decode(z, clouds.shape[-2], mask=mask, labels=labels, noise_level=noise_level)
            log_weights.append(density.log_prob(clouds) + prior.log_prob(z) - posterior.log_prob(z))
        return torch.cat(log_weights).logsumexp(0) - math.log(num_particles)

    def _check_batch(self, clouds: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        clouds, mask = self.check_clouds(clouds, mask)
        if clouds.dim() != 3:
            raise ValueError(
                f"expected a batch of clouds of shape (B, N, {self.point_dim}), got {tuple(clouds.shape)}: one cloud "
                "is the batch cloud.unsqueeze(0)"
            )
        return clouds, mask

    def check_clouds(self, clouds: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not isinstance(clouds, Tensor) or clouds.dim() < 2 or clouds.shape[-1] != self.point_dim:
            got = f"shape {tuple(clouds.shape)}" if isinstance(clouds, Tensor) else type(clouds).__name__
            raise ValueError(f"expected clouds as a tensor of shape (*batch, N, {self.point_dim}), got {got}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != clouds.shape[:-1]):
            raise ValueError(
                f"expected a mask of booleans of shape {tuple(clouds.shape[:-1])}, True at the points of a cloud, got "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
        return clouds, mask


def _clouds_plate(clouds: Tensor, dataset_size: int | None) -> pyro.plate:
    """The plate of a batch of clouds that stands for `dataset_size` of them."""
    count = len(clouds)
    size = count if dataset_size is None else dataset_size
    if size < count:
        raise ValueError(f"a batch of {count} clouds cannot stand for dataset_size={size}: expected at least as many")
    # The batch is given; by itself, Pyro would draw numbers of clouds that nothing uses.
    return pyro.plate("clouds", size, subsample=torch.arange(count, device=clouds.device))


def _points_per_observed(clouds: Tensor, mask: Tensor | None, num_points: Tensor | int | None) -> Tensor | float:
    """How many points of the whole cloud an observed one stands for."""
    if num_points is None:
        return 1.0
    if mask is None and isinstance(num_points, int):
        return num_points / clouds.shape[-2] if clouds.shape[-2] else 1.0
    counts = clouds.new_full(clouds.shape[:-2], clouds.shape[-2]) if mask is None else mask.sum(-1).to(clouds.dtype)
    ratio = torch.as_tensor(num_points, device=clouds.device) / counts.clamp(min=1)
    # A cloud without points has log-density 0, whatever its weight; Pyro requires a positive scale.
    return torch.where(counts > 0, ratio, torch.ones_like(ratio))

"""A latent for each cloud: what Pyro samples, and what is inferred."""

from __future__ import annotations

import math

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.models.generator import CloudDecoder

__all__ = ["LatentCloudModel", "clouds_plate"]

# Points that are scored at once by `log_prob`, which bounds its memory.
SCORED_AT_ONCE = 2**18


class LatentCloudModel(CloudDecoder):
    """A model of clouds with a latent for each, and its guide: the base of `PointCloudVAE` and `AutoDecoder`.

    A subclass defines `encode` and `posterior`.

    Attributes:
        name: under which `model` and `guide` register the parameters with Pyro; two models in one parameter store need
            two names.
    """

    name = "clouds"

    def encode(self, clouds: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None) -> Distribution:
        """The approximate posterior over the latents of clouds.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: numbers of classes, shape `(*batch,)`; needed if the model has classes.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define encode")

    def posterior(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        seen: Tensor | None = None,
        seen_mask: Tensor | None = None,
    ) -> Tensor:
        """The sites of the guide: latents `z` given clouds, in a plate `clouds`; arguments as for `joint`."""
        raise NotImplementedError(f"{type(self).__name__} does not define posterior")

    def model(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        seen: Tensor | None = None,
        seen_mask: Tensor | None = None,
    ) -> Tensor:
        """Register the parameters with Pyro as `name` and sample `joint`, whose arguments it takes."""
        pyro.module(self.name, self)
        return self.joint(
            clouds, mask, size, labels=labels, noise_level=noise_level, num_points=num_points, kl_weight=kl_weight
        )

    def guide(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        seen: Tensor | None = None,
        seen_mask: Tensor | None = None,
    ) -> Tensor:
        """Register the parameters with Pyro as `name` and sample `posterior`; arguments as for `joint`."""
        pyro.module(self.name, self)
        return self.posterior(
            clouds, mask, size, labels=labels, kl_weight=kl_weight, index=index, seen=seen, seen_mask=seen_mask
        )

    def joint(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        size: int | None = None,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        num_points: Tensor | int | None = None,
        kl_weight: float = 1.0,
        index: Tensor | None = None,
        seen: Tensor | None = None,
        seen_mask: Tensor | None = None,
    ) -> Tensor:
        """The sites of the model: latents `z` and observed clouds `x`, in a plate `clouds`.

        Pyro gives the same arguments to a model and its guide: both take all, and each leaves to the other what it
        does not need.

        Args:
            clouds: observed clouds, shape `(B, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(B, N)`; all of them by default.
            size: number of clouds that the `B` stand for; `B` by default.
            labels: numbers of classes, shape `(B,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(B,)` or a number.
            num_points: number of points that the scored ones of a cloud stand for, one number or shape `(B,)`.
            kl_weight: weight of the latent's terms, below 1 while training warms up; anything but 1 is no bound.
            index: for the guide of an `AutoDecoder`, which training clouds these are, shape `(B,)`.
            seen: for the guide of a `PointCloudVAE`, points that the encoder reads, shape `(B, M, D)`; by default the
                clouds themselves.
            seen_mask: True at the points of a seen cloud, shape `(B, M)`.

        Returns:
            The latents, shape `(B, latent_dim)`.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a shape, a label or a size does not fit.
        """
        clouds, mask = self._check_batch(clouds, mask)
        with clouds_plate(clouds, size):
            with poutine.scale(scale=kl_weight):
                z = pyro.sample("z", self.prior_of(labels))
            density = self.decode(z, clouds.shape[-2], mask=mask, labels=labels, noise_level=noise_level)
            with poutine.scale(scale=_share(clouds, mask, num_points)):
                pyro.sample("x", density, obs=clouds)
            return z

    def shape(self, num_clouds: int | None = None, *, labels: Tensor | None = None) -> Distribution:
        """Sample latents, as the site `z`, and return the density of a point: a model for `complete`.

        For a batch of clouds, give `complete` their number by `functools.partial(model.shape, num_clouds)`.

        Args:
            num_clouds: number of clouds `B`; one cloud, without a batch shape, by default.
            labels: numbers of classes, shape `(B,)`, or `()` for one cloud; needed if the model has classes.

        Returns:
            A distribution with `batch_shape (B,)`, or `()`, and `event_shape (D,)`.
        """
        prior = self.prior_of(labels)
        if num_clouds is not None:
            prior = prior.expand(torch.Size((num_clouds,))).to_event(1)
        return self.decoder.condition(self.context_of(pyro.sample("z", prior), labels))

    def reconstruct(
        self, clouds: Tensor, num_points: int, mask: Tensor | None = None, *, labels: Tensor | None = None
    ) -> Tensor:
        """Encode clouds and draw new points of them, from the mean of the posterior.

        Args:
            clouds: shape `(*batch, N, D)`.
            num_points: number of new points.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: numbers of classes, shape `(*batch,)`; needed if the model has classes.

        Returns:
            Shape `(*batch, num_points, D)`, in the data's units.
        """
        with torch.no_grad():
            return self.decode(self.encode(clouds, mask, labels=labels).mean, num_points, labels=labels).sample()

    def interpolate(self, a: Tensor, b: Tensor, steps: int, num_points: int, *, labels: Tensor | None = None) -> Tensor:
        """Walk from clouds to clouds through the space of latents.

        Args:
            a: clouds at the start, shape `(*batch, N, D)`.
            b: clouds at the end, shape `(*batch, M, D)`.
            steps: number of clouds on the way, both ends included, at least 2.
            num_points: number of points of each.
            labels: numbers of classes, shape `(*batch,)`; needed if the model has classes.

        Returns:
            Shape `(steps, *batch, num_points, D)`. A point of one cloud becomes the same point of the next.
        """
        with torch.no_grad():
            start, end = (self.encode(clouds, labels=labels).mean for clouds in (a, b))
        return self.interpolate_latents(start, end, steps, num_points, labels=labels)

    def log_prob(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        num_particles: int = 64,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
        posterior: Distribution | None = None,
    ) -> Tensor:
        """A stochastic lower bound of the log-density of clouds, in nats per cloud.

        The importance-weighted bound `log mean_k p(x, z_k) / q(z_k | x)` (Burda, Grosse and Salakhutdinov, Importance
        weighted autoencoders, ICLR 2016), which rises to the log-density with the number of particles.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            num_particles: number of latents for each cloud.
            labels: numbers of classes, shape `(*batch,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1.
            posterior: what the latents are drawn from, `encode(clouds)` by default. With any distribution it is a
                bound; the nearer to the true posterior, the tighter.

        Returns:
            Shape `(*batch,)`.
        """
        if num_particles < 1:
            raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
        clouds, mask = self._check_clouds(clouds, mask)
        prior = self.prior_of(labels)
        if posterior is None:
            posterior = self.encode(clouds, mask, labels=labels)
        at_once = max(1, SCORED_AT_ONCE // max(1, clouds.numel() // self.point_dim))
        log_weights = []
        for first in range(0, num_particles, at_once):
            z = posterior.rsample(torch.Size((min(at_once, num_particles - first),)))
            density = self.decode(z, clouds.shape[-2], mask=mask, labels=labels, noise_level=noise_level)
            log_weights.append(density.log_prob(clouds) + prior.log_prob(z) - posterior.log_prob(z))
        return torch.cat(log_weights).logsumexp(0) - math.log(num_particles)

    def _check_batch(self, clouds: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        clouds, mask = self._check_clouds(clouds, mask)
        if clouds.dim() != 3:
            raise ValueError(
                f"expected a batch of clouds of shape (B, N, {self.point_dim}), got {tuple(clouds.shape)}: one cloud "
                "is the batch cloud.unsqueeze(0)"
            )
        return clouds, mask

    def _check_clouds(self, clouds: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not isinstance(clouds, Tensor) or clouds.dim() < 2 or clouds.shape[-1] != self.point_dim:
            got = f"shape {tuple(clouds.shape)}" if isinstance(clouds, Tensor) else type(clouds).__name__
            raise ValueError(f"expected clouds as a tensor of shape (*batch, N, {self.point_dim}), got {got}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != clouds.shape[:-1]):
            raise ValueError(
                f"expected a mask of booleans of shape {tuple(clouds.shape[:-1])}, True at the points of a cloud, got "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
        return clouds, mask


def clouds_plate(clouds: Tensor, size: int | None) -> pyro.plate:
    """The plate of a batch of clouds that stands for `size` of them."""
    count = len(clouds)
    if size is not None and size < count:
        raise ValueError(f"size={size} clouds cannot be represented by a batch of {count}: expected at least as many")
    # The batch is given; pyro would draw numbers of clouds that nobody asks for.
    return pyro.plate("clouds", count if size is None else size, subsample=torch.arange(count, device=clouds.device))


def _share(clouds: Tensor, mask: Tensor | None, num_points: Tensor | int | None) -> Tensor | float:
    """How many points of the whole cloud a scored one stands for."""
    if num_points is None:
        return 1.0
    if mask is None and isinstance(num_points, int):
        return num_points / clouds.shape[-2] if clouds.shape[-2] else 1.0
    counts = clouds.new_full(clouds.shape[:-2], clouds.shape[-2]) if mask is None else mask.sum(-1).to(clouds.dtype)
    share = torch.as_tensor(num_points, device=clouds.device) / counts.clamp(min=1)
    # A cloud without points has the log-density 0, whatever it is multiplied by; Pyro wants a positive scale.
    return torch.where(counts > 0, share, torch.ones_like(share))

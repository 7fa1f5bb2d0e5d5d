"""A latent for each cloud: what the models of many clouds share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow
from pyro_pcflow.models.latent_prior import latent_flow
from pyro_pcflow.transforms.memory import is_traced

__all__ = ["PRIORS", "LatentCloudModel", "clouds_plate"]

PRIORS = ("flow", "normal")
# What a decoder has that is not said otherwise, the best of some trials on bodies.
DECODER = {"masks": "alternate", "activation": "silu"}
# Points that are scored at once by `log_prob`, which bounds its memory.
SCORED_AT_ONCE = 2**18


class LatentCloudModel(nn.Module):
    """A latent for each cloud with a prior, and a flow over its points given the latent: the base of the models.

    A subclass defines `encode` and `posterior`.

    Attributes:
        name: under which `model` and `guide` register the parameters with Pyro; two models in one parameter store need
            two names.

    Args:
        point_dim: number of coordinates `D` of a point.
        latent_dim: size of a latent.
        prior: `"flow"`, a coupling stack, or `"normal"`, standard normal.
        num_classes: number of classes whose label is an extra context of everything, 0 for none.
        noise_input: whether the decoder is told how much noise a cloud has (Kim et al., SoftFlow, NeurIPS 2020): a
            level between 0 and 1, which is 0 for samples.
        num_flows: 1, or the number of flows of a `MixtureOfFlows`.
        decoder: options of `PointCloudFlow`; masks alternate and the activation is `"silu"` by default.
        prior_options: options of `latent_flow`.
    """

    def __init__(
        self,
        point_dim: int,
        latent_dim: int,
        *,
        prior: str,
        num_classes: int,
        noise_input: bool,
        num_flows: int,
        decoder: Mapping[str, Any],
        prior_options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}")
        if latent_dim < 1 or num_classes < 0 or num_flows < 1:
            raise ValueError(
                "expected latent_dim and num_flows of at least 1 and num_classes of at least 0, got "
                f"{latent_dim}, {num_flows} and {num_classes}"
            )
        decoder = {**DECODER, **decoder}
        self.name = "clouds"
        self.config: dict[str, Any] = {
            "point_dim": point_dim,
            "latent_dim": latent_dim,
            "prior": prior,
            "num_classes": num_classes,
            "noise_input": noise_input,
            "num_flows": num_flows,
            "decoder": dict(decoder),
            "prior_options": dict(prior_options),
        }
        self.point_dim = point_dim
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.noise_input = noise_input
        context_dim = latent_dim + num_classes + int(noise_input)
        self.decoder: PointCloudFlow | MixtureOfFlows
        if num_flows == 1:
            self.decoder = PointCloudFlow(point_dim, context_dim, **decoder)
        else:
            self.decoder = MixtureOfFlows(num_flows, point_dim, context_dim, **decoder)
        self.prior = latent_flow(latent_dim, num_classes, **prior_options) if prior == "flow" else None
        # Says where the module is and of which data type; no part of its state.
        self.register_buffer("_zero", torch.zeros(()), persistent=False)

    _zero: Tensor

    @property
    def normalized(self) -> bool:
        """Whether `normalize` has set the units."""
        return self.decoder.normalized

    def normalize(self, points: Tensor) -> None:
        """Set the units of the decoder, see `PointCloudFlow.normalize`.

        Args:
            points: shape `(*batch, D)`, in the data's units, of training clouds only.
        """
        self.decoder.normalize(points)

    def prior_of(self, labels: Tensor | None = None) -> Distribution:
        """The prior over latents, `event_shape (latent_dim,)`, with the batch shape of the labels.

        Args:
            labels: numbers of classes, shape `(*batch,)`; None without classes.
        """
        onehot = self._one_hot(labels)
        if self.prior is None:
            loc = self._zero.expand(self.latent_dim)
            prior = dist.Normal(loc, torch.ones_like(loc), validate_args=False).to_event(1)
            return prior if labels is None else prior.expand(labels.shape)
        return self.prior.condition(onehot)

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

    def posterior(self, clouds: Tensor, mask: Tensor | None = None, size: int | None = None, **options: Any) -> Tensor:
        """The sites of the guide: latents `z` given clouds, in a plate `clouds`. It takes the arguments of `joint`."""
        raise NotImplementedError(f"{type(self).__name__} does not define posterior")

    def model(self, clouds: Tensor, mask: Tensor | None = None, size: int | None = None, **options: Any) -> Tensor:
        """Register the parameters with Pyro as `name` and sample `joint`, whose arguments it takes."""
        pyro.module(self.name, self)
        return self.joint(clouds, mask, size, **options)

    def guide(self, clouds: Tensor, mask: Tensor | None = None, size: int | None = None, **options: Any) -> Tensor:
        """Register the parameters with Pyro as `name` and sample `posterior`, whose arguments it takes."""
        pyro.module(self.name, self)
        return self.posterior(clouds, mask, size, **options)

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
        **_: Any,
    ) -> Tensor:
        """The sites of the model: latents `z` and observed clouds `x`, in a plate `clouds`.

        It takes the arguments of `posterior` too, and leaves them to it.

        Args:
            clouds: observed clouds, shape `(B, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(B, N)`; all of them by default.
            size: number of clouds that the `B` stand for; `B` by default.
            labels: numbers of classes, shape `(B,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(B,)` or a number.
            num_points: number of points that the scored ones of a cloud stand for, one number or shape `(B,)`.
            kl_weight: weight of the latent's terms, below 1 while training warms up; anything but 1 is no bound.

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

    def decode(
        self,
        z: Tensor,
        num_points: int | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
    ) -> PointCloud:
        """The density of a cloud given its latent.

        Args:
            z: latents, shape `(*batch, latent_dim)`.
            num_points: number of points; may be left out when there is a mask.
            mask: booleans of shape `(*batch, num_points)`, see `PointCloud`.
            labels: numbers of classes, shape `(*batch,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(*batch,)` or a number.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (num_points, D)`.
        """
        return self.decoder.cloud(self.context_of(z, labels, noise_level), num_points=num_points, mask=mask)

    def context_of(self, z: Tensor, labels: Tensor | None = None, noise_level: Tensor | float = 0.0) -> Tensor:
        """The context of the decoder: a latent, and a label and a level of noise where the model has them.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a shape or a label is wrong.
        """
        if z.dim() < 1 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"expected latents of shape (*batch, {self.latent_dim}), got {tuple(z.shape)}")
        parts = [z]
        onehot = self._one_hot(labels)
        if onehot is not None:
            parts.append(onehot.to(z))
        if self.noise_input:
            level = torch.as_tensor(noise_level, dtype=z.dtype, device=z.device)
            if not is_traced(level) and not bool(((level >= 0) & (level <= 1)).all()):
                raise ValueError(f"expected a noise level between 0 and 1, got {noise_level}")
            parts.append(level.unsqueeze(-1))
        if len(parts) == 1:
            return z
        batch_shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch_shape, part.shape[-1]) for part in parts], -1)

    def sample(self, num_clouds: int, num_points: int, *, labels: Tensor | None = None) -> Tensor:
        """Draw new clouds: latents from the prior, then points.

        Args:
            num_clouds: number of clouds `S`.
            num_points: number of points `N` of each.
            labels: numbers of classes, shape `(S,)`; needed if the model has classes.

        Returns:
            Shape `(S, N, D)`, in the data's units.
        """
        if num_clouds < 0:
            raise ValueError(f"num_clouds must not be negative, got {num_clouds}")
        with torch.no_grad():
            z = self.prior_of(labels).expand((num_clouds,)).sample()
            return self.decode(z, num_points, labels=labels).sample()

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

    def interpolate_latents(
        self, start: Tensor, end: Tensor, steps: int, num_points: int, *, labels: Tensor | None = None
    ) -> Tensor:
        """Walk from latents to latents and decode on the way, every time from the same noise.

        The walk is a straight line in the space where the prior is standard normal.

        Args:
            start: shape `(*batch, latent_dim)`.
            end: of the same shape.
            steps: number of clouds on the way, both ends included, at least 2.
            num_points: number of points of each.
            labels: numbers of classes, shape `(*batch,)`; needed if the model has classes.

        Returns:
            Shape `(steps, *batch, num_points, D)`. A point of one cloud becomes the same point of the next.
        """
        if steps < 2:
            raise ValueError(f"a walk needs at least its two ends, got steps={steps}")
        with torch.no_grad():
            if self.prior is not None:
                onehot = self._one_hot(labels)
                prior = self.prior.condition(onehot)
                (transform,) = prior.transforms
                start, end = transform.inv(start), transform.inv(end)
            shares = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
            walk = torch.stack([torch.lerp(start, end, share) for share in shares])
            if self.prior is not None:
                walk = transform(walk)
            clouds = []
            devices = [walk.device] if walk.is_cuda else []
            for step, z in enumerate(walk):
                # The last draw moves the caller's generator on, the others are made with the same numbers.
                with torch.random.fork_rng(devices, enabled=step < steps - 1):
                    clouds.append(self.decode(z, num_points, labels=labels).sample())
            return torch.stack(clouds)

    def log_prob(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        num_particles: int = 64,
        *,
        labels: Tensor | None = None,
        noise_level: Tensor | float = 0.0,
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

        Returns:
            Shape `(*batch,)`.
        """
        if num_particles < 1:
            raise ValueError(f"expected at least one particle, got num_particles={num_particles}")
        clouds, mask = self._check_clouds(clouds, mask)
        posterior, prior = self.encode(clouds, mask, labels=labels), self.prior_of(labels)
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

    def _one_hot(self, labels: Tensor | None) -> Tensor | None:
        if self.num_classes == 0:
            if labels is not None:
                raise ValueError("the model was built without classes (num_classes=0), but was given labels")
            return None
        if labels is None:
            raise TypeError(f"the model has {self.num_classes} classes: give labels, of shape (*batch,)")
        whole = not labels.is_floating_point()
        if not whole or not (is_traced(labels) or bool(((labels >= 0) & (labels < self.num_classes)).all())):
            raise ValueError(f"expected labels as whole numbers from 0 to {self.num_classes - 1}")
        return F.one_hot(labels.long(), self.num_classes).to(self._zero)

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"latent_dim={self.latent_dim}, {parameters:,} parameters"


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

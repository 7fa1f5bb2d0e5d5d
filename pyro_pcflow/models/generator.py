"""From latents to clouds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow
from pyro_pcflow.distributions.flow import FLOW_OPTIONS
from pyro_pcflow.models.latent_prior import latent_flow
from pyro_pcflow.ops.options import check_options
from pyro_pcflow.ops.tracing import is_traced

__all__ = ["PRIORS", "CloudDecoder"]

PRIORS = ("flow", "normal")
# What a decoder has that is not said otherwise, the best of some trials on bodies.
DECODER = {"masks": "alternate", "activation": "silu"}


class CloudDecoder(nn.Module):
    """A prior over latents, and a flow over the points of a cloud given its latent.

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
        check_options(decoder, FLOW_OPTIONS, "decoder")
        check_options(prior_options, FLOW_OPTIONS, "prior_options")
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

"""From latents to clouds: a prior over latents, and a flow over the points of a cloud given its latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow
from pyro_pcflow.distributions.flow import FLOW_OPTIONS, WRITTEN_MIXTURE
from pyro_pcflow.distributions.mixture import coupled_labels
from pyro_pcflow.ops.options import check_options
from pyro_pcflow.ops.origin import narrowed
from pyro_pcflow.ops.tracing import is_traced
from pyro_pcflow.transforms.checks import check_points

__all__ = ["PRIORS", "PRIOR_DECAY", "Generator", "latent_flow"]

PRIORS = ("flow", "normal")
# Defaults of the decoder that differ from a flow's own, the best of a few trials on bodies.
DECODER = {"masks": "alternate", "activation": "silu"}
# Those of the prior. New noise is standard normal, and its samples carry gradients. Bounded units send fewer draws far
# away, and overfit less.
PRIOR: dict[str, Any] = {
    "base": "normal",
    "coupling": "affine",
    "masks": "halves",
    "activation": "tanh",
    "num_frequencies": 0,
}
# Of the prior's weights, see `Optimization`. It learns from one latent a cloud, and the better it knows those of
# training clouds, the less do its samples differ from each other.
PRIOR_DECAY = 2.0
# The decoder of who chooses neither a base nor a number of couplings, see `python -m benchmarks.family`.
SHARP_DECODER = {"base": "mixture", "num_components": 128, "num_couplings": 4}


def latent_flow(
    latent_dim: int,
    context_dim: int = 0,
    *,
    num_couplings: int = 8,
    hidden_dims: Sequence[int] = (128,),
    **flow_options: Any,
) -> PointCloudFlow:
    """Make a flow prior over latents, for a variational autoencoder of point clouds or of anything else.

    A learned prior closes the gap between the codes of the data and a standard normal, so that its samples decode to
    what the decoder was trained on (Chen et al., Variational lossy autoencoder, ICLR 2017, section 3.2). A new one is
    standard normal. With a context, such as a class, there is a prior for each context.

    Args:
        latent_dim: size of a latent, at least 2.
        context_dim: size `C` of a context, 0 for none.
        num_couplings: number of couplings, which move the halves of a latent in turn.
        hidden_dims: widths of every conditioner's hidden layers.
        **flow_options: any other option of `PointCloudFlow`; the activation is `"tanh"` by default.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a size is out of range.

    Returns:
        A module whose `condition(context)` is a Pyro distribution with `event_shape (latent_dim,)`.

    Examples:
        >>> import pyro, torch
        >>> prior = latent_flow(4)
        >>> def model(data):  # (B, 2)
        ...     pyro.module("prior", prior)
        ...     with pyro.plate("data", len(data)):
        ...         z = pyro.sample("z", prior.condition())
        ...         pyro.sample("x", pyro.distributions.Normal(z[..., :2], 0.1).to_event(1), obs=data)
        >>> pyro.poutine.trace(model).get_trace(torch.randn(5, 2)).nodes["z"]["value"].shape
        torch.Size([5, 4])
    """
    check_options(flow_options, FLOW_OPTIONS, "latent_flow")
    if latent_dim < 2:
        raise ValueError(f"a flow over latents needs latent_dim of at least 2, got {latent_dim}: use a normal prior")
    return PointCloudFlow(latent_dim, context_dim, num_couplings, hidden_dims, **{**PRIOR, **flow_options})


class Generator(nn.Module):
    """A prior over latents, and a flow over the points of a cloud given its latent.

    Args:
        point_dim: number of coordinates `D` of a point.
        latent_dim: size of a latent.
        prior: `"flow"`, see `latent_flow`, or `"normal"`, standard normal.
        num_classes: number of classes whose label is an extra context of prior and decoder; 0 for none.
        noise_input: whether the decoder is told how noisy a cloud is (Kim et al., SoftFlow, NeurIPS 2020): a level
            between 0 and 1, which is 0 for samples.
        num_flows: 1, or the number of flows of a `MixtureOfFlows`.
        decoder: options of `PointCloudFlow`, see `PointCloudVAE`.
        prior_options: options of `latent_flow`, for the prior `"flow"`.
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
        for name, options in (("decoder", decoder), ("prior_options", prior_options)):
            if not isinstance(options, Mapping):
                raise TypeError(f"{name}: expected a dict of options, got {type(options).__name__}")
        # A transform of the caller's own has its masks and activation.
        if "transform" not in decoder:
            is_sharp = num_flows == 1 and not {"base", "num_couplings"} & decoder.keys()
            decoder = {**DECODER, **(SHARP_DECODER if is_sharp else {}), **decoder}
        if decoder.get("base") == "mixture":
            decoder = {**WRITTEN_MIXTURE, **decoder}
        check_options(decoder, ["transform", *FLOW_OPTIONS] if num_flows == 1 else FLOW_OPTIONS, "decoder")
        check_options(prior_options, FLOW_OPTIONS, "prior_options")
        if prior == "flow":
            prior_options = {**PRIOR, **prior_options}
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
        # Tells the module's device and data type; not part of its state.
        self.register_buffer("_zero", torch.zeros(()), persistent=False)

    _zero: Tensor

    @property
    def normalized(self) -> bool:
        """Whether `normalize` has set the units."""
        return self.decoder.normalized

    def normalize(self, points: Tensor, mask: Tensor | None = None) -> None:
        """Set the units of the decoder, see `PointCloudFlow.normalize`.

        Args:
            points: shape `(*batch, D)`, in the data's units, of training clouds only.
            mask: True at points, shape `(*batch,)`; all of them by default.

        Raises:
            ValueError: as there; and if coordinates are so large that the data type of the weights would round them.
        """
        check_points(points, self.point_dim)
        self.decoder.normalize(narrowed(points, self._zero.dtype, "points"), mask)

    def latent_prior(self, labels: Tensor | None = None) -> Distribution:
        """The prior over latents, `event_shape (latent_dim,)`, with the batch shape of the labels.

        Args:
            labels: class numbers, shape `(*batch,)`; None without classes.
        """
        onehot = self.one_hot(labels)
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
            num_points: number of points; may be left out if there is a mask.
            mask: booleans of shape `(*batch, num_points)`, see `PointCloud`.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(*batch,)` or a number.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (num_points, D)`.
        """
        return self.decoder.cloud(self.decoder_context(z, labels, noise_level), num_points=num_points, mask=mask)

    def decoder_context(self, z: Tensor, labels: Tensor | None = None, noise_level: Tensor | float = 0.0) -> Tensor:
        """The context of the decoder: a latent, followed by a label and a noise level if the model has them.

        Args:
            z: latents, shape `(*batch, latent_dim)`.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            noise_level: for a model with `noise_input`, between 0 and 1, shape `(*batch,)` or a number.

        Returns:
            Shape `(*batch, C)`.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a shape, a label or a level is wrong.
        """
        if not isinstance(z, Tensor) or z.dim() < 1 or z.shape[-1] != self.latent_dim:
            got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"expected latents as a tensor of shape (*batch, {self.latent_dim}), got {got}")
        parts = [z]
        onehot = self.one_hot(labels)
        if onehot is not None:
            parts.append(onehot.to(z))
        if self.noise_input:
            level = torch.as_tensor(noise_level, dtype=z.dtype, device=z.device)
            if not is_traced(level) and not bool(((level >= 0) & (level <= 1)).all()):
                raise ValueError(f"expected a noise level between 0 and 1, got {noise_level}")
            parts.append(level.unsqueeze(-1))
        if len(parts) == 1:
            return z
        try:
            batch_shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        except RuntimeError as error:
            raise ValueError(
                f"latents of batch shape {tuple(z.shape[:-1])} do not broadcast with labels and noise levels of shape "
                f"{', '.join(str(tuple(part.shape[:-1])) for part in parts[1:])}"
            ) from error
        return torch.cat([part.expand(*batch_shape, part.shape[-1]) for part in parts], -1)

    def sample(self, num_clouds: int, num_points: int, *, labels: Tensor | None = None) -> Tensor:
        """Draw new clouds: latents from the prior, then points.

        Args:
            num_clouds: number of clouds `S`.
            num_points: number of points `N` per cloud.
            labels: class numbers, shape `(S,)`; needed if the model has classes.

        Returns:
            Shape `(S, N, D)`, in the data's units.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a number is negative, or the labels do not fit.
        """
        if num_clouds < 0:
            raise ValueError(f"num_clouds must not be negative, got {num_clouds}")
        prior = self.latent_prior(labels)
        if prior.batch_shape not in ((), (1,), (num_clouds,)):
            raise ValueError(
                f"expected one label for each of {num_clouds} clouds, of shape ({num_clouds},), got shape "
                f"{tuple(prior.batch_shape)}"
            )
        with torch.no_grad():
            z = prior.expand((num_clouds,)).sample()
            return self.decode(z, num_points, labels=labels).sample()

    def interpolate_latents(
        self, start: Tensor, end: Tensor, steps: int, num_points: int, *, labels: Tensor | None = None
    ) -> Tensor:
        """Walk from latents to latents and decode each step, always from the same noise.

        The walk is a straight line in the space where the prior is standard normal.

        Args:
            start: shape `(*batch, latent_dim)`.
            end: of the same shape.
            steps: number of clouds on the way, both ends included, at least 2.
            num_points: number of points per cloud.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.

        Returns:
            Shape `(steps, *batch, num_points, D)`. A point of one cloud becomes the same point of the next; in a
            mixture, except for the few that change to another component.
        """
        if steps < 2:
            raise ValueError(f"a walk needs at least its two ends, got steps={steps}")
        with torch.no_grad():
            if self.prior is not None:
                (transform,) = self.prior.condition(self.one_hot(labels)).transforms
                start, end = transform.inv(start), transform.inv(end)
            weights = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
            walk = torch.stack([torch.lerp(start, end, weight) for weight in weights])
            if self.prior is not None:
                walk = transform(walk)
            clouds = []
            devices = [walk.device] if walk.is_cuda else []
            for step, z in enumerate(walk):
                # Only the last draw advances the caller's generator; the others use the same numbers.
                with coupled_labels(), torch.random.fork_rng(devices, enabled=step < steps - 1):
                    clouds.append(self.decode(z, num_points, labels=labels).sample())
            return torch.stack(clouds)

    def one_hot(self, labels: Tensor | None) -> Tensor | None:
        if self.num_classes == 0:
            if labels is not None:
                raise ValueError("the model was built without classes (num_classes=0), but was given labels")
            return None
        if labels is None:
            raise TypeError(f"the model has {self.num_classes} classes: give labels, of shape (*batch,)")
        expected = f"expected labels as a tensor of whole numbers from 0 to {self.num_classes - 1}"
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            raise ValueError(f"{expected}, got {labels.dtype if isinstance(labels, Tensor) else type(labels).__name__}")
        if not (is_traced(labels) or bool(((labels >= 0) & (labels < self.num_classes)).all())):
            raise ValueError(f"{expected}, got {int(labels.min())} to {int(labels.max())}")
        return F.one_hot(labels.long(), self.num_classes).to(self._zero)

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"latent_dim={self.latent_dim}, {parameters:,} parameters"

"""An amortised posterior over the latents of partial clouds."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Distribution, TransformedDistribution

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.distributions.base import select_points
from pyro_pcflow.distributions.bases import MixtureOfGaussians
from pyro_pcflow.infer.views import VIEWS, View
from pyro_pcflow.models import latent_flow
from pyro_pcflow.models.correction import mixture_scores
from pyro_pcflow.models.latent import LatentCloudModel
from pyro_pcflow.models.refinement import noise_and_transforms
from pyro_pcflow.nn import CloudEncoder
from pyro_pcflow.ops.options import check_options, option_names
from pyro_pcflow.ops.origin import narrowed
from pyro_pcflow.transforms import standardize

__all__ = ["Completer"]

ENCODER: dict[str, Any] = {
    "point_dims": (64, 128),
    "hidden_dims": (256,),
    "activation": "silu",
    "num_frequencies": 3,
}
POSTERIOR: dict[str, Any] = {"num_couplings": 6, "hidden_dims": (128,)}
# Corrections where the decoder is a mixture of Gaussians.
NUM_CORRECTIONS = 2
ENCODER_OPTIONS = option_names(CloudEncoder, without=["point_dim", "output_dims", "context_dim"])
# Numbers of points whose exponents are kept.
TEMPERED_AT = (30, 100, 300, 1000)
# Points that the logarithm of a number of points is told relative to.
USUAL_POINTS = 150.0


class Completer(nn.Module):
    """An amortised posterior over the latents of clouds given partial views of them.

    A network reads the points that a sensor recorded, of any number, and writes the context of a flow over the noise
    under the model's prior: neural posterior estimation (Papamakarios and Murray, Fast epsilon-free inference of
    simulation models, NeurIPS 2016; Greenberg, Nonnenmacher and Macke, ICML 2019). A new one is the prior itself,
    whatever it reads. Where the decoder is a mixture of Gaussians, what it finds is corrected by a second look at the
    points under the decoder's Gaussians there, as the encoder of `PointCloudVAE` does.

    `pcf.fit(completer, clouds)` trains it by maximum likelihood of latents given random views: half of them of the
    clouds, whose latents the model's encoder finds in other points of them, and half of clouds that the model draws. So
    it knows where the model is wrong, which inference under the model alone cannot.

    The model is copied, frozen, and saved with it.

    Args:
        model: a trained model of many clouds, such as a `PointCloudVAE`.
        context_dim: number of features of a view.
        encoder: options of `CloudEncoder`, by default widths of 64 and 128, then 256, `"silu"` and 3 frequencies.
        posterior: options of `latent_flow`, by default 6 couplings of width 128.
        num_corrections: how often the posterior is corrected: twice by default if the decoder's base is `"mixture"`,
            for which it works, and never otherwise.
        correction_dims: widths of the hidden layers of the network that corrects.
        views: how sensors look at clouds, see `pyro_pcflow.infer.views`; by default from one side, by a depth camera,
            cropped, with a hole, and whole. It is needed for training alone, and not saved.

    Attributes:
        model: the frozen copy.
        temper: exponents of the likelihood that suit the model, for views of 30, 100, 300 and 1000 points, see
            `exponent`; 1 until `pyro_pcflow.infer.calibrate_temper` has found others.

    Raises:
        TypeError: if the model is not one of this library, or an option is unknown.
        ValueError: if a size is out of range.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
        >>> completer = Completer(vae, context_dim=8)
        >>> result = pcf.fit(completer, torch.randn(20, 200, 3), max_steps=2, batch_size=4, noise=0.1, device="cpu")
        >>> completer.condition(torch.randn(5, 60, 3)).sample((10,)).shape
        torch.Size([10, 5, 4])
    """

    learning_rate = 2e-3
    temper: Tensor

    def __init__(
        self,
        model: LatentCloudModel,
        *,
        context_dim: int = 128,
        encoder: Mapping[str, Any] | None = None,
        posterior: Mapping[str, Any] | None = None,
        num_corrections: int | None = None,
        correction_dims: Sequence[int] = (128,),
        views: View = VIEWS,
    ) -> None:
        super().__init__()
        if not isinstance(model, LatentCloudModel):
            raise TypeError(
                f"expected a model of many clouds with an encoder, such as a PointCloudVAE, got {type(model).__name__}"
            )
        if context_dim < 1:
            raise ValueError(f"context_dim must be at least 1, got {context_dim}")
        encoder = {**ENCODER, **(encoder or {})}
        posterior = {**POSTERIOR, **(posterior or {})}
        check_options(encoder, ENCODER_OPTIONS, "encoder")
        base = model.decoder.base if isinstance(model.decoder, PointCloudFlow) else None
        num_components = base.num_components if isinstance(base, MixtureOfGaussians) else 0
        if num_corrections is None:
            num_corrections = NUM_CORRECTIONS if num_components else 0
        if num_corrections < 0 or (num_corrections and not num_components):
            raise ValueError(
                f"num_corrections={num_corrections}: expected 0 or more, and 0 unless the decoder has base='mixture'"
            )
        self.num_corrections = num_corrections
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.views = views
        self.config: dict[str, Any] = {
            "model": self.model,
            "context_dim": context_dim,
            "encoder": encoder,
            "posterior": posterior,
            "num_corrections": num_corrections,
            "correction_dims": list(correction_dims),
        }
        self.register_buffer("temper", torch.ones(len(TEMPERED_AT)))
        self.units = standardize(model.point_dim)
        self.encoder = CloudEncoder(model.point_dim, [context_dim], context_dim=1 + model.num_classes, **encoder)
        self.posterior = latent_flow(model.latent_dim, context_dim, **posterior)
        self.correction: nn.Sequential | None = None
        if num_corrections:
            size = num_components * (1 + model.point_dim) + model.latent_dim + context_dim
            self.correction = _network([size, *correction_dims, context_dim])

    @property
    def point_dim(self) -> int:
        """Number of coordinates of a point."""
        return self.model.point_dim

    @property
    def num_classes(self) -> int:
        """Number of classes whose labels the model takes."""
        return self.model.num_classes

    @property
    def normalized(self) -> bool:
        """Whether `normalize` has set the units."""
        return self.units.fitted

    def normalize(self, points: Tensor, mask: Tensor | None = None) -> None:
        """Set the units of the network that reads views, see `PointCloudFlow.normalize`.

        Args:
            points: shape `(*batch, D)`, in the data's units, of training clouds only.
            mask: True at points, shape `(*batch,)`; all of them by default.
        """
        self.units.fit(select_points(narrowed(points, self.units.loc.dtype, "points"), mask))

    def encode(self, clouds: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None) -> Distribution:
        """The posterior over the latents of whole clouds, by the model's encoder; arguments as for `condition`."""
        return self.model.encode(clouds, mask, labels=labels, check=False)

    def noise_prior(self, labels: Tensor | None = None) -> Distribution:
        """The noise under the model's prior, `event_shape (latent_dim,)`."""
        return noise_and_transforms(self.model.latent_prior(labels))[0]

    def to_noise(self, latents: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """The noise that the model's prior carries to latents of shape `(*batch, latent_dim)`."""
        _, transforms = noise_and_transforms(self.model.latent_prior(labels))
        return ComposeTransform(transforms).inv(latents)

    def simulate(self, num_clouds: int, num_points: int, *, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw clouds from the model.

        Args:
            num_clouds: number of clouds `B`.
            num_points: number of points `N` of each.
            labels: class numbers, shape `(B,)`; needed if the model has classes.

        Returns:
            The noise under the prior, shape `(B, latent_dim)`, and the points, shape `(B, N, D)`.
        """
        density, transforms = noise_and_transforms(self.model.latent_prior(labels))
        with torch.no_grad():
            noise = density.expand(torch.Size((num_clouds,))).sample()
            latents = ComposeTransform(transforms)(noise)
            return noise, self.model.decode(latents, num_points, labels=labels).sample()

    def condition(self, partial: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None) -> Distribution:
        """The posterior over the latents of clouds, given some of their points.

        Args:
            partial: recorded points, shape `(*batch, N, D)`, in the data's units.
            mask: True at points, shape `(*batch, N)`; all of them by default.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a shape or a label does not fit.
        """
        _, transforms = noise_and_transforms(self.model.latent_prior(labels))
        noise = self.condition_noise(partial, mask, labels=labels)
        return dist.TransformedDistribution(noise, transforms, validate_args=False) if transforms else noise

    def condition_noise(
        self, partial: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None
    ) -> TransformedDistribution:
        """The posterior over the noise that the prior carries to latents; arguments as for `condition`."""
        return self.guesses(partial, mask, labels=labels)[-1]

    def guesses(
        self, partial: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None
    ) -> list[TransformedDistribution]:
        """The posterior over the noise before and after each correction; arguments as for `condition`."""
        partial, mask = self.model.check_clouds(partial, mask)
        if mask is None:
            mask = torch.ones(partial.shape[:-1], dtype=torch.bool, device=partial.device)
        points = torch.where(mask.unsqueeze(-1), self.units.inverse_and_log_det(partial)[0], 0.0)
        _, transforms = noise_and_transforms(self.model.latent_prior(labels))
        size = (mask.sum(-1, keepdim=True).clamp(min=1) / USUAL_POINTS).log()
        onehot = self.model.one_hot(labels)
        context = size if onehot is None else torch.cat([size, onehot.expand(*size.shape[:-1], -1)], -1)
        (features,) = self.encoder(points, mask, context.to(points))
        found: list[TransformedDistribution] = [self.posterior.condition(features.tanh())]
        for _ in range(self.num_corrections):
            assert self.correction is not None
            assert isinstance(self.model.decoder, PointCloudFlow)  # as the constructor made sure
            context = features.tanh()
            with torch.no_grad():
                middle = context.new_zeros(*context.shape[:-1], self.model.latent_dim)
                guess = ComposeTransform(found[-1].transforms)(middle)
                latents = ComposeTransform(transforms)(guess)
                decoder_context = self.model.decoder_context(latents, labels)
                scores = mixture_scores(partial, mask, self.model.decoder, decoder_context)
            features = features + self.correction(torch.cat([scores, guess, context], -1))
            found.append(self.posterior.condition(features.tanh()))
        return found

    def is_of(self, model: LatentCloudModel) -> bool:
        """Whether a model is the one that it was made of: of the same weights, on the same device."""
        own, other = ({**dict(one.named_parameters()), **dict(one.named_buffers())} for one in (self.model, model))
        return own.keys() == other.keys() and all(
            (value.dtype, value.device) == (other[key].dtype, other[key].device) and torch.equal(value, other[key])
            for key, value in own.items()
        )

    def exponent(self, counts: Tensor) -> Tensor:
        """The exponent of the likelihood that suits the model, for clouds of some numbers of points.

        Args:
            counts: numbers of points, shape `(*batch,)`.

        Returns:
            Shape `(*batch,)`: what `temper` holds, and between its numbers of points linear in both logarithms.
        """
        known = torch.tensor(TEMPERED_AT, dtype=torch.float64, device=counts.device).log()
        places = counts.clamp(*TEMPERED_AT[:: len(TEMPERED_AT) - 1]).double().log()
        right = torch.searchsorted(known, places).clamp(min=1)
        share = (places - known[right - 1]) / (known[right] - known[right - 1])
        logs = self.temper.log()
        return torch.lerp(logs[right - 1], logs[right], share.to(logs)).exp()


def _network(dims: Sequence[int]) -> nn.Sequential:
    """A network that returns zeros as long as it is new."""
    linear = [nn.Linear(*pair) for pair in pairwise(dims)]
    nn.init.zeros_(linear[-1].weight)
    nn.init.zeros_(linear[-1].bias)
    return nn.Sequential(*(layer for hidden in linear[:-1] for layer in (hidden, nn.SiLU())), linear[-1])

"""A variational autoencoder of point clouds: a flow as decoder, a flow as prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.distributions.base import select_points
from pyro_pcflow.distributions.bases import MixtureOfGaussians
from pyro_pcflow.models.correction import PosteriorCorrection
from pyro_pcflow.models.latent import LatentCloudModel
from pyro_pcflow.nn import CloudEncoder
from pyro_pcflow.ops.options import check_options, option_names
from pyro_pcflow.transforms import standardize

__all__ = ["PointCloudVAE"]

# Defaults of the encoder that differ from those of `CloudEncoder`, the best of a few trials on bodies. It pools as many
# points as `CloudSampling` lets it read in a step.
ENCODER: dict[str, Any] = {
    "point_dims": (64, 128),
    "hidden_dims": (512,),
    "activation": "silu",
    "num_frequencies": 3,
    "pooled_points": 512,
}
# Corrections of the posterior where the decoder is a mixture of Gaussians.
NUM_CORRECTIONS = 2
ENCODER_OPTIONS = option_names(CloudEncoder, without=["point_dim", "output_dims", "context_dim"])


class PointCloudVAE(LatentCloudModel):
    """A variational autoencoder (VAE) whose decoder is a flow over points, and whose prior is a flow over latents.

    Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014; with point flows: Yang et al., PointFlow, ICCV 2019.
    With `z` the latent of a cloud of `N` points, the evidence lower bound in nats per cloud is

        log p(x_1, ..., x_N)  >=  E_q[ sum_n log p(x_n | z) ]  -  KL( q(z | cloud) || p(z) )

    What the encoder finds is corrected by a network that looks at the cloud under the decoder's Gaussians, see
    `num_corrections`.

    `pcf.fit` trains it, or any inference of Pyro that takes `model` and `guide`. The bound holds whichever points the
    encoder reads: if they are other points of the surface than those whose density is taken, as in `fit`, an encoder
    gains nothing by remembering points instead of shapes.

    An encoder of your own is a module that is called as `encoder(points, mask)`, or `encoder(points, mask, context)` if
    there are classes, and returns the two parameters of an independent normal distribution over latents:

    | | shape | |
    | --- | --- | --- |
    | `points` | `(*batch, N, D)` | in the model's units, about standard deviation 1; zero outside the mask |
    | `mask` | `(*batch, N)` | True at the points of a cloud; None if all are |
    | `context` | `(*batch, num_classes)` | one-hot labels |
    | returns `loc` | `(*batch, latent_dim)` | mean |
    | returns `raw_scale` | `(*batch, latent_dim)` | any real number; the scale is a softplus of it, 1 at 0 |

    With a `config`, the keyword arguments that make it again, it is saved with the model, and
    `pcf.load(path, custom=[YourEncoder])` brings it back.

    Args:
        point_dim: number of coordinates `D` of a point, at least 2.
        latent_dim: size of a latent.
        prior: `"flow"`, see `latent_flow`, or `"normal"`, standard normal.
        num_classes: number of classes whose label is an extra context of decoder, prior and encoder; 0 for none.
        noise_input: whether the decoder is told how noisy a cloud is (Kim et al., SoftFlow, NeurIPS 2020): a level
            between 0 and 1, which is 0 for samples. Training then varies the noise of each cloud.
        num_flows: 1, or the number of flows of a `MixtureOfFlows`.
        decoder: options of `PointCloudFlow`; by default masks alternate, the activation is `"silu"`, and, unless you
            choose a base, a number of couplings or several flows, 4 couplings carry a mixture of 128 Gaussians: on
            bodies, a quarter of a nat a point sharper in the same seconds than 12 couplings of normal noise. Or
            `{"transform": ...}`, a conditional transform of your own, if there is one flow.
        prior_options: options of `latent_flow`, for the prior `"flow"`.
        encoder: options of `CloudEncoder`, by default widths of 64 and 128, then 512, `"silu"`, 3 frequencies, and
            512 pooled points, as many as it reads in a step of `fit`; or a module, see above.
        num_corrections: how often the posterior is corrected, see `pyro_pcflow.models.correction`: twice by default if
            the decoder's base is `"mixture"`, for which it works, and never otherwise. In the last fifth of the
            training `fit` trains the correction, and the prior with it, and leaves encoder and decoder as they are.

    Attributes:
        correction: the network that corrects posteriors, or None.

    Raises:
        TypeError: if `decoder`, `prior_options` or `encoder` hold an unknown option, or `encoder` is neither options
            nor a module.
        ValueError: if a size or a name is out of range, or posteriors cannot be corrected.

    Examples:
        >>> import torch
        >>> vae = PointCloudVAE(point_dim=3, latent_dim=4, decoder={"num_couplings": 4, "hidden_dims": [16]})
        >>> clouds = torch.randn(5, 100, 3)
        >>> vae.encode(clouds).batch_shape, vae.decode(torch.randn(5, 4), 200).event_shape
        (torch.Size([5]), torch.Size([200, 3]))
        >>> import pyro
        >>> elbo = pyro.infer.Trace_ELBO()
        >>> -elbo.differentiable_loss(vae.model, vae.guide, clouds) < vae.log_prob(clouds).sum() + 100
        tensor(True)
    """

    def __init__(
        self,
        point_dim: int = 3,
        latent_dim: int = 64,
        *,
        prior: str = "flow",
        num_classes: int = 0,
        noise_input: bool = False,
        num_flows: int = 1,
        decoder: Mapping[str, Any] | None = None,
        prior_options: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | nn.Module | None = None,
        num_corrections: int | None = None,
    ) -> None:
        super().__init__(
            point_dim,
            latent_dim,
            prior=prior,
            num_classes=num_classes,
            noise_input=noise_input,
            num_flows=num_flows,
            decoder=decoder or {},
            prior_options=prior_options or {},
        )
        self.units = standardize(point_dim)
        if isinstance(encoder, nn.Module):
            self.encoder = encoder
        elif encoder is None or isinstance(encoder, Mapping):
            encoder = {**ENCODER, **(encoder or {})}
            check_options(encoder, ENCODER_OPTIONS, "encoder")
            self.encoder = CloudEncoder(point_dim, [latent_dim, latent_dim], context_dim=num_classes, **encoder)
        else:
            raise TypeError(f"expected options of CloudEncoder or a module as encoder, got {type(encoder).__name__}")
        base = self.decoder.base if isinstance(self.decoder, PointCloudFlow) else None
        num_components = base.num_components if isinstance(base, MixtureOfGaussians) else 0
        if num_corrections is None:
            num_corrections = NUM_CORRECTIONS if num_components else 0
        if num_corrections < 0:
            raise ValueError(f"num_corrections must not be negative, got {num_corrections}")
        if num_corrections and not num_components:
            raise ValueError(
                f"num_corrections={num_corrections}: a posterior is corrected by the Gaussians of a decoder with "
                "base='mixture', which this one does not have"
            )
        self.num_corrections = num_corrections
        self.correction = PosteriorCorrection(point_dim, latent_dim, num_components) if num_corrections else None
        self.config = {**self.config, "encoder": encoder, "num_corrections": num_corrections}

    def normalize(self, points: Tensor, mask: Tensor | None = None) -> None:
        """Set the units of encoder and decoder, see `PointCloudFlow.normalize`.

        Args:
            points: shape `(*batch, D)`, in the data's units, of training clouds only.
            mask: True at points, shape `(*batch,)`; all of them by default.
        """
        super().normalize(points, mask)
        self.units.fit(select_points(points.to(self.units.loc), mask))

    def encode(
        self, clouds: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None, check: bool = True
    ) -> Distribution:
        """The approximate posterior over the latents of clouds: independent normals, too narrow for intervals.

        Of clouds of 512 points that the shipped model of bodies drew, its central 90% intervals held 60% of the true
        latents, and those of `refine` 90% (`benchmarks.evidence`).

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units, of any number of points.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            check: whether to warn of clouds that a trained model hardly knows: those that the shapes that were found
                would not have made, such as parts of shapes, and those of far fewer points than it learned from.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.

        Raises:
            TypeError: if labels are missing.
            ValueError: if a shape or a label does not fit, or a module given as encoder returns something else than
                `PointCloudVAE` says.
        """
        clouds, mask = self.check_clouds(clouds, mask)
        loc, raw_scale = self._guess(clouds, mask, labels)
        if self.correction is not None:
            for _ in range(self.num_corrections):
                context = self.decoder_context(loc.detach(), labels)
                loc, change = self.correction(clouds, mask, self.decoder, context, loc, _scale(raw_scale))
                raw_scale = raw_scale + change
        if check:
            self._check_latents(loc, clouds, mask, labels)
        return _normal(loc, raw_scale)

    @property
    def _most_points(self) -> int | None:
        return self.encoder.pooled_points if isinstance(self.encoder, CloudEncoder) else None

    def corrected_guide(
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
        """The guide by `encode`, corrections included; `guide` leaves them out. Arguments as for `model`.

        Encoder and decoder learn from `guide`: from corrections, which follow a decoder that moves, both learn much
        less. `pcf.fit` trains the correction in the last fifth of the training.
        """
        return self._sample_latents(
            partial(self.encode, check=False),
            clouds,
            mask,
            dataset_size,
            labels=labels,
            kl_weight=kl_weight,
            encoder_points=encoder_points,
            encoder_mask=encoder_mask,
        )

    def _batch_posterior(
        self, points: Tensor, mask: Tensor | None, *, labels: Tensor | None, index: Tensor | None
    ) -> Distribution:
        if self.correction is None:
            return super()._batch_posterior(points, mask, labels=labels, index=index)
        return _normal(*self._guess(*self.check_clouds(points, mask), labels))

    def _guess(self, clouds: Tensor, mask: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the encoder returns."""
        points = self.units.inverse_and_log_det(clouds)[0]
        if mask is not None:
            points = torch.where(mask.unsqueeze(-1), points, torch.zeros_like(points))
        onehot = self.one_hot(labels)
        output = self.encoder(points, mask) if onehot is None else self.encoder(points, mask, onehot)
        return self._check_encoder_output(output, clouds.shape[:-2])

    def _check_encoder_output(self, output: Any, batch_shape: torch.Size) -> tuple[Tensor, Tensor]:
        parts = list(output) if isinstance(output, tuple | list) else [output]
        expected = (*batch_shape, self.latent_dim)
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        if shapes != [expected, expected]:
            raise ValueError(
                f"expected two tensors of shape {expected} from the encoder {type(self.encoder).__name__}, the mean "
                f"and the raw scale of latents, got {', '.join(map(str, shapes)) or 'nothing'}"
            )
        return parts[0], parts[1]


def _normal(loc: Tensor, raw_scale: Tensor) -> Distribution:
    return dist.Normal(loc, _scale(raw_scale), validate_args=False).to_event(1)


def _scale(raw_scale: Tensor) -> Tensor:
    """Positive, and 1 at 0: a new encoder starts near the prior."""
    return F.softplus(raw_scale + math.log(math.e - 1)) + 1e-4

"""A generative model of many clouds, with an encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.models.latent import LatentCloudModel
from pyro_pcflow.nn import CloudEncoder
from pyro_pcflow.ops.options import check_options, option_names
from pyro_pcflow.transforms import standardize

__all__ = ["PointCloudVAE"]

# What an encoder has that is not said otherwise, the best of some trials on bodies.
ENCODER: dict[str, Any] = {
    "point_dims": (64, 128),
    "hidden_dims": (512,),
    "activation": "silu",
    "num_frequencies": 3,
}
ENCODER_OPTIONS = option_names(CloudEncoder, without=["point_dim", "output_dims", "context_dim"])


class PointCloudVAE(LatentCloudModel):
    """A variational autoencoder whose decoder is a flow over points, and whose prior is a flow over latents.

    Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014; with point flows: Yang et al., PointFlow, ICCV 2019.
    With `z` the latent of a cloud of `N` points, the evidence lower bound in nats per cloud is

        log p(x_1, ..., x_N)  >=  E_q[ sum_n log p(x_n | z) ]  -  KL( q(z | cloud) || p(z) )

    `model` and `guide` are what Pyro's inference takes; `pcf.fit` trains the module without it. The bound holds for any
    points that the encoder reads: if they are other points of the surface than the scored ones, as in `fit`, then
    nothing is gained by an encoder that remembers points instead of shapes.

    Args:
        point_dim: number of coordinates `D` of a point, at least 2.
        latent_dim: size of a latent.
        prior: `"flow"`, a coupling stack, see `latent_flow`, or `"normal"`, standard normal.
        num_classes: number of classes whose label is an extra context of decoder, prior and encoder; 0 for none.
        noise_input: whether the decoder is told how much noise a cloud has (Kim et al., SoftFlow, NeurIPS 2020): a
            level between 0 and 1, which is 0 for samples. Training then varies the noise of each cloud.
        num_flows: 1, or the number of flows of a `MixtureOfFlows`.
        decoder: options of `PointCloudFlow`; masks alternate and the activation is `"silu"` by default.
        prior_options: options of `latent_flow`.
        encoder: options of `CloudEncoder`; by default widths of 64 and 128, then 512, `"silu"`, and 3 frequencies.

    Raises:
        TypeError: if `decoder`, `prior_options` or `encoder` hold an unknown option.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> import torch
        >>> vae = PointCloudVAE(point_dim=3, latent_dim=4, decoder={"num_couplings": 4, "hidden_dims": [16]})
        >>> clouds = torch.randn(5, 100, 3)
        >>> vae.encode(clouds).batch_shape, vae.decode(torch.randn(5, 4), 200).event_shape
        (torch.Size([5]), torch.Size([200, 3]))
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
        encoder: Mapping[str, Any] | None = None,
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
        encoder = {**ENCODER, **(encoder or {})}
        check_options(encoder, ENCODER_OPTIONS, "encoder")
        self.config = {**self.config, "encoder": encoder}
        self.units = standardize(point_dim)
        self.encoder = CloudEncoder(point_dim, [latent_dim, latent_dim], context_dim=num_classes, **encoder)

    def normalize(self, points: Tensor) -> None:
        """Set the units of encoder and decoder, see `PointCloudFlow.normalize`.

        Args:
            points: shape `(*batch, D)`, in the data's units, of training clouds only.
        """
        super().normalize(points)
        self.units.fit(points)

    def encode(self, clouds: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None) -> Distribution:
        """The approximate posterior over the latents of clouds: independent normals.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units, of any number of points.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.
        """
        clouds, mask = self._check_clouds(clouds, mask)
        loc, scale = self.encoder(self.units.inverse_and_log_det(clouds)[0], mask, self._one_hot(labels))
        # softplus(x + 0.54) is 1 at 0: a new encoder starts near the prior.
        return dist.Normal(loc, F.softplus(scale + math.log(math.e - 1)) + 1e-4, validate_args=False).to_event(1)

"""An auto-decoder of point clouds: an embedding per training cloud instead of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.models.latent import LatentCloudModel
from pyro_pcflow.ops.tracing import is_traced

__all__ = ["AutoDecoder"]

# Its softplus is 0.1: a new embedding has a tenth of the prior's scale.
RAW_SCALE = -2.25


class AutoDecoder(LatentCloudModel):
    """A variational auto-decoder: an embedding per training cloud, learned with the flow that decodes it.

    Park et al., DeepSDF, CVPR 2019, learn embeddings as points. Here each is a normal distribution with its own mean
    and scale, so that the evidence lower bound is a bound, and a learned prior cannot shrink to the embeddings
    (Zadeh et al., Variational auto-decoder, 2019). New clouds are embedded by optimization, see `encode`, or by NUTS,
    see `complete`.

    Args:
        num_clouds: number of training clouds.
        point_dim: number of coordinates `D` of a point, at least 2.
        latent_dim: size of an embedding.
        prior: `"flow"`, a coupling stack, see `latent_flow`, or `"normal"`, standard normal.
        num_classes: number of classes whose label is an extra context of decoder and prior; 0 for none.
        noise_input: see `PointCloudVAE`.
        num_flows: 1, or the number of flows of a `MixtureOfFlows`.
        decoder: options of `PointCloudFlow`; by default masks alternate, the activation is `"silu"`, and, unless you
            choose a base, a number of couplings or several flows, 4 couplings carry a mixture of 128 Gaussians: on
            bodies, a quarter of a nat a point sharper in the same seconds than 12 couplings of normal noise. Or
            `{"transform": ...}`, a conditional transform of your own, if there is one flow.
        prior_options: options of `latent_flow`, for the prior `"flow"`.

    Raises:
        TypeError: if `decoder` or `prior_options` hold an unknown option.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> model = AutoDecoder(5, latent_dim=4, decoder={"num_couplings": 4, "hidden_dims": [16]})
        >>> model.embedding(torch.arange(5)).batch_shape
        torch.Size([5])
        >>> model.encode(torch.randn(2, 100, 3), num_steps=10).mean.shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        num_clouds: int,
        point_dim: int = 3,
        latent_dim: int = 64,
        *,
        prior: str = "flow",
        num_classes: int = 0,
        noise_input: bool = False,
        num_flows: int = 1,
        decoder: Mapping[str, Any] | None = None,
        prior_options: Mapping[str, Any] | None = None,
    ) -> None:
        if num_clouds < 1:
            raise ValueError(f"expected at least one training cloud, got num_clouds={num_clouds}")
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
        self.num_clouds = num_clouds
        self.config = {"num_clouds": num_clouds, **self.config}
        self.embedding_loc = nn.Parameter(0.1 * torch.randn(num_clouds, latent_dim))
        self.embedding_raw_scale = nn.Parameter(torch.full((num_clouds, latent_dim), RAW_SCALE))

    def embedding(self, index: Tensor) -> Distribution:
        """The posterior over the latents of training clouds.

        Args:
            index: numbers of training clouds, shape `(*batch,)`.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`.
        """
        return _normal(self.embedding_loc[index], self.embedding_raw_scale[index])

    def _batch_posterior(
        self, points: Tensor, mask: Tensor | None, labels: Tensor | None, index: Tensor | None
    ) -> Distribution:
        """The embeddings of the training clouds of an index, of all of them in order without one."""
        if index is None:
            if len(points) != self.num_clouds:
                raise ValueError(
                    f"a batch of {len(points)} of {self.num_clouds} training clouds needs an index that says which "
                    "they are; new clouds are embedded by encode"
                )
            index = torch.arange(len(points), device=points.device)
        if index.shape != (len(points),) or not (
            is_traced(index) or bool(((index >= 0) & (index < self.num_clouds)).all())
        ):
            raise ValueError(
                f"expected an index of shape ({len(points)},) with numbers from 0 to {self.num_clouds - 1}, one per "
                f"cloud of the batch, got {index.tolist()}"
            )
        return self.embedding(index)

    def encode(
        self,
        clouds: Tensor,
        mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        check: bool = True,
        num_steps: int = 300,
        lr: float = 0.05,
    ) -> Distribution:
        """The approximate posterior over the latents of new clouds, by optimizing the bound over independent normals.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; all of them by default.
            labels: class numbers, shape `(*batch,)`; needed if the model has classes.
            check: whether to warn of clouds that a trained model hardly knows, such as parts of shapes.
            num_steps: steps of Adam, whose learning rate decays linearly to zero.
            lr: the initial learning rate.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (latent_dim,)`, without gradients.
        """
        clouds, mask = self.check_clouds(clouds, mask)
        # Gradients are needed in any mode of the caller's.
        with torch.inference_mode(False), torch.enable_grad():
            clouds = clouds.detach().clone()
            loc = clouds.new_zeros(*clouds.shape[:-2], self.latent_dim).requires_grad_()
            raw_scale = torch.full_like(loc, RAW_SCALE).requires_grad_()
            optimizer = torch.optim.Adam([loc, raw_scale], lr=lr)
            for step in range(num_steps):
                posterior = _normal(loc, raw_scale)
                z = posterior.rsample()
                log_prob = self.decode(z, clouds.shape[-2], mask=mask, labels=labels).log_prob(clouds)
                bound = log_prob + self.latent_prior(labels).log_prob(z) - posterior.log_prob(z)
                # For these two alone: the flow accumulates no gradient.
                loc.grad, raw_scale.grad = torch.autograd.grad(-bound.sum(), [loc, raw_scale])
                optimizer.param_groups[0]["lr"] = lr * (1 - step / num_steps)
                optimizer.step()
        if check:
            self._check_latents(loc.detach(), clouds, mask, labels)
        return _normal(loc.detach(), raw_scale.detach())


def _normal(loc: Tensor, raw_scale: Tensor) -> Distribution:
    return dist.Normal(loc, F.softplus(raw_scale) + 1e-4, validate_args=False).to_event(1)

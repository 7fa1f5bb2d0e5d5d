"""The VAE of the benchmarks with the couplings of Pyro alone, for ``pcf.fit``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.transforms import affine_coupling, conditional_affine_coupling, permute
from torch import Tensor, nn

import pyro_pcflow as pcf
from benchmarks.common.scores import count_parameters
from benchmarks.rivals.foreign_decoder import ForeignDecoder, ForeignDecoderVAE


class PyroCloudVAE(ForeignDecoderVAE):
    """A ``PointCloudVAE`` whose decoder and prior are stacks of Pyro's own affine couplings.

    Args:
        point_dim: number of coordinates ``D``.
        latent_dim: size of a latent.
        num_couplings: couplings of the decoder.
        hidden_dims: their hidden widths.
        split_dim: how many coordinates a coupling of the decoder keeps; half of them, as Pyro has it, by default.
        prior_couplings: couplings of the prior.
        prior_hidden_dims: their hidden widths.
        encoder: options of the encoder, which is ours.
    """

    def __init__(
        self,
        point_dim: int = 3,
        latent_dim: int = 64,
        *,
        num_couplings: int = 12,
        hidden_dims: Sequence[int] = (64, 64),
        split_dim: int | None = None,
        prior_couplings: int = 8,
        prior_hidden_dims: Sequence[int] = (128,),
        encoder: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            point_dim,
            latent_dim,
            lambda: PyroDecoder(point_dim, latent_dim, num_couplings, hidden_dims, split_dim),
            prior="normal",
            encoder=encoder,
        )
        self.latents_learned = nn.ModuleList(
            affine_coupling(latent_dim, list(prior_hidden_dims)) for _ in range(prior_couplings)
        )
        # Halves change places.
        self.latent_turn = permute(latent_dim, torch.arange(latent_dim).roll(latent_dim // 2))

    def latent_prior(self, labels: Tensor | None = None) -> dist.Distribution:
        """Pyro's stack over latents."""
        noise = dist.Normal(self._zero.expand(self.latent_dim), 1.0).to_event(1)
        return _Fresh(dist.TransformedDistribution(noise, _with_turns(self.latents_learned, self.latent_turn)))


class PyroDecoder(ForeignDecoder):
    """Pyro's stack over points, with the latent concatenated to each of them; arguments as of `PyroCloudVAE`."""

    def __init__(
        self, point_dim: int, latent_dim: int, num_couplings: int, hidden_dims: Sequence[int], split_dim: int | None
    ) -> None:
        super().__init__(point_dim)
        self.learned = nn.ModuleList(
            conditional_affine_coupling(point_dim, latent_dim, list(hidden_dims), split_dim=split_dim)
            for _ in range(num_couplings)
        )
        self.turn = permute(point_dim, torch.arange(point_dim).roll(1))

    def forward(self, z: Tensor, num_points: int) -> dist.Independent:
        """Clouds of `num_points` points for latents of shape `(*batch, latent_dim)`."""
        # Pyro's conditional distribution has no batch shape, so the context is expanded by hand.
        context = z.unsqueeze(-2).expand(*z.shape[:-1], num_points, z.shape[-1])
        couplings: Any = self.learned
        conditioned = [coupling.condition(context) for coupling in couplings]
        noise = dist.Normal(self.units.loc.new_zeros(*context.shape[:-1], self.point_dim), 1.0).to_event(1)
        units = dist.transforms.AffineTransform(self.units.loc, self.units.scale.expand(self.point_dim), event_dim=1)
        stack = dist.TransformedDistribution(noise, [*_with_turns(conditioned, self.turn), units])
        return _Fresh(stack).to_event(1)


def affine_vae() -> pcf.PointCloudVAE:
    """What the rival is matched with: twelve affine couplings of ours, with the default's encoder and prior."""
    return pcf.PointCloudVAE(3, decoder={"num_couplings": 12})


def matched_in_size(model: pcf.PointCloudVAE) -> PyroCloudVAE:
    """The rival whose couplings are so wide that it has as many parameters as a model in three dimensions."""

    def rival(width: int) -> PyroCloudVAE:
        return PyroCloudVAE(3, model.latent_dim, hidden_dims=(width, width))

    wanted = count_parameters(model)
    return rival(min(range(16, 160, 4), key=lambda width: abs(count_parameters(rival(width)) - wanted)))


def _with_turns(couplings: Any, turn: Any) -> list[Any]:
    parts: list[Any] = []
    for coupling in couplings:
        parts += [turn, coupling] if parts else [coupling]
    return parts


class _Fresh(TorchDistribution):
    """A distribution that scores copies: Pyro's couplings return the inverse they cached under older weights."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own spelling

    def __init__(self, stack: Any) -> None:
        self.stack = stack
        super().__init__(stack.batch_shape, stack.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.stack.support

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> _Fresh:
        return self if torch.Size(batch_shape) == self.batch_shape else _Fresh(self.stack.expand(batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.stack.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        # Pyro's networks expand a context to the batch of the value, not the value to that of the context.
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        return self.stack.log_prob(value.expand(shape).clone())

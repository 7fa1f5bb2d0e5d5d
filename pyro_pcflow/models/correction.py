"""A second look at a cloud: a posterior corrected by what the decoder's Gaussians make of the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture

__all__ = ["PosteriorCorrection", "mixture_scores"]

# Bound of a feature.
MOST = 10.0


class PosteriorCorrection(nn.Module):
    """A network from a posterior, and a cloud as the decoder sees it at the posterior's mean, to a better posterior.

    An encoder guesses a latent in one go. There, each Gaussian of the decoder's base explains some points of the cloud:
    how many, against how many it expects, and how far to one side of its own mean, say whether the latent has too short
    an arm. They are the scores of the log-density in the Gaussians' weights and means, as in a Fisher vector (Perronnin
    and Dance, Fisher kernels on visual vocabularies for image categorization, CVPR 2007), and the network that is
    trained to act upon them is an iterative inference model (Marino, Yue and Mandt, Iterative amortized inference, ICML
    2018). No gradient is taken through them.

    Args:
        point_dim: number of coordinates `D` of a point.
        latent_dim: size `L` of a latent.
        num_components: number of Gaussians `K`.
        hidden_dims: widths of the network.

    Examples:
        >>> flow = PointCloudFlow(3, 4, base="mixture", num_components=8, num_couplings=0)
        >>> correction = PosteriorCorrection(3, 4, 8)
        >>> loc, scale = torch.randn(5, 4), torch.ones(5, 4)
        >>> new_loc, change_of_raw_scale = correction(torch.randn(5, 100, 3), None, flow, loc, loc, scale)
        >>> new_loc.shape
        torch.Size([5, 4])
    """

    def __init__(
        self, point_dim: int, latent_dim: int, num_components: int, *, hidden_dims: Sequence[int] = (512,)
    ) -> None:
        super().__init__()
        dims = [num_components * (1 + point_dim) + 2 * latent_dim, *hidden_dims]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(dims))
        self.output = nn.Linear(dims[-1], 2 * latent_dim)
        # A new correction changes nothing.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        clouds: Tensor,
        mask: Tensor | None,
        decoder: PointCloudFlow,
        context: Tensor,
        loc: Tensor,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Correct a posterior.

        Args:
            clouds: shape `(*batch, N, D)`, in the data's units.
            mask: True at the points of a cloud, shape `(*batch, N)`; None if all are.
            decoder: its base is a mixture of `K` Gaussians.
            context: of the decoder at the mean of the posterior, shape `(*batch, C)`.
            loc: mean of the posterior, shape `(*batch, L)`.
            scale: standard deviation of the posterior, shape `(*batch, L)`.

        Returns:
            The new mean, and what is added to the parameter of the scale, of the same shape.
        """
        with torch.no_grad():
            hidden = torch.cat([mixture_scores(clouds, mask, decoder, context), loc, scale.log()], -1)
        for layer in self.hidden:
            hidden = F.silu(layer(hidden))
        move, change = self.output(hidden).chunk(2, -1)
        return loc + scale * move, change


def mixture_scores(clouds: Tensor, mask: Tensor | None, decoder: PointCloudFlow, context: Tensor) -> Tensor:
    """For every Gaussian the logarithm of how many points it explains, against how many it expects, and their offset.

    Both are shrunk by one expected point: a Gaussian that expects none says nothing.

    Returns:
        Shape `(*batch, K * (1 + D))`.
    """
    density = decoder.condition(context)
    mixture = density.base_dist
    assert isinstance(mixture, GaussianMixture)  # as the model made sure
    noise = density.transforms[0].inverse_and_log_det(clouds.movedim(-2, 0))[0]
    counts, offsets, weights = mixture.statistics(noise, None if mask is None else mask.movedim(-1, 0))
    sizes = clouds.shape[-2] if mask is None else mask.sum(-1, keepdim=True)
    expected = 1 + sizes * weights
    features = torch.cat([((1 + counts) / expected).log().unsqueeze(-1), offsets / expected.unsqueeze(-1)], -1)
    return features.flatten(-2).clamp(-MOST, MOST)

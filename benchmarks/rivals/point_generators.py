"""Networks from a latent to a set of points, which are no flows and have no density: the decoders of the rivals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class FixedPoints(nn.Module):
    """One network that writes down all coordinates of a fixed number of points at once.

    It is the decoder of Achlioptas et al., Learning representations and generative models for 3D point clouds,
    ICML 2018. Of the points, every call may ask for a random part.

    Args:
        latent_dim: size of a latent.
        num_points: number of points `N` that it writes.
        point_dim: number of coordinates `D`.
        hidden_dims: widths of the hidden layers.
    """

    def __init__(
        self, latent_dim: int, num_points: int, point_dim: int = 3, hidden_dims: Sequence[int] = (256, 512)
    ) -> None:
        super().__init__()
        self.num_points = num_points
        self.point_dim = point_dim
        self.layers = perceptron([latent_dim, *hidden_dims, num_points * point_dim])

    def forward(self, z: Tensor, num_points: int | None = None) -> Tensor:
        """Points of shape `(*batch, num_points, D)` for latents of shape `(*batch, latent_dim)`.

        Raises:
            ValueError: if more points are asked for than the network writes.
        """
        if num_points is not None and num_points > self.num_points:
            raise ValueError(
                f"this decoder writes {self.num_points} points and cannot give {num_points}: build it with num_points"
            )
        points = self.layers(z).unflatten(-1, (self.num_points, self.point_dim))
        if num_points is None or num_points == self.num_points:
            return points
        return points[..., torch.randperm(self.num_points, device=z.device)[:num_points], :]


class Folding(nn.Module):
    """One network that carries noise, point by point, to the surface, any number of points.

    The grid of Yang et al., FoldingNet, CVPR 2018, is replaced by Gaussian noise, as in Li et al., Point cloud GAN,
    2018. The latent is a shift of the hidden layers.

    Args:
        latent_dim: size of a latent.
        point_dim: number of coordinates `D`.
        noise_dim: size of a point's noise.
        hidden_dims: widths of the hidden layers.
    """

    def __init__(
        self, latent_dim: int, point_dim: int = 3, noise_dim: int = 3, hidden_dims: Sequence[int] = (128, 128, 128)
    ) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.points = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([noise_dim, *hidden_dims]))
        self.shapes = perceptron([latent_dim, 256, sum(hidden_dims)])
        self.hidden_dims = list(hidden_dims)
        self.output = nn.Linear(hidden_dims[-1], point_dim)

    def forward(self, z: Tensor, num_points: int) -> Tensor:
        """Points of shape `(*batch, num_points, D)` for latents of shape `(*batch, latent_dim)`."""
        hidden = torch.randn(*z.shape[:-1], num_points, self.noise_dim, dtype=z.dtype, device=z.device)
        shifts = self.shapes(z).unsqueeze(-2).split(self.hidden_dims, -1)
        for layer, shift in zip(self.points, shifts, strict=True):
            hidden = nn.functional.silu(layer(hidden) + shift)
        return self.output(hidden)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for pair in pairwise(sizes):
        layers += [nn.SiLU(), nn.Linear(*pair)] if layers else [nn.Linear(*pair)]
    return nn.Sequential(*layers)

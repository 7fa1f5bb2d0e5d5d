"""Objects whose symmetries are known, as mixtures of Gaussians in float64, and scans of them."""

from __future__ import annotations

import pyro.distributions as dist
import torch

from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture, Gaussians
from pyro_pcflow.transforms import Similarity, rotation_matrix

# Turned into itself by half turns about three axes; by those and any turn about the last; by nothing.
ELLIPSOID = dist.Normal(torch.zeros(3).double(), torch.tensor([0.2, 0.5, 1.0]).double()).to_event(1)
SPINDLE = dist.Normal(torch.zeros(3).double(), torch.tensor([0.3, 0.3, 1.0]).double()).to_event(1)


def _bracket() -> GaussianMixture:
    loc = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.2, 0.0], [0.0, 0.7, 0.5], [-0.3, 0.0, 0.9]]).double()
    widths = torch.tensor([[0.3, 0.05, 0.05], [0.05, 0.25, 0.05], [0.04, 0.1, 0.2], [0.06, 0.06, 0.06]]).double()
    gaussians = Gaussians(torch.tensor([1.0, 0.5, 0.0, -0.5]).double(), loc, torch.diag_embed(1 / widths))
    return GaussianMixture(lambda: gaussians, torch.Size(), num_components=4, point_dim=3)


BRACKET = _bracket()


def random_pose(scale: float = 1.0) -> Similarity:
    """A uniform rotation and a place within a few units."""
    scale_of = torch.tensor(scale).double()
    return Similarity(rotation_matrix(torch.randn(4).double()), 2 * torch.randn(3).double(), scale_of)


def scan_of(thing, pose, num_points, num_outliers=0):
    """Points of a posed object, and then outliers that are uniform in the box around these."""
    points = pose(thing.sample((num_points,)))
    low, high = points.amin(0), points.amax(0)
    return torch.cat([points, low + (high - low) * torch.rand(num_outliers, 3).double()])

"""A sheet of Gaussian profile, whose convolutions and cuts are known."""

from __future__ import annotations

import torch

from pyro_pcflow.transforms import rotation_matrix


def thin_sheet(thickness=0.03):
    """A Gaussian sheet in general position, whose convolution with a Gaussian is known."""
    rotation = rotation_matrix(torch.tensor([0.9, -0.3, 0.5, 0.2]).double())
    half = rotation * torch.tensor([thickness, 1.0, 1.0]).double()
    return torch.zeros(3).double(), half @ half.mT

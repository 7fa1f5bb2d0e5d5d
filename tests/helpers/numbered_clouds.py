"""Clouds whose points tell where they come from."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from pyro_pcflow.training.inputs import as_clouds
from pyro_pcflow.training.sources import Clouds

CPU = torch.device("cpu")


class Items(Dataset):
    """Whatever it is given, one by one."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def take(data, dtype=torch.float64, point_dim=3, name="data"):
    return as_clouds(data, dtype, point_dim, CPU, name)


def numbered(count, num_points, sizes=None):
    """Clouds whose points tell where they come from: cloud, place, and a third number."""
    points = torch.zeros(count, num_points, 3, dtype=torch.float64)
    points[..., 0] = torch.arange(count).unsqueeze(-1)
    points[..., 1] = torch.arange(num_points)
    points[..., 2] = 0.5
    if sizes is None:
        return Clouds(points)
    mask = torch.arange(num_points) < torch.tensor(sizes).unsqueeze(-1)
    return Clouds(torch.where(mask.unsqueeze(-1), points, -1.0), mask)

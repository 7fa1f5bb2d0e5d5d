"""Pretrained models that come with the package."""

from __future__ import annotations

import copy
from importlib.resources import as_file, files
from typing import Any

import torch

from pyro_pcflow.models.vae import PointCloudVAE
from pyro_pcflow.serialization import load

__all__ = ["PRETRAINED", "load_pretrained"]

# What each model was trained on, by name.
PRETRAINED = {
    "body": "human bodies in varied poses, scaled to [-1, 1], z up",
    "furniture": "chairs and stools (class 0), tables and desks (class 1), scaled to [-1, 1], y up",
}


def load_pretrained(name: str, device: str | torch.device = "cpu") -> PointCloudVAE:
    """Load a pretrained model of many shapes.

    `"body"` is a `PointCloudVAE` whose decoder is a mixture of 512 Gaussians, trained on 100,000 bodies of the kind of
    `pyro_pcflow.data.load_example("body")`, thickened by Gaussian noise of 0.01. It has a `completer`, from whose draws
    `pyro_pcflow.complete` starts.

    `"furniture"` has two classes and is trained on no more than 17 chairs and 5 tables, stretched and mirrored: it
    draws variations of these, and knows no other furniture.

    Their figures, and the commands that trained them, are on the page about many shapes. The weights are free of
    rights, as the shapes are (CC0 1.0).

    Args:
        name: one of `PRETRAINED`.
        device: where the model goes.

    Returns:
        A model whose densities are in the units of its data.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> vae = load_pretrained("body")
        >>> vae.sample(num_clouds=2, num_points=500).shape
        torch.Size([2, 500, 3])
        >>> chair, table = load_pretrained("furniture").sample(2, 500, labels=torch.tensor([0, 1]))
    """
    if name not in PRETRAINED:
        raise ValueError(f"no pretrained model {name!r}; there are {', '.join(PRETRAINED)}")
    with as_file(files(__package__) / f"{name}.pt") as path:
        loaded: Any = load(path, device).float()
    model = loaded if isinstance(loaded, PointCloudVAE) else copy.deepcopy(loaded.model).requires_grad_(True)
    assert isinstance(model, PointCloudVAE)
    if model is not loaded:
        # Not as a part of the model, whose frozen copy it has.
        vars(model)["completer"] = loaded
    return model

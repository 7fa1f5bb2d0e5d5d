"""The pictures of a run folder."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.plotting import animate, plot_clouds, save_figure, save_html
from pyro_pcflow.training.seeding import seeded

__all__ = ["write_pictures"]


def write_pictures(
    flow: PointCloudFlow,
    points: Tensor,
    folder: str | os.PathLike[str],
    *,
    num_points: int = 4096,
    azim: float = 215.0,
    seed: int = 0,
) -> list[Path]:
    """Write a sheet of data beside samples, a film of noise becoming the shape, and a page to turn it by hand.

    Pictures of an earlier moment of the same run are replaced.

    Args:
        flow: a flow without context.
        points: its data, shape `(M, D)`.
        folder: where the pictures go: `samples.png`, `film.webp`, `film.gif`, `viewer.html`.
        num_points: points that are drawn.
        azim: degrees of the camera around the upright axis.
        seed: of the samples, and of the choice of points.

    Returns:
        The paths.
    """
    folder = Path(folder)
    with seeded(seed, next(flow.parameters()).device):
        data = points[torch.randperm(len(points))[:num_points].to(points.device)].cpu()
        samples = flow.cloud(num_points=num_points).sample().cpu()
        states = flow.trajectory(num_points).cpu()
    sheet = plot_clouds({"data": data, "samples": samples}, size=4.0, azim=azim)
    return [
        save_figure(sheet, folder / "samples.png"),
        animate(states, folder / "film.webp", tween=6, azim=azim),
        animate(states[:, : num_points // 2], folder / "film.gif", tween=4, fps=16, azim=azim, size=320),
        save_html({"data": data, "noise to shape": states}, folder / "viewer.html", title="Noise to shape", azim=azim),
    ]

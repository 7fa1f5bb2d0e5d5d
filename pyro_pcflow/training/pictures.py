"""The pictures of a run folder."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.plotting import animate, plot_clouds, save_figure, save_html
from pyro_pcflow.training.seeding import seeded

__all__ = ["write_pictures"]


def write_pictures(
    flow: PointCloudFlow,
    clouds: Tensor,
    folder: str | os.PathLike[str],
    *,
    num_points: int = 4096,
    azim: float = 215.0,
    seed: int = 0,
) -> list[Path]:
    """Write a contact sheet of data beside samples, a film of noise becoming the shape, and a page to turn it.

    Pictures of an earlier moment of the same run are replaced.

    Args:
        flow: a flow without context.
        clouds: its data, shape `(S, N, D)`; the first four are drawn.
        folder: where the pictures go: `samples.png`, `film.webp`, `film.gif`, `viewer.html`.
        num_points: points of a drawn cloud.
        azim: degrees of the camera around the upright axis.
        seed: of the samples.

    Returns:
        The paths.
    """
    folder = Path(folder)
    data = clouds[:4, :num_points]
    with seeded(seed, next(flow.parameters()).device):
        samples = flow.cloud(num_points=data.shape[1]).sample((len(data),)).cpu()
        states = flow.trajectory(num_points).float().cpu()
    sheet = plot_clouds([data, samples], titles=["data", "samples"], size=3.2, azim=azim)
    return [
        save_figure(sheet, folder / "samples.png"),
        animate(states, folder / "film.webp", tween=6, azim=azim),
        animate(states[:, : num_points // 2], folder / "film.gif", tween=4, fps=16, azim=azim, size=320),
        save_html(
            {"data": data[0], "noise to shape": states}, folder / "viewer.html", title="From noise to shape", azim=azim
        ),
    ]

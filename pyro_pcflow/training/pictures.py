"""The pictures of a run, as a callback."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.models import PointCloudVAE
from pyro_pcflow.ops.random import seeded
from pyro_pcflow.plotting import animate, plot_clouds, save_figure, save_html
from pyro_pcflow.plotting.camera import view_matrix
from pyro_pcflow.training.callbacks import Callback, Progress
from pyro_pcflow.training.sources import Source
from pyro_pcflow.training.variational import EvidenceLowerBound

__all__ = ["Pictures", "write_cloud_pictures", "write_pictures"]

OF_POINTS = ("samples.png", "film.webp", "film.gif", "viewer.html")
OF_CLOUDS = ("samples.png", "reconstructions.png", "walk.png", "walk.webp", "walk.html")


class Pictures(Callback):
    """Draws a `PointCloudFlow` without context, or a `PointCloudVAE`, into the run folder at the end of a training.

    Of a flow: data beside samples, a film of noise that becomes the shape, and a page to turn it by hand. Of a model of
    clouds: new clouds, reconstructions, and a walk through the latents. Other modules are left alone.

    Args:
        up: the axis that stands upright, see `plot_clouds`.
        azim: degrees of the camera around the upright axis.

    Raises:
        ValueError: if a value is wrong.

    Examples:
        >>> Pictures(up="z").up
        'z'
    """

    def __init__(self, up: str = "y", azim: float = 215.0) -> None:
        # Here, and not after hours of training.
        view_matrix(elev=0.0, azim=azim, up=up)
        self.up = up
        self.azim = azim

    def files(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the pictures of a module."""
        if _is_drawn(module):
            return OF_POINTS
        return OF_CLOUDS if isinstance(module, PointCloudVAE) else ()

    def on_end(self, progress: Progress) -> None:
        """Draw the module."""
        module, objective = progress.module, progress.objective
        if progress.out is None:
            return
        camera = {"up": self.up, "azim": self.azim, "seed": progress.seed}
        if isinstance(module, PointCloudFlow) and _is_drawn(module):
            points = objective.points_for_units()
            if points is not None:
                write_pictures(module, points.cpu(), progress.out, **camera)  # type: ignore[arg-type]
        elif isinstance(module, PointCloudVAE) and isinstance(objective, EvidenceLowerBound):
            clouds, caption = objective.clouds_to_show()
            write_cloud_pictures(module, clouds, progress.out, caption=caption, **camera)  # type: ignore[arg-type]


def _is_drawn(module: nn.Module) -> bool:
    return isinstance(module, PointCloudFlow) and module.context_dim == 0


def write_pictures(
    flow: PointCloudFlow,
    points: Tensor,
    folder: str | os.PathLike[str],
    *,
    num_points: int = 4096,
    up: str = "y",
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
        up: the axis that stands upright, see `plot_clouds`.
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
    sheet = plot_clouds({"data": data, "samples": samples}, size=4.0, up=up, azim=azim)
    return [
        save_figure(sheet, folder / "samples.png"),
        animate(states, folder / "film.webp", tween=_tween(states, 72), up=up, azim=azim),
        animate(
            states[:, : num_points // 2],
            folder / "film.gif",
            tween=_tween(states, 48),
            fps=16,
            up=up,
            azim=azim,
            size=320,
        ),
        save_html(
            {"data": data, "noise to shape": states}, folder / "viewer.html", title="Noise to shape", up=up, azim=azim
        ),
    ]


def _tween(states: Tensor, frames: int) -> int:
    """Frames for a step of a film of about so many."""
    return max(1, round(frames / max(1, len(states) - 1)))


def write_cloud_pictures(
    vae: PointCloudVAE,
    clouds: Source,
    folder: str | os.PathLike[str],
    *,
    caption: str = "held out",
    num_points: int = 2048,
    up: str = "y",
    azim: float = 215.0,
    seed: int = 0,
) -> list[Path]:
    """Write a sheet of new clouds, a sheet of clouds beside their reconstructions, and a walk between two of them.

    Args:
        vae: a trained model.
        clouds: its data, held-out clouds where there are any.
        folder: where the pictures go: `samples.png`, `reconstructions.png`, `walk.png`, `walk.webp`, `walk.html`.
        caption: what the clouds are called.
        num_points: points that are drawn of a cloud.
        up: the axis that stands upright, see `plot_clouds`.
        azim: degrees of the camera around the upright axis.
        seed: of the samples.

    Returns:
        The paths.
    """
    folder = Path(folder)
    device = next(vae.parameters()).device
    with seeded(seed, device):
        shown, data = _whole(clouds)
        of = [None if clouds.labels is None else clouds.labels[i].to(device) for i in shown]
        data = [cloud.to(device) for cloud in data]
        pairs = {}
        for i, cloud in enumerate(data):
            pairs[f"{caption} {i + 1}"] = cloud.cpu()
            pairs[f"reconstruction {i + 1}"] = vae.reconstruct(cloud, num_points, labels=of[i], check=False).cpu()
        new_labels = torch.arange(12, device=device) % vae.num_classes if vae.num_classes else None
        samples = vae.sample(12, num_points, labels=new_labels).cpu()
        walk = vae.interpolate(data[0], data[-1], 24, num_points, labels=of[0], check=False).cpu()
    steps = {f"{step / 23:.0%}": walk[step] for step in (0, 5, 9, 14, 18, 23)}
    return [
        save_figure(plot_clouds(samples, columns=6, up=up, azim=azim), folder / "samples.png"),
        save_figure(plot_clouds(pairs, columns=6, up=up, azim=azim), folder / "reconstructions.png"),
        save_figure(plot_clouds(steps, columns=6, up=up, azim=azim), folder / "walk.png"),
        animate(walk, folder / "walk.webp", tween=2, up=up, azim=azim),
        save_html({"": walk}, folder / "walk.html", title="A walk through the latents", up=up, azim=azim),
    ]


def _whole(clouds: Source, most: int = 6) -> tuple[list[int], list[Tensor]]:
    """The first clouds that have points, and their numbers."""
    chosen = torch.arange(min(len(clouds), 20 * most), device=clouds.device)
    points, mask = clouds.take(chosen), clouds.mask_of(chosen)
    whole = list(points) if mask is None else [cloud[kept] for cloud, kept in zip(points, mask, strict=True)]
    found = [(i, cloud) for i, cloud in enumerate(whole) if len(cloud)][:most]
    return [i for i, _ in found], [cloud for _, cloud in found]

"""What a notebook shows of a cloud and of a flow."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.ops.random import restored_generators

_MOST_CLOUDS = 4
_MOST_POINTS = 2048


def cloud_html(name: str, point: Distribution, num_points: int, mask: Tensor | None) -> str:
    """A draw of up to four clouds of a batch, each point coloured by its log-density.

    Looking changes nothing: the generators are as they were before.

    Args:
        name: of the distribution of clouds.
        point: of one point, with the batch shape of the clouds.
        num_points: points of a cloud, of which at most 2048 are shown.
        mask: True at the points of a cloud, shape `(*batch, num_points)`, or None.
    """
    count, num_points = point.batch_shape.numel(), min(num_points, _MOST_POINTS)
    part = f", {_MOST_CLOUDS} of {count} clouds" if count > _MOST_CLOUDS else ""
    text = f"<p><code>{html.escape(name)}</code>{part}</p>"
    with torch.no_grad(), restored_generators():
        points = point.sample(torch.Size((num_points,)))
        missing = _missing(points)
        if missing:
            return f"{text}<p>Not drawn: {missing}.</p>"
        log_density = point.log_prob(points).reshape(num_points, count).cpu()
    points = points.reshape(num_points, count, -1).cpu()
    kept = torch.ones(count, num_points, dtype=torch.bool)
    if mask is not None:
        kept = mask.expand(*point.batch_shape, -1).reshape(count, -1)[:, :num_points].cpu()
    shown = [index for index in range(count) if kept[index].any()][:_MOST_CLOUDS]
    if not shown:
        return f"{text}<p>Not drawn: there are no points.</p>"
    clouds = {f"cloud {index + 1}" if count > 1 else "a draw": points[kept[index], index] for index in shown}
    colors = {name: log_density[kept[index], index] for name, index in zip(clouds, shown, strict=True)}
    return text + _view(clouds, colors=colors, color_label="log-density, nats")


def flow_html(summary: str, layers: str, trajectory: Callable[[int], Tensor], title: str) -> str:
    """Fresh noise on its way to the shape, below the layers of the flow, which open on a click.

    Args:
        summary: of the flow, one line.
        layers: of the flow, many lines.
        trajectory: from a number of points `N` to their states on the way, shape `(1 + L, N, D)`.
        title: of the picture.
    """
    summary, layers = html.escape(summary), html.escape(layers)
    layers = f"<details><summary><code>{summary}</code></summary><pre>{layers}</pre></details>"
    with torch.no_grad(), restored_generators():
        states = trajectory(_MOST_POINTS // 2)
    missing = _missing(states)
    return f"{layers}<p>Not drawn: {missing}.</p>" if missing else layers + _view({title: states.cpu()})


def _missing(points: Tensor) -> str:
    """Why points have no picture, or nothing."""
    if points.numel() == 0:
        return "there are no points"
    if points.shape[-1] < 2:
        return "points of one coordinate have no picture"
    return "" if bool(torch.isfinite(points).all()) else "some points are not finite"


def _view(clouds: dict[str, Tensor], **options: Any) -> str:
    # Imported here, so that Matplotlib is loaded only to draw.
    from pyro_pcflow.plotting import view_clouds

    return view_clouds(clouds, **options)._repr_html_()

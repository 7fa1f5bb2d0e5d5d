"""What a notebook shows of a cloud and of a flow."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_pcflow.ops.random import restored_generators

if TYPE_CHECKING:
    from pyro_pcflow.distributions.flow import PointCloudFlow
    from pyro_pcflow.distributions.point_cloud import PointCloud

_MOST_CLOUDS = 4
_MOST_POINTS = 2048


def cloud_html(cloud: PointCloud) -> str:
    """A draw of up to four clouds of the batch, each point coloured by its log-density.

    Looking changes nothing: the generators are as they were before.
    """
    point, count = cloud.point_distribution, cloud.batch_shape.numel()
    num_points = min(cloud.num_points, _MOST_POINTS)
    part = f", {_MOST_CLOUDS} of {count} clouds" if count > _MOST_CLOUDS else ""
    text = f"<p><code>{html.escape(repr(cloud))}</code>{part}</p>"
    with torch.no_grad(), restored_generators():
        points = point.expand(cloud.batch_shape).sample(torch.Size((num_points,)))
        missing = _missing(points)
        if missing:
            return f"{text}<p>Not drawn: {missing}.</p>"
        log_density = point.log_prob(points).reshape(num_points, count).cpu()
    points = points.reshape(num_points, count, -1).cpu()
    kept = torch.ones(count, num_points, dtype=torch.bool)
    if cloud.point_mask is not None:
        kept = cloud.point_mask.expand(*cloud.batch_shape, -1).reshape(count, -1)[:, :num_points].cpu()
    shown = [index for index in range(count) if kept[index].any()][:_MOST_CLOUDS]
    if not shown:
        return f"{text}<p>Not drawn: there are no points.</p>"
    clouds = {f"cloud {index + 1}" if count > 1 else "a draw": points[kept[index], index] for index in shown}
    colors = {name: log_density[kept[index], index] for name, index in zip(clouds, shown, strict=True)}
    return text + _view(clouds, colors=colors, color_label="log-density, nats")


def flow_html(flow: PointCloudFlow) -> str:
    """Fresh noise on its way to the shape, above the layers of the flow."""
    text = html.escape(repr(flow))
    summary = html.escape(f"PointCloudFlow({flow.extra_repr()})")
    layers = f"<details><summary><code>{summary}</code></summary><pre>{text}</pre></details>"
    context, name = None, "noise to shape"
    if flow.context_dim:
        context = flow.units.loc.new_zeros(flow.context_dim)
        name = "noise to shape, at a context of zeros"
    with torch.no_grad(), restored_generators():
        states = flow.trajectory(_MOST_POINTS // 2, context)
    missing = _missing(states)
    return f"{layers}<p>Not drawn: {missing}.</p>" if missing else layers + _view({name: states.cpu()})


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

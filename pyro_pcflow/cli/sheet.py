"""The picture of an evaluation: samples, their nearest references, and the worst cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyro_pcflow.plotting import plot_clouds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_pcflow.metrics.report import Neighbours

__all__ = ["neighbour_sheet"]

SAMPLES, REFERENCES = "#4878a8", "#d07a4a"


def neighbour_sheet(
    neighbours: Neighbours, *, columns: int = 8, num_points: int = 2048, up: str = "y", azim: float = 215.0
) -> Figure:
    """Draw samples above their nearest references, first some, then the worst; and references that no sample is near.

    Failed samples, which have no place, are left out.

    Args:
        neighbours: of a report.
        columns: clouds in a row.
        num_points: points drawn of each cloud.
        up: the axis that stands upright.
        azim: degrees of the camera around it.

    Returns:
        A figure of six rows; of one row of references if all samples failed.

    Examples:
        >>> from pyro_pcflow.metrics import evaluate
        >>> report = evaluate(torch.randn(5, 50, 3), torch.randn(5, 50, 3))
        >>> assert report.neighbours is not None
        >>> len(neighbour_sheet(report.neighbours, columns=4).axes)
        24
    """
    there = neighbours.distances.isfinite().any(1).nonzero().flatten()
    samples, references = neighbours.samples[there, :num_points], neighbours.references[:, :num_points]
    if not len(there):
        return plot_clouds([references[:columns]], titles=["references"], colors=REFERENCES, up=up, azim=azim)
    distances = neighbours.distances[there]
    nearest_reference, nearest_sample = distances.argmin(1), distances.argmin(0)
    some = torch.linspace(0, len(samples) - 1, min(columns, len(samples))).round().long()
    worst = distances.amin(1).argsort(descending=True)[:columns]
    missed = distances.amin(0).argsort(descending=True)[:columns]
    # A low panel has room for some 14 letters at its side.
    rows = [
        ("samples", samples[some]),
        ("their nearest", references[nearest_reference[some]]),
        ("worst samples", samples[worst]),
        ("their nearest", references[nearest_reference[worst]]),
        ("missed", references[missed]),
        ("their nearest", samples[nearest_sample[missed]]),
    ]
    kinds = [SAMPLES, REFERENCES, SAMPLES, REFERENCES, REFERENCES, SAMPLES]
    return plot_clouds(
        [clouds for _, clouds in rows],
        titles=[title for title, _ in rows],
        colors=kinds,
        size=1.7,
        up=up,
        azim=azim,
    )

"""The picture of an evaluation: which clouds are in which row."""

from __future__ import annotations

import torch

from pyro_pcflow.cli import sheet
from pyro_pcflow.metrics.report import Neighbours


def test_rows_against_a_table_of_distances(monkeypatch):
    """Cloud `s` of the samples is filled with `s`, reference `r` with `10 + r`; the last sample has failed."""
    samples = torch.arange(4.0).view(4, 1, 1).expand(4, 6, 3)
    references = 10 + torch.arange(3.0).view(3, 1, 1).expand(3, 6, 3)
    nan = float("nan")
    distances = torch.tensor([[1.0, 5.0, 9.0], [2.0, 8.0, 7.0], [6.0, 4.0, 8.0], [nan, nan, nan]])
    drawn = []
    monkeypatch.setattr(sheet, "plot_clouds", lambda rows, **options: drawn.append((rows, options)))
    sheet.neighbour_sheet(Neighbours(samples, references, distances, "cd"), columns=3, num_points=2)
    ((rows, options),) = drawn
    assert [cloud.shape for row in rows for cloud in row] == 18 * [(2, 3)]
    numbers = [[int(cloud[0, 0]) for cloud in row] for row in rows]
    titles = options["titles"]
    assert dict(zip(titles[::2], numbers[::2], strict=True)) == {
        "samples": [0, 1, 2],
        "worst samples": [2, 1, 0],  # 4, 2 and 1 from their nearest
        "missed": [12, 11, 10],  # 7, 4 and 1
    }
    assert titles[1::2] == 3 * ["their nearest"]
    assert numbers[1::2] == [[10, 10, 11], [11, 10, 10], [1, 2, 0]]

"""Every category of the picture has its row of data and its row of new clouds, upright."""

from __future__ import annotations

import torch

import pyro_pcflow as pcf
from benchmarks.tools import draw_categories


def test_a_picture_of_what_is_shipped(tmp_path, command):
    command(draw_categories, "--points", 30, "--out", tmp_path / "categories.png")
    assert (tmp_path / "categories.png").stat().st_size > 10_000


def test_all_rows_stand():
    found = draw_categories.rows(400)
    assert list(found) == ["bodies", "new bodies", "chairs", "new chairs", "tables", "new tables"]
    for name in ("bodies", "new bodies"):
        deviation = found[name].std(1).mean(0)
        assert deviation[2] > 1.5 * deviation[1], name
    for name in ("chair", "table"):
        data = pcf.data.load_example(name, 400, split="train")[: draw_categories.COLUMNS]
        turned = found[f"{name}s"]
        assert torch.equal(turned[..., 2], data[..., 1])
        # Turned, not mirrored.
        turn = torch.linalg.lstsq(data[0], turned[0]).solution
        torch.testing.assert_close(torch.linalg.det(turn), torch.tensor(1.0))
    # Legs below and a top above: most of the points of a table lie high.
    heights = found["new tables"][..., 2]
    assert (heights.median(1).values > (heights.amax(1) + heights.amin(1)) / 2).double().mean() > 0.5

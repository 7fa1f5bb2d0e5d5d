"""Nearest neighbours by trees and by blocks, and rows of matrices from trees."""

from __future__ import annotations

import torch

from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.metrics import neighbour_search, pairwise
from pyro_pcflow.metrics.neighbour_search import (
    few_enough,
    nearest_by_all_distances,
    nearest_by_blocks,
    nearest_by_trees,
    nearest_index,
)
from pyro_pcflow.metrics.pairs import cost_matrix


def test_trees_blocks_and_all_distances_find_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, n, 3, generator=generator, dtype=torch.float64) for n in (40, 70))
    mask = torch.rand(5, 70, generator=generator) < 0.5
    expected = cost_matrix(x, y, "squared").masked_fill(~mask.unsqueeze(1), torch.inf).argmin(-1)
    assert torch.equal(nearest_by_trees(x, y, mask), expected)
    assert torch.equal(nearest_index(x, y, mask), expected)
    if kernel.available():
        assert torch.equal(nearest_by_all_distances(x, y, mask), expected)
    monkeypatch.setattr(neighbour_search, "THREADED", 1)
    assert torch.equal(nearest_by_trees(x, y, mask), expected)
    for block in (1, 100, 2000, 6000, 1 << 20):
        assert torch.equal(nearest_by_blocks(x, y, mask, block), expected)


def test_all_distances_are_for_few_points_and_where_there_is_a_compiler(monkeypatch):
    monkeypatch.setattr(neighbour_search, "MOST_DISTANCES", 100)
    for compiled in (True, False):
        monkeypatch.setattr(kernel, "available", lambda compiled=compiled: compiled)
        assert few_enough(10, 10) == compiled
        assert not few_enough(10, 11)


def test_trees_ask_for_no_more_points_than_have_room(bodies, monkeypatch):
    asked = []

    class Tree(neighbour_search.cKDTree):
        def query(self, points, **options):
            asked.append(points.nbytes)
            return super().query(points, **options)

    monkeypatch.setattr(neighbour_search, "cKDTree", Tree)
    monkeypatch.setattr(kernel, "available", lambda: False)
    pairwise(bodies, bodies[:5], max_memory_mb=0.05)
    few, count = max(asked), len(asked)
    asked.clear()
    pairwise(bodies, bodies[:5])
    assert few < 0.05 * 2**20 < max(asked) * 10
    assert count > len(asked)

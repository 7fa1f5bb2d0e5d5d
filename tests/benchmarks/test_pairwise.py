"""The table of times, on few clouds."""

from __future__ import annotations

import pytest
import torch

from benchmarks import pairwise


def test_the_table(command, write_category):
    path = write_category(6, 0, 40)
    printed = command(pairwise, path, "--clouds", 3, "--points", 20, "--emd-pairs", 1, "--rounds", 1).out
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    pairs = {row[0]: row[1] for row in cells}
    assert [row[0] for row in cells].count("samples-references") == 2  # by Chamfer distances, and by exact EMD
    assert pairs["samples-samples"] == pairs["references-references"] == "3"
    assert pairs["samples-references"] == "9"
    assert {"approximate EMD", "Chamfer distance"} <= pairs.keys()
    assert [row[0] for row in cells].count("exact EMD") == 2  # of all pairs, and beside SciPy's
    with pytest.raises(ValueError, match="40 points per cloud, 41 asked"):
        command(pairwise, path, "--points", 41)


def test_clouds_that_are_too_few_are_turned_and_not_repeated(write_category):
    samples, references = pairwise.load(str(write_category(4, 0, 40)), 4, 40)
    torch.testing.assert_close(references, samples[..., [2, 1, 0]] * torch.tensor([1.0, 1.0, -1.0]))

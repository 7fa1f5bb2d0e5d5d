"""Which coordinates a coupling keeps."""

from __future__ import annotations

import pytest

from pyro_pcflow.transforms.masks import MASK_PATTERNS, coupling_masks


@pytest.mark.parametrize("pattern", MASK_PATTERNS)
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_mask_patterns_move_every_coordinate(pattern, dim):
    masks = coupling_masks(dim, 2 * dim, pattern)
    assert all(any(mask) and not all(mask) for mask in masks)
    assert all(not all(mask[i] for mask in masks) for i in range(dim))

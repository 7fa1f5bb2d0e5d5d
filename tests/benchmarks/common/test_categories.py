"""Category files and their units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.common.categories import load_category, load_splits


def test_units_are_those_of_the_train_split(tmp_path):
    generator = np.random.default_rng(0)
    points = 5 + 3 * generator.normal(size=(9, 200, 3)).astype(np.float32)
    split = np.array(["train", "val", "test"] * 3)
    np.savez(tmp_path / "blobs.npz", points=points, split=split)
    train, validation, test = load_splits(tmp_path / "blobs.npz")
    assert [len(part) for part in (train, validation, test)] == [3, 3, 3]
    assert np.array_equal(validation.numpy(), points[1::3])
    category = load_category(tmp_path / "blobs.npz")
    assert category.name == "blobs"
    torch.testing.assert_close(category.train.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)
    assert float(category.train.square().mean()) == pytest.approx(1, abs=1e-5)
    scale = (train - train.mean((0, 1))).square().mean().sqrt()
    torch.testing.assert_close(category.test * scale + train.mean((0, 1)), test)

"""Files that the commands read, and a way to call commands."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def write_category(tmp_path_factory):
    """A function that writes a category file of Gaussian ellipsoids, from its clouds in each split and their points."""

    def write(train, held_out, points):
        path = tmp_path_factory.mktemp("data") / "ellipsoids.npz"
        generator, count = torch.Generator().manual_seed(0), train + 2 * held_out
        radii = 0.2 + torch.rand(count, 1, 3, generator=generator)
        clouds = radii * torch.randn(count, points, 3, generator=generator)
        split = np.array(["train"] * train + ["val"] * held_out + ["test"] * held_out)
        np.savez(path, points=clouds.numpy(), split=split)
        return path

    return write


@pytest.fixture(scope="session")
def category_file(write_category):
    """Forty clouds of as many points as the default model reads."""
    return write_category(24, 8, 2048)


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that calls a command with arguments, and gives what it prints."""

    def call(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        module.main()
        return capsys.readouterr()

    return call

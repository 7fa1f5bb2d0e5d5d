"""One thread for the small tensors of these tests, which a second one would only make wait; clouds and a report."""

from __future__ import annotations

import pytest
import torch

from helpers.brute_force import real_clouds
from pyro_pcflow.metrics import DataDescription, LogLikelihood, evaluate


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bodies(device):
    return real_clouds(11, 40).double().to(device)


@pytest.fixture(scope="session")
def report():
    """Of two draws, with a training set and a likelihood."""

    def clouds(seed, count=5):
        return torch.randn(count, 12, 3, generator=torch.Generator().manual_seed(seed))

    return evaluate(
        torch.stack([clouds(1), clouds(2)]),
        clouds(3),
        train=clouds(4, 8),
        name="ours",
        data=DataDescription("noise | x", "test", "metres"),
        likelihood=LogLikelihood(torch.tensor([10.0, 14.0]), 2, "exact", "metres"),
    )

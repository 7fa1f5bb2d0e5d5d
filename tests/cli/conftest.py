"""Tiny models of every class, made once."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from helpers.saved_models import MODELS
from pyro_pcflow.models import AutoDecoder
from pyro_pcflow.training import Pictures


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Files of saved models, by name, whose weights are not those of a new module."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, make in MODELS.items():
            module = make()
            module.normalize(1 + torch.randn(500, module.point_dim))
            for parameter in module.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            files[name] = folder / f"{name}.pt"
            pcf.save(module, files[name])
    return files


@pytest.fixture(autouse=True)
def _quick_posterior(monkeypatch):
    # An auto-decoder takes 300 steps for each cloud that it has not seen.
    monkeypatch.setitem(AutoDecoder.encode.__kwdefaults__, "num_steps", 5)


@pytest.fixture
def no_pictures(monkeypatch):
    """Trainings that draw nothing, which takes longer than their few steps."""
    monkeypatch.setattr(Pictures, "on_end", lambda *_: None)


@pytest.fixture
def no_sheet(monkeypatch):
    """Evaluations whose picture is an empty one."""
    from matplotlib.figure import Figure

    from pyro_pcflow.cli import sheet

    monkeypatch.setattr(sheet, "neighbour_sheet", lambda *_, **__: Figure(figsize=(1, 1)))

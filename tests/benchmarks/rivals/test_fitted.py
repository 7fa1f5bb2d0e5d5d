"""A flow is trained as users train it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.common.meshes import load_shape
from benchmarks.rivals.fitted import fit_flow


@pytest.fixture
def given(monkeypatch):
    """What `fit` was given."""
    told = {}

    def fit(flow, points, **options):
        told.update(options, points=points)
        return pcf.training.FitResult(7, 0.1, None, [], None, "cpu")

    monkeypatch.setattr(pcf, "fit", fit)
    return told


def test_sizes_go_to_the_flow_and_the_rest_to_fit(given):
    shape = load_shape(pcf.data.example_path("spot"), num_points=100)
    make = partial(pcf.PointCloudFlow, 3, hidden_dims=(4,))
    fitted = fit_flow(make, shape, 2.0, 3, noise=0.1, lr=0.5, num_couplings=2)
    assert fitted.steps == 7
    assert fitted.density.transform.extra_repr() is not None
    assert (given["max_seconds"], given["seed"], given["noise"], given["lr"]) == (2.0, 3, 0.1, 0.5)
    assert given["held_out"] is shape.validation
    assert fitted.stored == sum(p.numel() for p in make(num_couplings=2).parameters())
    del given["held_out"]
    fit_flow(make, shape, 2.0, 3, noise=0.1, held_out=False)
    assert "held_out" not in given
    assert given["points"] is shape.train


def test_a_run_that_diverges_is_marked(monkeypatch):
    def fit(flow, points, **options):
        raise pcf.training.TrainingDivergedError("no", step=12, first_nonfinite=None)

    monkeypatch.setattr(pcf, "fit", fit)
    shape = load_shape(pcf.data.example_path("spot"), num_points=100)
    fitted = fit_flow(lambda: torch.nn.Linear(3, 3), shape, 1.0, 0, noise=0.1)
    assert fitted.diverged_at == fitted.steps == 12

"""A small category, how it is judged and trained on, and runs that are made up."""

from __future__ import annotations

import dataclasses

import pytest

import pyro_pcflow as pcf
from benchmarks.common.categories import load_category
from benchmarks.families.members import FAMILIES
from benchmarks.families.records import ModelRun, Training
from benchmarks.families.runs import Judge
from pyro_pcflow.metrics.report import Likelihood

SMALL = {"decoder": {"num_couplings": 2, "hidden_dims": [8]}, "encoder": {"point_dims": [8], "hidden_dims": [8]}}


@pytest.fixture(scope="session")
def small_file(write_category):
    """Thirty clouds of 128 points."""
    return write_category(18, 6, 128)


@pytest.fixture(scope="session")
def category(small_file):
    return load_category(small_file)


@pytest.fixture(scope="session")
def judge(category):
    return Judge(category, "test", num_points=32, draws=2)


@pytest.fixture(scope="session")
def training():
    return Training(seconds=None, max_steps=2, noise=0.02, scored_points=48, particles=2, device="cpu")


@pytest.fixture(scope="session")
def train_report(judge):
    return judge.train_report()


@pytest.fixture
def small_families(monkeypatch):
    """Two families of ours and one rival, small."""
    small = dataclasses.replace(FAMILIES["default"], make=lambda size: pcf.PointCloudVAE(3, 4, **SMALL))
    monkeypatch.setitem(FAMILIES, "default", small)
    monkeypatch.setitem(FAMILIES, "nice", small)


@pytest.fixture
def made_run(training, train_report):
    """A function that makes a run up, from its model, its bound, its 1-NNA in each draw, and its halves."""

    def make(model, nats, nna, halves=(0.6, 0.7), scores=None, **changes):
        draws = dict.fromkeys(train_report, (0.5, 0.5)) | {"1-nna-cd": tuple(nna)}
        draws |= {"1-nna-cd-ref": (halves[0],) * 2, "1-nna-cd-smp": (halves[1],) * 2} | (scores or {})
        likelihood = None if nats is None else Likelihood(nats, 0.1, "bound", "metres")
        report = dataclasses.replace(train_report, name=model, draws=draws, likelihood=likelihood)
        fields = {
            "model": model,
            "seed": 0,
            "lr": 1e-3,
            "training": training,
            "report": report,
            "trained_seconds": 1.0,
            "steps": 2,
            "parameters": 10,
            "sampling_seconds": 0.001,
            "threads": 1,
            "failures": [],
        }
        return ModelRun(**fields | changes)

    return make

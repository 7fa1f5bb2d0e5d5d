"""Options of the data, which the objectives of both roads share."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import pyro_pcflow as pcf
from helpers.stand_ins import DiagonalGaussian
from pyro_pcflow.training import EvidenceLowerBound, ExactLikelihood


@pytest.fixture(params=["points", "clouds"])
def make(request):
    if request.param == "points":
        return partial(ExactLikelihood, DiagonalGaussian(3), torch.randn(50, 3))
    vae = pcf.PointCloudVAE(3, 2, decoder={"num_couplings": 2, "hidden_dims": [4]})
    return partial(EvidenceLowerBound, vae, torch.randn(50, 9, 3))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got 2.5"),
        ({"noise": -0.1}, ValueError, 'noise must be a standard deviation, at least 0 and finite, or "auto", got -0.1'),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"held_out": 1.0}, ValueError, r"held_out must be a share in \[0, 1\) or"),
        ({"sampling": {}}, TypeError, "sampling must be a pyro_pcflow.training.CloudSampling, got {}"),
    ],
)
def test_a_wrong_one_is_named(make, options, kind, words):
    with pytest.raises(kind, match=words):
        make(**options)


def test_the_description_has_what_decides_the_batches(make):
    drawn, given = make(batch_size=7, noise=1), make(held_out=make.args[1][:5])
    assert {**drawn.description(), "batch_size": 7, "noise": 1.0, "held_out": 0.1} == drawn.description()
    assert given.description()["held_out"] == "given"

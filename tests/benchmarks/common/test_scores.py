"""The scores of the tables: what `pcf.fit` says of clouds that are held out, and no score of what has blown up."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.common.scores import evidence_lower_bound, nats_per_point
from helpers.ellipsoids import ellipsoids


@pytest.fixture
def vae():
    torch.manual_seed(0)
    model = pcf.PointCloudVAE(3, 8, decoder={"num_couplings": 2, "hidden_dims": [16]}, encoder={"point_dims": [16]})
    model.normalize(ellipsoids().flatten(0, 1))
    return model


def test_the_bound_is_that_of_fit(vae):
    """More clouds than are scored at once, and an odd number of points."""
    held_out = ellipsoids(70, 129, seed=1)
    result = pcf.fit(vae, ellipsoids(), held_out=held_out, noise=0.05, max_steps=2, seed=0)
    bound = evidence_lower_bound(vae, held_out, 0.05)
    for name, value in bound.items():
        assert value == pytest.approx(result.scores[name], rel=1e-4, abs=1e-4), name


def test_a_model_that_has_blown_up_has_no_bound(vae):
    with torch.no_grad():
        next(vae.decoder.parameters()).fill_(math.nan)
    assert evidence_lower_bound(vae, ellipsoids(), 0.1) == {}


def test_points_that_have_no_density_are_infinitely_unlikely():
    class Broken(torch.nn.Module):
        def log_prob(self, points):
            return torch.full(points.shape[:-1], math.nan)

    assert nats_per_point(Broken(), torch.zeros(3, 3)) == -math.inf

"""What the objectives of clouds share; the rest is tested with each of them."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.infer import Completer
from pyro_pcflow.training.amortised import LikelihoodOfLatents
from pyro_pcflow.training.cloud_objective import CloudObjective


@pytest.mark.parametrize("road", [pcf.training.EvidenceLowerBound, LikelihoodOfLatents])
def test_both_roads_hold_the_same_clouds_out(road):
    vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
    module = vae if road is pcf.training.EvidenceLowerBound else Completer(vae, context_dim=4)
    clouds = torch.randn(20, 100, 3)
    objective = road(module, clouds, noise=0.1, seed=3)
    assert isinstance(objective, CloudObjective)
    assert objective.size == 18
    description = objective.description()
    assert (description["clouds"], description["held_out_clouds"]) == (18, 2)
    other = pcf.training.EvidenceLowerBound(vae, clouds, noise=0.1, seed=3).description()
    assert description["held_out_sha256"] == other["held_out_sha256"]

"""A rival has the encoder, the units and the latent of our model, and no flow over points."""

from __future__ import annotations

import torch

import pyro_pcflow as pcf
from benchmarks.rivals.foreign_decoder import ForeignDecoderVAE
from helpers.ellipsoids import ellipsoids


def test_it_is_our_model_without_its_decoder():
    torch.manual_seed(0)
    rival, ours = ForeignDecoderVAE(3, 8), pcf.PointCloudVAE(3, 8)
    points = ellipsoids().flatten(0, 1)
    assert not rival.normalized
    rival.normalize(points)
    ours.normalize(points)
    assert rival.normalized
    assert not [name for name in rival.state_dict() if "decoder" in name]
    encoder = {name: value.shape for name, value in ours.encoder.state_dict().items()}
    assert {name: value.shape for name, value in rival.encoder.state_dict().items()} == encoder
    torch.testing.assert_close(rival.units.scale, ours.units.scale)

"""A rival has the encoder, the units and the latent of our model, and another decoder."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.rivals.decoder_vae import DecoderVAE
from benchmarks.rivals.foreign_decoder import ForeignDecoder, ForeignDecoderVAE
from benchmarks.rivals.gaussian_vae import GaussianVAE
from benchmarks.rivals.pyro_vae import PyroCloudVAE
from helpers.ellipsoids import ellipsoids

RIVALS = {
    "writer": lambda: DecoderVAE(16, latent_dim=4),
    "gaussians": lambda: GaussianVAE(8, latent_dim=4),
    "pyro": lambda: PyroCloudVAE(3, 4, num_couplings=2, hidden_dims=(8, 8), prior_couplings=2),
}


def test_it_is_our_model_with_another_decoder():
    torch.manual_seed(0)
    rival, ours = ForeignDecoderVAE(3, 8, lambda: ForeignDecoder(3)), pcf.PointCloudVAE(3, 8)
    points = ellipsoids().flatten(0, 1)
    assert not rival.normalized
    rival.normalize(points)
    ours.normalize(points)
    assert rival.normalized
    assert not list(rival.decoder.parameters())
    encoder = {name: value.shape for name, value in ours.encoder.state_dict().items()}
    assert {name: value.shape for name, value in rival.encoder.state_dict().items()} == encoder
    for units in (rival.units, rival.decoder.units):
        torch.testing.assert_close(units.scale, ours.units.scale)


@pytest.mark.parametrize("make", RIVALS.values(), ids=RIVALS)
def test_a_rival_refuses_what_it_would_ignore(make):
    rival, clouds = make(), torch.randn(2, 16, 3)
    z = rival.encode(clouds).mean
    assert rival.decode(z, 16).sample().shape == (2, 16, 3)
    with pytest.raises(TypeError, match="num_point"):
        rival.decode(z, num_point=16)
    with pytest.raises(TypeError, match="kl_wait"):
        rival.model(clouds, kl_wait=0.5)
    with pytest.raises(ValueError, match="without classes"):
        rival.decode(z, 16, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="clouds of one size"):
        rival.decode(z, 16, mask=torch.ones(2, 16, dtype=torch.bool))

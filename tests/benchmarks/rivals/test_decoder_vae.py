"""The decoder without a density: its matching by brute force, its shapes, and that it learns."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_pcflow as pcf
from benchmarks.rivals.decoder_vae import DECODERS, DecoderVAE, matched_gaussian, squared_to_nearest
from helpers.ellipsoids import ellipsoids


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_the_nearest_are_those_of_brute_force(batch, n, m, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, m, dim, generator=generator, dtype=torch.float64)
    got = squared_to_nearest(x, y)
    for b in range(batch):
        for i in range(n):
            expected = min(float(((x[b, i] - y[b, j]) ** 2).sum()) for j in range(m))
            assert float(got[b, i]) == pytest.approx(expected, abs=1e-12)


def test_matched_gaussian_is_the_density_of_each_point_around_its_nearest():
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    distances = torch.cdist(x, y).square()
    there, back = distances.amin(2), distances.amin(1)
    variance = (there.mean() + back.mean()) / 6
    normal = torch.distributions.Normal(0.0, variance.sqrt())

    def density(squared):
        # Whatever the direction of the difference, a Gaussian with one variance knows its length alone.
        return normal.log_prob(squared.sqrt()) + 2 * normal.log_prob(torch.zeros_like(squared))

    expected = (density(there).mean(1) + density(back).mean(1)) / 2
    torch.testing.assert_close(matched_gaussian(x, y), expected)


def test_the_variance_is_the_best_for_the_batch():
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    squared = squared_to_nearest(x, y).mean() + squared_to_nearest(y, x).mean()

    def value(variance):
        return -1.5 * math.log(2 * math.pi * variance) - float(squared) / (4 * variance)

    best = max(value(float(squared) / 6 * factor) for factor in torch.linspace(0.5, 2, 301).tolist())
    assert float(matched_gaussian(x, y).mean()) == pytest.approx(best, abs=1e-4)


def test_matched_gaussian_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    y = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    matched_gaussian(x, y).sum().backward()
    got, y.grad = y.grad, None
    # With the best variance put in, the sum over a batch of one is a logarithm of the distance.
    distances = torch.cdist(x, y).square()
    (-1.5 * (distances.amin(2).mean() + distances.amin(1).mean()).log()).backward()
    torch.testing.assert_close(got, y.grad)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_decoder_learns_and_gives_clouds_of_the_right_shape(kind):
    clouds = ellipsoids()
    torch.manual_seed(0)
    vae = DecoderVAE(64, latent_dim=8, decoder_kind=kind)
    vae.normalize(clouds)

    def error():
        again = vae.reconstruct(clouds, 64)
        return float(squared_to_nearest(clouds, again).mean())

    before = error()
    sampling = pcf.training.CloudSampling(target_points=64)
    with pytest.warns(UserWarning, match="lie on a surface"):  # it has no density, which fit does not know
        result = pcf.fit(vae, clouds, held_out=0, max_steps=60, lr=4e-3, sampling=sampling, device="cpu")
    assert error() < 0.5 * before
    assert all(math.isfinite(line["loss"]) for line in result.history)
    assert vae.sample(5, 48).shape == (5, 48, 3)
    assert vae.reconstruct(clouds[:2], 64).shape == (2, 64, 3)


def test_the_decoder_has_no_density():
    vae = DecoderVAE(16, latent_dim=4)
    with pytest.raises(TypeError, match="no density"):
        vae.log_prob(torch.randn(2, 16, 3))


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(ValueError, match="decoder_kind must be one of fixed, folding"):
        DecoderVAE(16, decoder_kind="flow")
    with pytest.raises(ValueError, match="writes 16 points and cannot give 17"):
        DecoderVAE(16, latent_dim=4).sample(1, 17)


def test_training_takes_the_matching_for_all_points_of_the_whole_clouds():
    torch.manual_seed(0)
    vae, clouds = DecoderVAE(16, latent_dim=4).double(), 2 + 3 * torch.randn(5, 16, 3, dtype=torch.float64)
    vae.normalize(clouds)
    trace = pyro.poutine.trace(vae.model).get_trace(clouds, num_points=100)
    trace.compute_log_prob()
    written = vae.units.inverse_and_log_det(vae.decode(trace.nodes["z"]["value"], 16).sample())[0]
    expected = 100 * matched_gaussian(vae.units.inverse_and_log_det(clouds)[0], written)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)

"""Doubts about clouds, against shares and distances that are known."""

from __future__ import annotations

import warnings

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.models.replicates import log_distance_ratio, unexplained
from pyro_pcflow.ops.random import seeded


def normal(loc, scale, batch=()):
    return dist.Normal(torch.full((*batch, 3), float(loc)), scale).to_event(1)


def test_a_percent_of_a_densitys_own_points_is_unexplained():
    """Of a mixture of two densities, and of each of them a half and a percent of half, as they do not overlap."""
    torch.manual_seed(0)
    densities = [normal(0, 1, (40,)), normal(20, 1, (40,))]
    points = torch.cat([density.sample((500,)) for density in densities]).movedim(1, 0)
    together, alone = unexplained(densities, points, torch.ones(40, 1000, dtype=torch.bool))
    # The bound is a quantile of 64 points each: its own error is that of the 1% quantile of 128 and of 64 points.
    assert abs(together.mean() - 0.01) < 0.01
    assert abs(alone.mean() - 0.5) < 0.02


def test_padding_does_not_count():
    torch.manual_seed(0)
    points = torch.cat([normal(0, 1).sample((100,)), torch.full((100, 3), 50.0)])
    mask = torch.arange(200) < 100
    density = normal(0, 1)
    shares = unexplained([density], points, mask)
    assert max(shares) < 0.1
    assert log_distance_ratio([density, density], points, mask).abs() < 0.2
    everything = torch.ones_like(mask)
    assert min(unexplained([density], points, everything)) >= 0.5


def test_the_ratio_grows_where_points_are_missing():
    """Points of a half are three times as far from the other half's as other points are."""
    torch.manual_seed(0)
    density = normal(0, 1, (20,))
    points, mask = density.sample((2000,)).movedim(1, 0), torch.ones(20, 2000, dtype=torch.bool)
    whole = log_distance_ratio([density, density], points, mask)
    half = log_distance_ratio([density, density], points, points[..., 0] > 0)
    assert whole.abs().max() < 0.2
    assert (half > whole + 0.3).all()


@pytest.fixture(scope="module")
def model():
    return pcf.load_pretrained("body")


@pytest.fixture(scope="module")
def bodies(model):
    with torch.no_grad(), seeded(0):
        return model.sample(4, 2048)


class TestOfATrainedModel:
    def test_whole_clouds_pass(self, model, bodies):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.encode(bodies)
            model.reconstruct(bodies, 10)

    @pytest.mark.parametrize("method", ["encode", "reconstruct", "interpolate"])
    def test_halves_are_doubted(self, model, bodies, method):
        half = torch.stack([cloud[cloud[:, 2] > 0][:700] for cloud in bodies])
        calls = {
            "encode": lambda **options: model.encode(half, **options),
            "reconstruct": lambda **options: model.reconstruct(half, 10, **options),
            "interpolate": lambda **options: model.interpolate(half, bodies, 2, 10, **options),
        }
        before = torch.get_rng_state()
        with pytest.warns(UserWarning, match="4 of 4 clouds are not like the shapes that were found.*pcf.complete"):
            model.encode(half)
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.warns(UserWarning, match="4 of 4 clouds"):
            calls[method]()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            calls[method](check=False)

    def test_few_points_are_doubted(self, model, bodies):
        with pytest.warns(UserWarning, match="4 of 4 clouds have far fewer points than the encoder learned from, 512"):
            model.encode(bodies[:, :30])

    def test_a_guide_does_not_warn(self, model, bodies):
        """Neither of a model whose posteriors are corrected, nor of one without."""
        plain = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]})
        plain.normalize(bodies.flatten(0, 1))
        few = bodies[:, :30]
        with pytest.warns(UserWarning, match="fewer points"):
            plain.encode(few)
        for one in (model, plain):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                one.guide(few)
                one.log_prob(few, num_particles=2)

    def test_a_new_model_does_not_warn(self, bodies):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]}).encode(bodies[:, :30])

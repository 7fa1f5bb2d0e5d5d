"""The road of completers."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.infer import Completer
from pyro_pcflow.infer.views import OneSide, Whole
from pyro_pcflow.training.amortised import FEWEST, MOST, LikelihoodOfLatents


def make_completer(views=None, **options):
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 2, "hidden_dims": [8]}, **options)
    return Completer(vae, context_dim=8, **({} if views is None else {"views": views}))


def objective_of(completer, clouds, **options):
    completer.normalize(torch.randn(100, 3))
    return LikelihoodOfLatents(completer, clouds, **{"noise": 0.1, "batch_size": 6, **options})


def test_a_batch_is_half_real_and_half_simulated():
    completer = make_completer(OneSide())
    batch = objective_of(completer, torch.randn(400, 300, 3) + 100).batch(0)
    assert batch.noise.shape == (12, 4)
    assert batch.partial.shape[::2] == (12, 3)
    assert FEWEST <= batch.partial.shape[1] <= 150
    # The data lies elsewhere than what the model draws.
    real = batch.partial[:6][batch.mask[:6]]
    simulated = batch.partial[6:][batch.mask[6:]]
    assert (real.mean(0) > 99).all()
    assert (simulated.mean(0) < 50).all()
    sizes = {objective_of(completer, torch.randn(400, 300, 3)).batch(step).partial.shape[1] for step in range(5)}
    assert len(sizes) > 2
    assert max(sizes) <= MOST


def test_the_posterior_of_a_cloud_is_found_once_and_repeats():
    completer = make_completer(Whole())
    clouds = torch.randn(400, 100, 3)
    calls = []
    encode = completer.model.encode
    completer.model.encode = lambda *args, **options: calls.append(1) or encode(*args, **options)
    objective = objective_of(completer, clouds, held_out=0)
    for step in range(3):
        objective.batch(step)
    first = len(calls)
    assert first == 18
    objective.batch(0)
    assert len(calls) == first
    # Another run that begins in the middle finds the same.
    other = objective_of(completer, clouds, held_out=0)
    other.batch(2)
    for number in other._found:
        assert all(map(torch.equal, other._found[number], objective._found[number]))


def test_augmented_clouds_are_encoded_as_they_are_seen():
    """Few clouds are stretched afresh in every step, and their latents with them."""
    objective = objective_of(make_completer(Whole()), torch.randn(20, 100, 3))
    assert objective.augmentations
    objective.batch(0)
    assert not objective._found


def test_the_loss_of_a_new_completer_is_the_entropy_of_the_prior():
    """It is the prior whatever it reads, and half of a batch is drawn from that."""
    objective = objective_of(make_completer(Whole()), torch.randn(400, 100, 3), batch_size=200)
    batch = objective.batch(0)
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = -normal.log_prob(batch.noise).sum(-1).mean()
    torch.testing.assert_close(objective.loss(batch), expected, rtol=1e-4, atol=1e-3)
    simulated = -normal.log_prob(batch.noise[200:]).sum(-1)
    assert abs(simulated.mean() - 2 * math.log(2 * math.pi * math.e)) < 4 * simulated.std() / 200**0.5
    with torch.no_grad():
        scores = objective.evaluate()
    assert set(scores) == {"nats_over_prior", "simulated_nats_over_prior"}
    assert all(abs(value) < 1e-3 for value in scores.values())


@pytest.mark.slow
def test_training_learns_what_a_view_tells():
    """Clouds that differ in their size alone: a view tells it, and both scores rise above the prior's."""
    torch.manual_seed(1)
    vae = pcf.PointCloudVAE(latent_dim=4, decoder={"num_couplings": 4, "hidden_dims": [16]})
    clouds = torch.randn(500, 200, 3) * torch.empty(500, 1, 1).uniform_(0.3, 3.0)
    pcf.fit(vae, clouds, max_steps=400, noise=0.05, device="cpu")
    result = pcf.fit(Completer(vae, context_dim=16), clouds, max_steps=300, noise=0.05, device="cpu")
    assert result.nats_per_point is None
    assert result.scores["nats_over_prior"] > 0.7
    assert result.scores["simulated_nats_over_prior"] > 0.7
    assert "nats over prior" in repr(result)


def test_labels_go_along():
    completer = make_completer(Whole(), num_classes=2)
    labels = torch.arange(400) % 2
    objective = objective_of(completer, (torch.randn(400, 100, 3), labels))
    batch = objective.batch(0)
    assert torch.equal(batch.labels[:6], batch.labels[6:])
    assert objective.loss(batch).isfinite()
    with pytest.raises(ValueError, match="2 classes"):
        objective_of(completer, torch.randn(400, 100, 3))


def test_several_processes_share_a_batch():
    objective = objective_of(make_completer(Whole()), torch.randn(400, 100, 3))
    batch = objective.batch(0)
    parts = [objective.share(batch, rank, 2) for rank in range(2)]
    mean = torch.stack([objective.loss(part) for part in parts]).mean()
    torch.testing.assert_close(mean, objective.loss(batch))


def test_what_is_no_completer():
    with pytest.raises(TypeError, match="expected a Completer, got PointCloudFlow"):
        LikelihoodOfLatents(pcf.PointCloudFlow(3), torch.randn(10, 100, 3))

"""Corrected posteriors: against a formula of single clouds, a posterior in closed form, and trained models."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_pcflow as pcf
from helpers.small_vae import ENCODER, elbo_of, make_vae, ragged
from pyro_pcflow.training import CloudSampling, EvidenceLowerBound, Logging

MIXTURE = {"base": "mixture", "num_components": 3, "num_couplings": 1, "hidden_dims": [8], "base_hidden_dims": [8]}


def corrected_vae(num_corrections=1, **options):
    return make_vae(decoder=MIXTURE, num_corrections=num_corrections, **options)


def by_hand(vae, cloud, label=None):
    """Mean and scale for one cloud of shape `(N, D)`, its points and Gaussians one by one."""
    onehot = None if label is None else torch.nn.functional.one_hot(label, vae.num_classes).double()
    loc, raw_scale = vae.encoder(vae.units.inverse_and_log_det(cloud)[0], None, onehot)
    for _ in range(vae.num_corrections):
        context = loc if onehot is None else torch.cat([loc, onehot])
        gaussians = vae.decoder.base.gaussians(context)
        weights = gaussians.logits.softmax(-1)
        scale_tril = torch.linalg.inv(gaussians.inverse_scale_tril).tril()
        counts, offsets = torch.zeros(3).double(), torch.zeros(3, 3).double()
        for point in cloud:
            noise = vae.decoder.transform.condition(context).inv(point)
            log_joint = MultivariateNormal(gaussians.loc, scale_tril=scale_tril).log_prob(noise) + weights.log()
            for k, share in enumerate(log_joint.softmax(-1)):
                counts[k] += share
                offsets[k] += share * gaussians.inverse_scale_tril[k] @ (noise - gaussians.loc[k])
        expected = 1 + len(cloud) * weights
        seen = torch.cat([((1 + counts) / expected).log().unsqueeze(-1), offsets / expected.unsqueeze(-1)], -1)
        scale = torch.nn.functional.softplus(raw_scale + 0.5413248546129181) + 1e-4
        hidden = torch.cat([seen.flatten().clamp(-10, 10), loc, scale.log()])
        for layer in vae.correction.hidden:
            hidden = torch.nn.functional.silu(layer(hidden))
        move, change = vae.correction.output(hidden).chunk(2, -1)
        loc, raw_scale = loc + scale * move, raw_scale + change
    return loc, torch.nn.functional.softplus(raw_scale + 0.5413248546129181) + 1e-4


@pytest.mark.parametrize("num_classes", [0, 2])
@pytest.mark.parametrize("num_corrections", [0, 1, 2])
@pytest.mark.parametrize("padding", [0.0, torch.nan])
def test_it_is_its_formula_whatever_the_padding_holds(num_corrections, num_classes, padding):
    vae = corrected_vae(num_corrections, num_classes=num_classes)
    clouds, mask = ragged(padding=padding)
    labels = torch.arange(len(clouds)) % 2 if num_classes else None
    found = vae.encode(clouds, mask, labels=labels)
    for i, cloud in enumerate(clouds):
        loc, scale = by_hand(vae, cloud[mask[i]], None if labels is None else labels[i])
        torch.testing.assert_close(found.mean[i], loc)
        torch.testing.assert_close(found.stddev[i], scale)


def test_batch_shapes():
    vae = corrected_vae()
    clouds = 3 + 2 * torch.randn(2, 3, 7, 3).double()
    found = vae.encode(clouds)
    assert found.batch_shape == (2, 3)
    torch.testing.assert_close(vae.encode(clouds[1, 2]).mean, found.mean[1, 2])
    torch.testing.assert_close(vae.encode(clouds[:, :0]).mean, found.mean[:, :0])


def test_a_new_correction_changes_nothing():
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(3, 4, decoder=MIXTURE, encoder=ENCODER)
    assert vae.num_corrections == 2
    clouds = torch.randn(2, 30, 3)
    assert torch.equal(vae.encode(clouds).mean, vae._guess(clouds, None, None)[0])


def test_the_guide_leaves_corrections_out_and_the_corrected_guide_does_not():
    vae = corrected_vae()
    clouds = 3 + 2 * torch.randn(5, 9, 3).double()
    assert elbo_of(vae, clouds) != elbo_of(vae, clouds, guide=vae.corrected_guide)
    q = vae.encode(clouds)
    torch.manual_seed(5)
    z = q.rsample()
    expected = vae.decode(z, 9).log_prob(clouds) + vae.latent_prior().log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(elbo_of(vae, clouds, guide=vae.corrected_guide), expected.sum())


def make_objective(vae):
    clouds = 3 + 2 * torch.randn(12, 40, 3).double()
    sampling = CloudSampling(target_points=16, encoder_points=16, augment=None)
    return EvidenceLowerBound(vae, clouds, batch_size=4, held_out=0, sampling=sampling)


def gradients(objective, progress):
    objective.progress = progress
    objective.module.zero_grad()
    torch.manual_seed(1)
    objective.loss(objective.batch(0)).backward()
    return {name: value.grad for name, value in objective.module.named_parameters()}


def test_what_each_part_of_a_model_learns_from():
    vae = corrected_vae()
    objective = make_objective(vae)
    early = gradients(objective, objective.second_phase - 1e-6)
    late = gradients(objective, objective.second_phase)
    for name in early:
        part = name.split(".")[0]
        for gradient, learns in ((early[name], part != "correction"), (late[name], part in ("correction", "prior"))):
            assert gradient.any() if learns else gradient is None, name
    assert all(parameter.requires_grad for parameter in vae.parameters())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_last_fifth_moves_the_correction_and_the_prior_alone(weight_decay):
    """Momentum and decay of weights, which act without a gradient, included."""
    vae, seen = corrected_vae(), []

    class Watch(pcf.training.Callback):
        def on_log(self, progress, line):
            seen.append({name: value.detach().clone() for name, value in vae.named_parameters()})

    optimization = pcf.training.Optimization(weight_decay=weight_decay, warmup_steps=2)
    logging = Logging(progress=False, log_every=1)
    clouds = 3 + 2 * torch.randn(12, 40, 3).double()
    pcf.fit(
        vae, clouds, held_out=0, max_steps=15, lr=0.01, callbacks=[Watch()], optimization=optimization, logging=logging
    )
    for step, (before, after) in enumerate(pairwise(seen), 1):
        moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
        # The first step of the second phase sets all else to its average.
        expected = {"correction", "prior"} if step > 12 else {"encoder", "decoder", "prior"}
        assert moved == (expected | {"correction"} if step == 12 else expected), step


def test_a_part_that_is_frozen_stays_frozen():
    vae = corrected_vae()
    vae.decoder.requires_grad_(False)
    gradients(make_objective(vae), 1.0)
    assert not any(parameter.requires_grad for parameter in vae.decoder.parameters())


@pytest.mark.parametrize(("num_points", "read"), [pytest.param(20, 20, marks=pytest.mark.exhaustive), (200, 20)])
def test_a_correction_learns_a_posterior_that_is_known(num_points, read):
    """One Gaussian whose mean is linear in the latent: the posterior is normal, and its mean linear in the offset.

    The encoder says nothing, so that without a correction the posterior is the prior. What is learned is the posterior
    given the points that are read, however many more a cloud has.
    """
    torch.manual_seed(0)
    decoder = {"base": "mixture", "num_components": 1, "num_couplings": 0}
    vae = pcf.PointCloudVAE(3, 2, prior="normal", decoder=decoder, encoder=ENCODER).double()
    vae.normalize(torch.randn(500, 3).double())
    vae.requires_grad_(False)
    vae.encoder.output.weight.zero_()
    vae.encoder.output.bias.zero_()
    base, slope = vae.decoder.base, torch.tensor([[0.3, 0.0], [0.0, 0.6], [0.0, 0.0]]).double()
    for parameter in base.parameters(recurse=False):
        parameter.zero_()
    base.network = torch.nn.Linear(2, 10).double().requires_grad_(False)
    base.network.bias.zero_()
    base.network.weight.zero_()[1:4] = slope
    width = 1 / base.gaussians(torch.zeros(2).double()).inverse_scale_tril[0, 0, 0]
    clouds = vae.decode(torch.randn(400, 2).double(), num_points).sample()
    seen = clouds[:, :read]
    points = vae.decoder.units.inverse_and_log_det(seen)[0]
    precision = torch.eye(2) + read * slope.T @ slope / width**2
    means = torch.linalg.solve(precision, (points.sum(1) @ slope / width**2).mT).mT
    exact = MultivariateNormal(means, precision_matrix=precision)
    vae.correction.requires_grad_(True)
    before = kl_divergence(normal_of(vae.encode(seen)), exact).mean()
    sampling = CloudSampling(target_points=20, encoder_points=read, augment=None)
    pcf.fit(vae, clouds, held_out=0, max_steps=600, sampling=sampling, logging=Logging(progress=False), seed=0)
    after = kl_divergence(normal_of(vae.encode(seen)), exact).mean()
    assert before > 1
    assert after < 0.02 * before


def normal_of(posterior):
    return MultivariateNormal(posterior.mean, torch.diag_embed(posterior.variance))


def test_a_run_that_stops_in_the_second_phase_goes_on_to_the_last_bit(tmp_path):
    class Stop(pcf.training.Callback):
        def on_log(self, progress, line):
            if progress.step == 14:
                raise KeyboardInterrupt

    clouds = 3 + 2 * torch.randn(12, 40, 3).double()
    ended = []
    for name, callbacks in (("whole", []), ("stopped", [Stop()])):
        options = {"held_out": 0, "max_steps": 16, "lr": 0.01, "out": tmp_path / name, "resume": True}
        options["logging"] = Logging(progress=False, log_every=1, checkpoint_every=7, pictures=False)
        vae = corrected_vae()
        if callbacks:
            with pytest.raises(KeyboardInterrupt):
                pcf.fit(vae, clouds, callbacks=callbacks, **options)
            vae = corrected_vae()
        pcf.fit(vae, clouds, **options)
        ended.append({name: value.clone() for name, value in vae.named_parameters()})
    for name, value in ended[0].items():
        assert torch.equal(value, ended[1][name]), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_corrections": -1, "decoder": MIXTURE}, "must not be negative, got -1"),
        ({"num_corrections": 1, "decoder": {"num_couplings": 2}}, "base='mixture'"),
        ({"num_corrections": 1, "num_flows": 2}, "base='mixture'"),
    ],
)
def test_what_cannot_be_corrected_is_told(options, words):
    with pytest.raises(ValueError, match=words):
        pcf.PointCloudVAE(3, 4, **options)


def test_it_is_saved_with_its_model(tmp_path):
    vae = corrected_vae(2)
    pcf.save(vae, tmp_path / "vae.pt")
    again = pcf.load(tmp_path / "vae.pt")
    clouds = 3 + 2 * torch.randn(2, 9, 3).double()
    assert again.num_corrections == 2
    assert torch.equal(again.encode(clouds).mean, vae.encode(clouds).mean)

"""The road of points: noise, what is minimised and what is scored, with contexts and without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import DiagonalGaussian
from pyro_pcflow.training import CloudSampling, ExactLikelihood


def likelihood(points, **options):
    return ExactLikelihood(DiagonalGaussian(points.shape[-1]), points, **options)


def held_out(objective):
    return torch.cat([batch.points for batch in objective.held_out])


def trained_on(objective):
    return objective.points_for_units()


class TestNoise:
    def test_noise_is_fresh_and_as_wide_as_asked(self):
        points = torch.zeros(20_000, 2)
        objective = likelihood(points, batch_size=20_000, noise=0.3, held_out=0)
        first, second = objective.batch(0).points, objective.batch(0).points
        assert not torch.equal(first, second)
        assert first.std().item() == pytest.approx(0.3, rel=0.02)
        assert points.abs().max() == 0

    def test_points_that_are_given_get_the_noise_of_points_that_are_drawn(self):
        """The score says nothing of how the points came: those that a seed draws score alike when they are given."""
        points = torch.randn(50, 3)
        drawn, clean = (likelihood(points, held_out=0.2, noise=noise) for noise in (0.5, 0.0))
        assert not torch.isin(held_out(drawn), points).any()
        given = likelihood(trained_on(clean), held_out=held_out(clean), noise=0.5)
        assert torch.equal(held_out(given), held_out(drawn))
        assert torch.equal(trained_on(given), trained_on(drawn))


class ConditionalGaussian(nn.Module):
    """A Gaussian whose mean is linear in its context."""

    point_dim, context_dim = 2, 3

    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(3, 2)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.shapes = set()

    def log_prob(self, points, contexts):
        self.shapes.add((tuple(points.shape), tuple(contexts.shape)))
        noise = (points - self.mean(contexts)) * torch.exp(-self.log_scale)
        return (-0.5 * noise.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)


WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]])
SCALE = 0.3
# Of a Gaussian in two dimensions with this scale, minus the entropy.
BEST = -2 * (math.log(SCALE) + 0.5 * math.log(2 * math.pi) + 0.5)


def draw_pairs(*batch, num_points=None, seed=0):
    """Points and contexts of a conditional Gaussian: (N, 2) and (N, 3), or clouds (S, N, 2) and (S, 3)."""
    generator = torch.Generator().manual_seed(seed)
    contexts = torch.randn(*batch, 3, generator=generator)
    shape = batch if num_points is None else (*batch, num_points)
    means = contexts @ WEIGHT.T
    means = means if num_points is None else means.unsqueeze(-2)
    return means + SCALE * torch.randn(*shape, 2, generator=generator), contexts


class TestContexts:
    @pytest.mark.parametrize("num_points", [None, 40], ids=["points", "clouds"])
    @pytest.mark.parametrize("given", [False, True], ids=["drawn", "given"])
    def test_a_conditional_gaussian_reaches_its_entropy(self, num_points, given):
        data = draw_pairs(*((4000,) if num_points is None else (400,)), num_points=num_points)
        apart = draw_pairs(*((2000,) if num_points is None else (100,)), num_points=num_points, seed=1)
        module = ConditionalGaussian()
        result = fit(
            module, data, held_out=apart if given else 0.2, max_steps=300, batch_size=512, lr=0.05, device="cpu"
        )
        # The score is a mean of independent terms of variance 1, of 800 points at least.
        assert result.nats_per_point == pytest.approx(BEST, abs=4 / math.sqrt(800))
        assert result.nats_per_point < BEST + 4 / math.sqrt(800)
        assert module.mean.weight.detach() == pytest.approx(WEIGHT, abs=0.05)
        assert module.log_scale.exp().item() == pytest.approx(SCALE, rel=0.05)

    def test_a_flow_learns_what_a_context_says(self):
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(2, 3, num_couplings=4, hidden_dims=[32])
        points, contexts = draw_pairs(300, num_points=64)
        result = fit(flow, (points, contexts), max_steps=250, lr=0.02, ema_decay=0.98, device="cpu")
        assert flow.normalized
        # Without the context, points have the entropy of a Gaussian with this covariance.
        covariance = WEIGHT @ WEIGHT.T + SCALE**2 * torch.eye(2)
        blind = -0.5 * torch.logdet(2 * math.pi * math.e * covariance).item()
        assert blind < -3.5
        assert result.nats_per_point > BEST - 0.5
        assert result.nats_per_point < BEST + 4 / math.sqrt(30 * 64)

    def test_a_context_is_used_once_per_cloud(self):
        module = ConditionalGaussian()
        objective = ExactLikelihood(module, draw_pairs(50, num_points=100), batch_size=64, held_out=0)
        objective.loss(objective.batch(0))
        # As many points as asked for, of as few clouds as `target_points` says.
        assert module.shapes == {((1, 64, 2), (1, 1, 3))}
        assert objective.points_per_step == 64
        sampling = CloudSampling(target_points=16)
        objective = ExactLikelihood(module, draw_pairs(50, num_points=100), batch_size=64, sampling=sampling)
        assert objective.batch(0).points.shape == (4, 16, 2)

    def test_pairs_stay_together(self):
        """Points that are their contexts, in batches and held out, as rows and as clouds."""
        contexts = torch.arange(40.0).unsqueeze(-1).expand(-1, 3)
        clouds = contexts[:, None, :2].expand(-1, 10, -1)
        for data in ((contexts[:, :2], contexts), (clouds, contexts)):
            objective = ExactLikelihood(ConditionalGaussian(), data, batch_size=16, held_out=0.25)
            batches = [objective.batch(step) for step in range(5)] + objective.held_out
            for batch in batches:
                assert torch.equal(batch.points, batch.contexts[..., :2].expand_as(batch.points))

    def test_equal_points_and_clouds_are_on_one_side_whatever_their_contexts(self):
        points = torch.randn(30, 2).repeat(5, 1)
        objective = ExactLikelihood(ConditionalGaussian(), (points, torch.randn(150, 3)), held_out=0.2)
        assert len(held_out(objective)) == 30
        assert not torch.isin(held_out(objective), trained_on(objective)).any()
        clouds = torch.randn(10, 6, 2).repeat(4, 1, 1)
        objective = ExactLikelihood(ConditionalGaussian(), (clouds, torch.randn(40, 3)), held_out=0.2)
        assert held_out(objective).shape == (8, 6, 2)
        assert not torch.isin(held_out(objective), trained_on(objective)).any()

    def test_clouds_of_many_sizes_and_files(self, tmp_path):
        module, contexts = ConditionalGaussian(), torch.randn(6, 3)
        whole = {"batch_size": 180, "sampling": CloudSampling(target_points=30)}
        clouds = [torch.randn(size, 2) for size in (10, 3, 0, 25, 7, 1)]
        objective = ExactLikelihood(module, (clouds, contexts), held_out=(clouds, contexts), **whole)
        with torch.no_grad():
            by_hand = torch.cat([module.log_prob(c, contexts[i : i + 1]) for i, c in enumerate(clouds)])
            assert objective.evaluate()["nats_per_point"] == pytest.approx(by_hand.mean().item(), abs=1e-5)
            assert objective.loss(objective.batch(0)).item() == pytest.approx(-by_hand.mean().item(), abs=1e-5)
        whole = torch.randn(6, 12, 2)
        mapped = pcf.data.MappedClouds(pcf.data.save_clouds(whole, tmp_path / "clouds.npy"))
        of_file, of_memory = (
            ExactLikelihood(module, (data, contexts), held_out=0.5, batch_size=20) for data in (mapped, whole)
        )
        assert torch.equal(of_file.batch(3).points, of_memory.batch(3).points)
        assert of_file.evaluate() == of_memory.evaluate()

    @pytest.mark.parametrize("ragged", [False, True])
    def test_processes_share_a_batch_by_its_clouds(self, ragged):
        module, contexts = ConditionalGaussian(), torch.randn(6, 3)
        clouds = [torch.randn(size, 2) for size in ((10, 3, 0, 25, 7, 1) if ragged else [9] * 6)]
        options = {"batch_size": 180, "sampling": CloudSampling(target_points=30), "held_out": 0}
        objective = ExactLikelihood(module, (clouds, contexts), **options)
        batch = objective.batch(0)
        parts = [objective.loss(objective.share(batch, rank, 3)) for rank in range(3)]
        assert torch.stack(parts).mean().item() == pytest.approx(objective.loss(batch).item(), abs=1e-6)

    def test_a_run_resumes_with_its_contexts_alone(self, tmp_path):
        data = draw_pairs(60, num_points=10)
        options = {"max_steps": 3, "out": tmp_path, "device": "cpu"}
        fit(ConditionalGaussian(), data, **options)
        fit(ConditionalGaussian(), data, resume=True, **options)
        with pytest.raises(ValueError, match=r"data\.contexts_sha256 was"):
            fit(ConditionalGaussian(), (data[0], data[1].flip(0)), resume=True, **options)

    def test_held_out_data_of_another_form(self):
        pairs = draw_pairs(20)
        with pytest.raises(ValueError, match="held_out: expected the form of data"):
            ExactLikelihood(ConditionalGaussian(), pairs, held_out=draw_pairs(5, num_points=4))
        with pytest.raises(ValueError, match="held_out: expected the form of data"):
            ExactLikelihood(DiagonalGaussian(2), pairs[0], held_out=pairs)

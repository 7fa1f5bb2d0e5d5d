"""The road of points: what is held out, what a batch has, and what is minimised, with contexts and without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import DiagonalGaussian
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training import CloudSampling, ExactLikelihood, density


def likelihood(data, *, point_dim=None, **options):
    points = data if point_dim is None else None
    return ExactLikelihood(DiagonalGaussian(points.shape[-1] if point_dim is None else point_dim), data, **options)


def held_out(objective):
    return torch.cat([batch.points for batch in objective.held_out])


def trained_on(objective):
    return objective.points_for_units()


class TestBatches:
    def test_an_epoch_visits_every_point_once_in_a_new_order(self):
        objective = likelihood(torch.arange(20.0).unsqueeze(-1), batch_size=5, held_out=0)
        epochs = [torch.cat([objective.batch(i + start).points for i in range(4)]).flatten() for start in (0, 4)]
        for epoch in epochs:
            assert sorted(epoch.tolist()) == list(range(20))
        assert not torch.equal(*epochs)

    def test_a_batch_depends_on_seed_and_step_alone(self):
        def batches(seed):
            return likelihood(torch.arange(103.0).unsqueeze(-1), batch_size=10, held_out=0, seed=seed)

        walked = batches(3)
        history = [walked.batch(step).points for step in range(25)]
        assert torch.equal(batches(3).batch(24).points, history[24])
        assert not torch.equal(batches(4).batch(24).points, history[24])

    def test_small_data_makes_one_batch(self):
        assert likelihood(torch.zeros(7, 3), held_out=0).batch(5).points.shape == (7, 3)

    def test_noise_is_fresh_and_as_wide_as_asked(self):
        points = torch.zeros(20_000, 2)
        objective = likelihood(points, batch_size=20_000, noise=0.3, held_out=0)
        first, second = objective.batch(0).points, objective.batch(0).points
        assert not torch.equal(first, second)
        assert first.std().item() == pytest.approx(0.3, rel=0.02)
        assert points.abs().max() == 0


class TestHeldOut:
    def test_parts_are_disjoint_and_complete(self):
        objective = likelihood(torch.arange(1000.0).unsqueeze(-1), held_out=0.25)
        kept, apart = trained_on(objective).flatten().tolist(), held_out(objective).flatten().tolist()
        assert len(apart) == 250
        assert sorted(kept + apart) == list(range(1000))

    def test_held_out_points_are_at_most_20000_and_their_noise_is_fixed(self):
        points = 1e-9 * torch.arange(100_000.0).unsqueeze(-1).expand(-1, 2)
        one, other = (likelihood(points, held_out=0.5, seed=1, noise=0.1) for _ in range(2))
        assert len(held_out(one)) == 20_000
        assert len(trained_on(one)) == 80_000
        assert torch.equal(held_out(one), held_out(other))
        assert held_out(one).std().item() == pytest.approx(0.1, rel=0.02)
        assert trained_on(one).abs().max() < 1e-3

    @pytest.mark.parametrize("seed", [0, 5])
    def test_a_split_of_different_points_is_that_of_its_seed(self, seed):
        points = torch.randn(200, 3)
        order = torch.randperm(200, generator=seeded_generator(seed, "split"))
        objective = likelihood(points, held_out=0.3, seed=seed)
        assert torch.equal(held_out(objective), points[order[:60]])
        assert torch.equal(trained_on(objective), points[order[60:].sort().values])

    @pytest.mark.parametrize("form", ["tensor", "array", "clouds", "Dataset"])
    def test_a_point_that_is_repeated_is_on_one_side_only(self, form):
        """As of a scan of 100 points that was repeated to 3000: every score of those would be of points seen before."""
        scan = torch.randn(100, 3)
        data = scan[torch.randint(100, (3000,))]
        if form == "array":
            data = data.numpy()
        elif form == "clouds":
            data = data.reshape(30, 100, 3)
        elif form == "Dataset":
            data = TensorDataset(data)
        objective = likelihood(data, point_dim=3, seed=1)
        training, apart = (
            {tuple(point) for point in part.tolist()} for part in (trained_on(objective), held_out(objective))
        )
        assert not training & apart
        assert len(apart) == 10
        assert len(trained_on(objective)) + len(held_out(objective)) == 3000
        again = likelihood(data, point_dim=3, seed=1)
        assert torch.equal(trained_on(again), trained_on(objective))
        assert torch.equal(held_out(again), held_out(objective))

    def test_copies_are_held_out_with_their_weight_and_no_more_than_20000(self, monkeypatch):
        monkeypatch.setattr(density, "MAX_HELD_OUT", 40)
        points = torch.arange(100.0).unsqueeze(-1).repeat_interleave(torch.tensor([1, 9] * 50), 0)
        objective = likelihood(points, held_out=0.3)
        apart, kept = held_out(objective), trained_on(objective)
        assert len(apart) == 40
        assert not torch.isin(apart, kept).any()
        assert len(kept.unique()) == 70
        assert 0.5 < (apart % 2).mean() < 1

    def test_points_that_are_all_the_same_leave_nothing(self):
        with pytest.raises(ValueError, match="of 1 different points leaves 1 to train on and 0"):
            likelihood(torch.ones(50, 3))

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

    def test_a_dataset_of_pairs(self):
        points, contexts = draw_pairs(50)
        clouds, of_clouds = draw_pairs(50, num_points=8)
        for pair in ((points, contexts), (clouds, of_clouds)):
            one, other = (ExactLikelihood(ConditionalGaussian(), data) for data in (pair, TensorDataset(*pair)))
            assert one.description() == other.description()

    def test_a_run_resumes_with_its_contexts_alone(self, tmp_path):
        data = draw_pairs(60, num_points=10)
        options = {"max_steps": 3, "out": tmp_path, "device": "cpu"}
        fit(ConditionalGaussian(), data, **options)
        fit(ConditionalGaussian(), data, resume=True, **options)
        with pytest.raises(ValueError, match=r"data\.contexts_sha256 was"):
            fit(ConditionalGaussian(), (data[0], data[1].flip(0)), resume=True, **options)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (torch.randn(20, 2), r"needs contexts: give a pair \(points, contexts\)"),
            ((torch.randn(20, 2), torch.randn(19, 3)), r"of shape \(20, 3\), got \(19, 3\)"),
            ((torch.randn(20, 2), torch.randn(20, 4)), r"of shape \(20, 3\), got \(20, 4\)"),
            ((torch.randn(5, 20, 2), torch.randn(20, 3)), r"of shape \(5, 3\), got \(20, 3\)"),
            ((torch.randn(20, 2), torch.full((20, 3), math.nan)), "data, contexts: 20 of 20 contexts are NaN"),
            ((torch.randn(20, 3), torch.randn(20, 3)), "points have 3 coordinates"),
        ],
    )
    def test_wrong_pairs(self, data, words):
        with pytest.raises(ValueError, match=words):
            ExactLikelihood(ConditionalGaussian(), data)

    def test_a_pair_for_a_flow_without_context(self):
        flow = pcf.PointCloudFlow(2, num_couplings=2, hidden_dims=[4])
        with pytest.raises(ValueError, match="built without a context"):
            ExactLikelihood(flow, (torch.randn(20, 2), torch.randn(20, 3)))

    def test_held_out_data_of_another_form(self):
        pairs = draw_pairs(20)
        with pytest.raises(ValueError, match="held_out: expected the form of data"):
            ExactLikelihood(ConditionalGaussian(), pairs, held_out=draw_pairs(5, num_points=4))
        with pytest.raises(ValueError, match="held_out: expected the form of data"):
            ExactLikelihood(DiagonalGaussian(2), pairs[0], held_out=pairs)

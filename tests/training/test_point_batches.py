"""Batches of points, and which of them are held out, as the objective of a density has them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from helpers.stand_ins import DiagonalGaussian
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training import ExactLikelihood, point_batches


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
        monkeypatch.setattr(point_batches, "MAX_HELD_OUT", 40)
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

"""Batches of clouds: two samples of each, and what they promise."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

import pyro_pcflow as pcf
from helpers.numbered_clouds import numbered, take
from pyro_pcflow.data import MappedClouds
from pyro_pcflow.training.cloud_batches import CloudBatches, draw_batch, evaluation_batches, split_sizes, with_noise
from pyro_pcflow.training.objective import CLOUD_OPTIONS
from pyro_pcflow.training.sources import Clouds, some_points


def places(points, mask=None):
    """For every cloud of a batch, the places of its points in the data, which must be of one cloud each."""
    rows = []
    for i in range(len(points)):
        kept = points[i] if mask is None else points[i][mask[i]]
        assert len({float(value) for value in kept[:, 0]}) <= 1
        assert not (kept < 0).any()
        rows.append([int(value) for value in kept[:, 1]])
    return rows


def same(first, second):
    """Whether two batches hold the same bits."""
    for field in fields(first):
        one, two = getattr(first, field.name), getattr(second, field.name)
        equal = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
        if not equal:
            return False
    return True


class TestHalves:
    @pytest.mark.parametrize("encoder_points", [1, 50, 1000])
    @pytest.mark.parametrize("num_points", [1, 16, 40, 1000])
    def test_shares_of_every_size(self, num_points, encoder_points):
        sizes = torch.arange(200)
        seen, scored, first = split_sizes(sizes, num_points, encoder_points)
        for size, a, b, start in zip(*(x.tolist() for x in (sizes, seen, scored, first)), strict=True):
            if size >= 64:
                # Apart: the encoder has the first half, the likelihood the rest.
                assert a == min(size // 2, encoder_points)
                assert start == a
                assert b == min(size - a, num_points)
            else:
                assert (a, b, start) == (min(size, encoder_points), min(size, num_points), 0)
            assert start + b <= size
            assert bool(b) == bool(size)


class TestBatches:
    def test_each_cloud_once_an_epoch(self):
        batches = CloudBatches(numbered(10, 8), batch_size=3, target_points=4, encoder_points=4, seed=0)
        epochs = []
        for epoch in range(4):
            drawn = []
            for step in range(3):
                batch = batches.batch(3 * epoch + step)
                assert torch.equal(batch.index.double(), batch.clouds[:, 0, 0])
                assert torch.equal(batch.index.double(), batch.encoder_points[:, 0, 0])
                drawn += batch.index.tolist()
            assert len(set(drawn)) == 9
            epochs.append(drawn)
        assert len({tuple(sorted(drawn)) for drawn in epochs}) > 1, "other clouds are dropped in other epochs"
        assert epochs[0] != epochs[1]

    def test_a_batch_is_never_larger_than_the_data(self):
        batches = CloudBatches(numbered(3, 8), batch_size=32, target_points=4, encoder_points=4, seed=0)
        assert batches.batch_size == 3
        assert sorted(batches.batch(5).index.tolist()) == [0, 1, 2]

    @pytest.mark.parametrize(("num_points", "encoder_points"), [(10, 10), (10, 30), (40, 40), (1000, 1000)])
    def test_seen_and_scored_points_are_apart(self, num_points, encoder_points):
        batches = CloudBatches(
            numbered(6, 80), batch_size=4, target_points=num_points, encoder_points=encoder_points, seed=0
        )
        counts = torch.zeros(80)
        for step in range(30):
            batch = batches.batch(step)
            assert batch.mask is batch.encoder_mask is None
            assert batch.num_points.tolist() == [80] * 4
            expected = min(num_points, 40)
            assert batch.clouds.shape == (4, expected, 3)
            assert batch.encoder_points.shape == (4, min(encoder_points, 40), 3)
            for seen, scored in zip(places(batch.encoder_points), places(batch.clouds), strict=True):
                assert len(set(scored)) == expected
                assert len(set(seen)) == min(encoder_points, 40)
                assert not set(seen) & set(scored)
                counts[scored] += 1
        # Every point is scored in its turn.
        share = 120 * expected / 80
        assert counts.min() > share / 3
        assert counts.max() < share * 2.5

    def test_small_clouds_are_seen_and_scored_alike(self):
        batch = CloudBatches(numbered(6, 40), batch_size=4, target_points=16, encoder_points=16, seed=0).batch(0)
        for seen, scored in zip(places(batch.encoder_points), places(batch.clouds), strict=True):
            assert len(set(seen)) == 16
            assert seen == scored

    @pytest.mark.parametrize("sizes", [None, [40, 1, 7, 40, 22, 9]])
    def test_of_small_clouds_more_points_can_be_seen_than_are_scored(self, sizes):
        batch = CloudBatches(numbered(6, 40, sizes), batch_size=4, target_points=5, encoder_points=30, seed=0).batch(0)
        seen, scored = places(batch.encoder_points, batch.encoder_mask), places(batch.clouds, batch.mask)
        for size, a, b in zip(batch.num_points.tolist(), seen, scored, strict=True):
            assert (len(set(a)), len(set(b))) == (min(size, 30), min(size, 5))
            assert set(b) <= set(a)

    def test_ragged_clouds(self):
        sizes = [100, 0, 1, 64, 63, 7]
        batches = CloudBatches(numbered(6, 100, sizes), batch_size=6, target_points=40, encoder_points=40, seed=0)
        for step in range(5):
            batch = batches.batch(step)
            chosen = [sizes[i] for i in batch.index.tolist()]
            assert batch.num_points.tolist() == chosen
            seen, scored = places(batch.encoder_points, batch.encoder_mask), places(batch.clouds, batch.mask)
            expected = {100: (40, 40), 0: (0, 0), 1: (1, 1), 64: (32, 32), 63: (40, 40), 7: (7, 7)}
            for size, a, b in zip(chosen, seen, scored, strict=True):
                assert (len(a), len(b)) == expected[size]
                assert len(set(a)) == len(a)
                assert all(place < size for place in a + b)
                assert set(a).isdisjoint(b) if size >= 64 else set(a) == set(b)
            for points, mask in ((batch.encoder_points, batch.encoder_mask), (batch.clouds, batch.mask)):
                assert points.shape == (6, 40, 3)
                assert not points[~mask].any(), "padding is zero"

    @pytest.mark.parametrize("sizes", [None, [100, 90, 1, 64, 63, 7]])
    @pytest.mark.parametrize(("target_points", "encoder_points"), [(16, 30), (30, 16)])
    def test_as_if_there_were_no_points_but_those_that_are_read(self, target_points, encoder_points, sizes):
        batches = CloudBatches(numbered(6, 100, sizes), 6, target_points, encoder_points, seed=0)
        batch = batches.batch(0)
        read = batch.as_read()
        seen, scored = places(batch.encoder_points, batch.encoder_mask), places(read.clouds, read.mask)
        assert read.num_points.tolist() == [len(row) for row in seen]
        assert scored == [row[:target_points] for row in seen]
        assert torch.equal(read.encoder_points, batch.encoder_points)

    def test_ragged_clouds_that_fill_a_batch_need_no_mask(self):
        clouds = numbered(3, 100, [100, 90, 80])
        batch = CloudBatches(clouds, batch_size=3, target_points=40, encoder_points=40, seed=0).batch(0)
        assert batch.mask is batch.encoder_mask is None
        assert batch.clouds.shape == (3, 40, 3)

    def test_a_batch_of_nothing_but_empty_clouds(self):
        data = numbered(3, 10, [10, 0, 0])
        batch = draw_batch(data, torch.tensor([1, 2]), 5, 5, torch.Generator().manual_seed(0))
        assert batch.clouds.shape == batch.encoder_points.shape == (2, 0, 3)
        assert batch.num_points.tolist() == [0, 0]

    def test_a_step_needs_no_memory_of_earlier_ones(self):
        data = numbered(10, 80)

        def make(**options):
            return CloudBatches(
                data, **{"batch_size": 3, "target_points": 16, "encoder_points": 16, "seed": 4, **options}
            )

        whole = make()
        expected = [whole.batch(step) for step in range(8)]
        for step in (7, 0, 5, 2, 3):
            assert same(make().batch(step), expected[step])
            assert same(whole.batch(step), expected[step])
        assert not same(make(seed=5).batch(0), expected[0])
        assert not torch.equal(expected[0].clouds[:, :, 1], expected[3].clouds[:, :, 1])

    def test_a_cloud_is_another_sample_in_every_epoch(self):
        batches = CloudBatches(numbered(1, 80), batch_size=1, target_points=16, encoder_points=16, seed=0)
        rows = {tuple(places(batches.batch(step).clouds)[0]) for step in range(5)}
        assert len(rows) == 5

    def test_a_whole_cloud_counts_as_no_more_points_than_were_asked_for(self):
        clouds = Clouds(torch.randn(3, 100, 3), torch.arange(100) < torch.tensor([30, 70, 100])[:, None])
        options = {"batch_size": 3, "target_points": 10, "encoder_points": 10, "seed": 0}
        counted = CloudBatches(clouds, **options, most_points=70).batch(0)
        whole = CloudBatches(clouds, **options).batch(0)
        assert sorted(whole.num_points.tolist()) == [30, 70, 100]
        assert sorted(counted.num_points.tolist()) == [30, 70, 70]
        assert torch.equal(counted.clouds, whole.clouds)

    def test_an_encoder_reads_a_number_of_points_from_a_range(self):
        clouds = Clouds(torch.randn(4, 100, 3))
        batches = CloudBatches(clouds, batch_size=4, target_points=8, encoder_points=(5, 45), seed=0)
        numbers = [batches.batch(step).encoder_points.shape[1] for step in range(400)]
        assert (min(numbers), max(numbers)) == (5, 45)
        assert numbers[:3] == [batches.batch(step).encoder_points.shape[1] for step in range(3)]
        # Uniform in the logarithm, so half of them are below the geometric mean, 15: within four standard errors.
        assert abs(sum(number < 15 for number in numbers) - 200) < 4 * 10

    def test_labels_and_options(self):
        data = numbered(6, 80)
        batch = CloudBatches(Clouds(data.points, None, torch.arange(6) + 10), 4, 16, 16, seed=0).batch(0)
        assert torch.equal(batch.labels, batch.index + 10)
        options = batch.options(CLOUD_OPTIONS[:7])
        assert set(options) == {"index", "labels", "noise_level", "num_points", "kl_weight", "encoder_points"}
        assert options["encoder_points"] is batch.encoder_points
        assert set(batch.options(["labels", "index"])) == {"labels", "index"}
        batch = CloudBatches(numbered(2, 80, [80, 7]), 2, 16, 16, seed=0).batch(0)
        assert set(batch.options(CLOUD_OPTIONS[:7])) == {*CLOUD_OPTIONS[:7]} - {"labels"}

    def test_the_weight_of_the_latents_rises_to_one(self):
        data = numbered(6, 8)
        weights = [CloudBatches(data, 2, 4, 4, 0, kl_warmup_steps=4).batch(step).kl_weight for step in range(7)]
        assert weights == [0.25, 0.5, 0.75, 1, 1, 1, 1]
        assert [CloudBatches(data, 2, 4, 4, 0).batch(step).kl_weight for step in (0, 5)] == [1, 1]


class TestNoise:
    def test_its_size(self):
        data = Clouds(torch.zeros(20, 600, 3, dtype=torch.float64))
        batches = CloudBatches(data, 20, 300, 300, seed=0, noise=0.2)
        batch = batches.batch(0)
        assert batch.noise_level.tolist() == [1.0] * 20
        for points in (batch.clouds, batch.encoder_points):
            assert points.std().item() == pytest.approx(0.2, rel=0.03)
            assert abs(points.mean().item()) < 0.01
        assert not torch.equal(batch.clouds, batch.encoder_points)
        # Fresh each time.
        assert not torch.equal(batches.batch(0).clouds, batch.clouds)

    def test_each_cloud_has_its_share_of_it(self):
        data = Clouds(torch.zeros(200, 600, 3, dtype=torch.float64))
        batch = CloudBatches(data, 200, 300, 300, seed=0, noise=0.2, varied_noise=True).batch(0)
        level = batch.noise_level
        assert level.dtype == torch.float64
        assert level.min() >= 0
        assert level.max() < 1
        assert level.mean().item() == pytest.approx(0.5, abs=0.1)
        assert level.std().item() == pytest.approx(12**-0.5, abs=0.05)
        for points in (batch.clouds, batch.encoder_points):
            torch.testing.assert_close(points.std((1, 2)), 0.2 * level, rtol=0.15, atol=1e-9)

    def test_without_noise_points_are_as_they_are(self):
        batch = CloudBatches(numbered(3, 80), 3, 16, 16, seed=0, varied_noise=True).batch(0)
        assert with_noise(batch, 0.0) is batch
        assert torch.equal(batch.clouds[..., 2], torch.full((3, 16), 0.5, dtype=torch.float64))

    def test_data_stays_as_it_is(self):
        data = numbered(3, 80)
        before = data.points.clone()
        CloudBatches(data, 3, 16, 16, seed=0, noise=1.0).batch(0)
        assert torch.equal(data.points, before)


class TestFile:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_batches_are_those_of_memory(self, tmp_path, dtype):
        points, labels = torch.randn(7, 90, 3), torch.arange(7)
        mapped = MappedClouds(pcf.data.save_clouds(points, tmp_path / "a.npy"))
        pairs = []
        for data in (mapped, points):
            batches = CloudBatches(take((data, labels), dtype), 3, 16, 16, seed=2)
            pairs.append([batches.batch(step) for step in range(5)] + evaluation_batches(batches.clouds, 0, 0.0))
        for ours, theirs in zip(*pairs, strict=True):
            assert same(ours, theirs)
            assert ours.clouds.dtype == dtype
        assert torch.equal(some_points(take(mapped, dtype)), some_points(take(points, dtype)))


class TestEvaluation:
    def test_every_point_is_either_seen_or_scored(self):
        sizes = [100, 0, 1, 64, 63, 101, 7]
        batches = evaluation_batches(numbered(7, 101, sizes), seed=0, noise=0.0, at_once=3)
        assert [len(batch.clouds) for batch in batches] == [3, 3, 1]
        assert [index for batch in batches for index in batch.index.tolist()] == list(range(7))
        assert [count for batch in batches for count in batch.num_points.tolist()] == sizes
        seen = [row for batch in batches for row in places(batch.encoder_points, batch.encoder_mask)]
        scored = [row for batch in batches for row in places(batch.clouds, batch.mask)]
        for size, a, b in zip(sizes, seen, scored, strict=True):
            if size >= 64:
                assert sorted(a + b) == list(range(size))
                assert len(a) == size // 2
            else:
                assert sorted(a) == sorted(b) == list(range(size))
        assert all(batch.kl_weight == 1 for batch in batches)

    def test_it_repeats_whatever_the_caller_draws(self):
        data = numbered(5, 80)
        state = torch.get_rng_state()
        first = evaluation_batches(data, seed=3, noise=0.5)
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        second = evaluation_batches(data, seed=3, noise=0.5)
        assert all(same(*pair) for pair in zip(first, second, strict=True))
        assert not same(evaluation_batches(data, seed=4, noise=0.5)[0], first[0])
        noise = (first[0].clouds[..., 2] - 0.5).std().item()
        assert noise == pytest.approx(0.5, rel=0.15)

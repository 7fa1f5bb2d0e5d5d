"""From data to batches of clouds: every form of data, and what each batch promises."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import pyro_pcflow as pcf
from pyro_pcflow.data import MappedClouds
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training.cloud_batches import (
    CloudBatches,
    divide,
    draw_batch,
    evaluation_batches,
    with_noise,
)
from pyro_pcflow.training.sources import (
    Clouds,
    MappedSource,
    as_clouds,
    first_equal_cloud,
    some_points,
    split_clouds,
)

CPU = torch.device("cpu")


class Items(Dataset):
    """Whatever it is given, one by one."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def take(data, dtype=torch.float64, point_dim=3, name="data"):
    return as_clouds(data, dtype, point_dim, CPU, name)


def numbered(count, num_points, sizes=None):
    """Clouds whose points tell where they come from: cloud, place, and a third number."""
    points = torch.zeros(count, num_points, 3, dtype=torch.float64)
    points[..., 0] = torch.arange(count).unsqueeze(-1)
    points[..., 1] = torch.arange(num_points)
    points[..., 2] = 0.5
    if sizes is None:
        return Clouds(points)
    mask = torch.arange(num_points) < torch.tensor(sizes).unsqueeze(-1)
    return Clouds(torch.where(mask.unsqueeze(-1), points, -1.0), mask)


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


class TestForms:
    def test_every_form_of_clouds_of_one_size(self, tmp_path):
        array = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
        points = torch.from_numpy(array)
        fixed = array.copy()
        fixed.flags.writeable = False
        forms = {
            "tensor": points,
            "double": points.double(),
            "array": array,
            "read only": fixed,
            "fortran": np.asfortranarray(array),
            "list of tensors": list(points),
            "list of arrays": list(array),
            "dataset": Items(list(points)),
            "tensor dataset": TensorDataset(points),
            "mapped": MappedClouds(pcf.data.save_clouds(points, tmp_path / "a.npy")),
        }
        for name, data in forms.items():
            clouds = take(data)
            assert len(clouds) == 5, name
            assert (clouds.point_dim, clouds.max_points) == (3, 7)
            assert clouds.labels is None
            assert clouds.device == CPU
            assert clouds.mask_of(torch.arange(5)) is None
            assert clouds.take(torch.arange(5)).dtype == torch.float64
            assert torch.equal(clouds.take(torch.tensor([3, 0, 3])), points.double()[[3, 0, 3]])
            chosen = torch.tensor([[6, 0], [1, 1]])
            expected = torch.stack([points[4, [6, 0]], points[2, [1, 1]]]).double()
            assert torch.equal(clouds.take(torch.tensor([4, 2]), chosen), expected)
        fingerprints = {take(data).fingerprint() for name, data in forms.items() if name != "mapped"}
        assert len(fingerprints) == 1
        assert take(points + 1e-3).fingerprint() not in fingerprints

    @pytest.mark.parametrize("form", [list, Items])
    def test_clouds_of_many_sizes(self, form):
        items = [torch.randn(size, 3) for size in (4, 0, 7, 1)]
        clouds = take(form(items))
        assert clouds.points.shape == (4, 7, 3)
        assert clouds.mask.tolist() == [[place < size for place in range(7)] for size in (4, 0, 7, 1)]
        for i, item in enumerate(items):
            assert torch.equal(clouds.points[i][clouds.mask[i]], item.double())
        assert torch.equal(clouds.mask_of(torch.tensor([2, 1])), clouds.mask[[2, 1]])

    def test_a_fingerprint_of_ragged_clouds_knows_where_they_end(self):
        """The same points in the same order, cut elsewhere, are other clouds."""
        points = torch.randn(6, 3)
        first = take([points[:2], points[2:5], points[5:]])
        second = take([points[:1], points[1:4], points[4:]])
        assert first.fingerprint() == take([points[:2], points[2:5], points[5:]]).fingerprint()
        assert first.fingerprint() != second.fingerprint()

    @pytest.mark.parametrize("labels", [[2, 0, 1], np.array([2, 0, 1]), torch.tensor([2, 0, 1], dtype=torch.int32)])
    def test_labels_beside_the_clouds(self, tmp_path, labels):
        points = torch.randn(3, 7, 3)
        mapped = MappedClouds(pcf.data.save_clouds(points, tmp_path / "a.npy"))
        for data in (points, points.numpy(), list(points), Items(list(points)), mapped):
            clouds = take((data, labels))
            assert clouds.labels.tolist() == [2, 0, 1]
            assert clouds.labels.dtype == torch.int64
            some = clouds.subset(torch.tensor([2, 0]))
            assert some.labels.tolist() == [1, 2]
            assert torch.equal(some.take(torch.tensor([0])), points[2:].double())

    def test_labels_of_items(self):
        points = torch.randn(3, 7, 3)
        pairs = [(points[0], 2), (points[1, :4], torch.tensor(0)), (points[2], np.int64(1))]
        for data in (pairs, Items(pairs)):
            clouds = take(data)
            assert clouds.labels.tolist() == [2, 0, 1]
            assert clouds.mask.sum(-1).tolist() == [7, 4, 7]
        assert take(TensorDataset(points, torch.tensor([2, 0, 1]))).labels.tolist() == [2, 0, 1]

    def test_any_number_of_coordinates_where_none_is_expected(self):
        assert take(torch.randn(2, 5, 6), point_dim=None).point_dim == 6

    def test_data_with_a_gradient_is_data(self):
        points = torch.randn(2, 5, 3, requires_grad=True)
        for data in (points, list(points)):
            assert not take(data).points.requires_grad


class TestErrors:
    @pytest.mark.parametrize(
        ("data", "kind", "words"),
        [
            (torch.zeros(5, 3), ValueError, r"\(S, N, D\) for a model of many clouds, got \(5, 3\)"),
            (torch.zeros(1, 2, 5, 3), ValueError, r"got \(1, 2, 5, 3\)"),
            (torch.zeros(0, 5, 3), ValueError, "at least one cloud with a point, got 0 clouds"),
            (torch.zeros(2, 0, 3), ValueError, "at least one cloud with a point, got 2 clouds"),
            ([], ValueError, "at least one cloud, got an empty list"),
            (Items([]), ValueError, "got an empty Items"),
            ([torch.zeros(0, 3)], ValueError, "at least one cloud with a point"),
            (torch.zeros(2, 5, 2), ValueError, "points have 2 coordinates, but the module expects 3"),
            ([torch.zeros(5, 2)], ValueError, "points have 2 coordinates"),
            ([torch.zeros(5, 3), torch.zeros(5, 2)], ValueError, r"item 1: .* D = 3, got \(5, 2\)"),
            ([torch.zeros(5, 3), torch.zeros(3)], ValueError, r"item 1: expected a cloud \(N, D\)"),
            ([torch.zeros(1, 5, 3)], ValueError, r"item 0: expected a cloud \(N, D\), got \(1, 5, 3\)"),
            ("clouds.npy", TypeError, "data: expected"),
            ([["a", "b"]], TypeError, "item 0: expected"),
            (torch.zeros(2, 5, 3, dtype=torch.complex64), TypeError, "real coordinates"),
            (
                [(torch.zeros(5, 3), 1), torch.zeros(5, 3)],
                ValueError,
                "1 of 2 items have a label: expected all or none",
            ),
            ([(torch.zeros(5, 3), 1, 2)], TypeError, "item 0"),
            (([torch.zeros(5, 3)], [0, 1]), ValueError, r"each of 1 clouds as labels, got torch.int64 of shape \(2,\)"),
            ((torch.zeros(2, 5, 3), torch.zeros(2)), ValueError, r"got torch.float32 of shape \(2,\)"),
            ((torch.zeros(2, 5, 3), torch.zeros(2, 1, dtype=torch.long)), ValueError, r"of shape \(2, 1\)"),
            ((torch.zeros(2, 5, 3), ["a", "b"]), TypeError, "data, labels: expected"),
        ],
    )
    def test_wrong_data(self, data, kind, words):
        with pytest.raises(kind, match=words) as caught:
            take(data)
        assert str(caught.value).startswith("data")
        with pytest.raises(kind, match="held_out"):
            take(data, name="held_out")

    @pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39])
    def test_values_that_are_not_finite_are_counted_and_found(self, bad):
        points = torch.randn(3, 5, 3, dtype=torch.float64)
        points[1, 4, 2] = points[2, 0, 0] = bad
        for data in (points, list(points)):
            with pytest.raises(ValueError, match=r"2 points are NaN or infinite .* point 4 of cloud 1"):
                take(data, torch.float32)

    def test_values_of_a_file_that_are_not_finite_are_found_before_any_is_trained_on(self, tmp_path):
        array = np.zeros((2, 5, 3), np.float32)
        array[1, 2, 0] = np.nan
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match="point 2 of cloud 1 is NaN, infinite or beyond float32; remove it"):
            take(MappedClouds(tmp_path / "a.npy"))

    def test_a_wrong_file(self, tmp_path):
        mapped = MappedClouds(pcf.data.save_clouds(torch.randn(3, 7, 2), tmp_path / "a.npy"))
        with pytest.raises(ValueError, match="points have 2 coordinates"):
            take(mapped)
        with pytest.raises(ValueError, match="3 clouds as labels"):
            take((mapped, [0, 1]), point_dim=2)

    def test_labels_that_are_no_whole_numbers_are_not_cut(self):
        """Of items as of a tensor."""
        with pytest.raises((TypeError, ValueError), match="label"):
            take([(torch.zeros(5, 3), 0.7), (torch.zeros(5, 3), 1.2)])


class TestSplit:
    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
    def test_parts_are_disjoint_and_complete(self, share):
        clouds = numbered(40, 3)
        training, held_out = split_clouds(clouds, share, seed=0)
        first, second = (part.points[:, 0, 0].int().tolist() for part in (training, held_out))
        assert len(second) == round(40 * share)
        assert sorted(first + second) == list(range(40))
        assert first == sorted(first)
        again = split_clouds(clouds, share, seed=0)
        assert torch.equal(again[1].points, held_out.points)
        assert not torch.equal(split_clouds(clouds, share, seed=1)[1].points, held_out.points)

    def test_masks_and_labels_go_with_their_clouds(self):
        sizes = [3, 1, 2, 3, 0, 1, 2, 3]
        data = numbered(8, 3, sizes)
        data = Clouds(data.points, data.mask, torch.arange(8))
        for part in split_clouds(data, 0.25, seed=3):
            for i in range(len(part)):
                label = int(part.labels[i])
                assert int(part.mask[i].sum()) == sizes[label]
                assert torch.equal(part.points[i], data.points[label])

    def test_a_file_is_split_as_memory_is(self, tmp_path):
        points = torch.randn(20, 5, 3)
        mapped = MappedClouds(pcf.data.save_clouds(points, tmp_path / "a.npy"))
        labels = torch.arange(20)
        for ours, theirs in zip(
            split_clouds(take((mapped, labels)), 0.2, 1), split_clouds(take((points, labels)), 0.2, 1), strict=True
        ):
            assert isinstance(ours, MappedSource)
            assert len(ours) == len(theirs)
            every = torch.arange(len(ours))
            assert torch.equal(ours.take(every), theirs.take(every))
            assert torch.equal(ours.labels, theirs.labels)
            some = torch.tensor([2, 0])
            assert torch.equal(ours.subset(some).take(torch.tensor([1])), theirs.take(torch.tensor([0])))
            assert ours.subset(some).labels.tolist() == theirs.labels[some].tolist()
        assert ours.fingerprint() != take(mapped).fingerprint()

    def test_no_more_than_512_are_held_out(self):
        training, held_out = split_clouds(numbered(2000, 1), 0.5, seed=0)
        assert (len(training), len(held_out)) == (1488, 512)

    @pytest.mark.parametrize("form", ["tensor", "file", "list"])
    def test_a_cloud_that_is_repeated_is_on_one_side_only(self, form, tmp_path):
        """The same points in the same order; that two clouds begin alike makes them no copies."""
        clouds = torch.randn(20, 5, 3)
        clouds[:10, 0] = 0.0
        order = torch.randint(20, (200,))
        data = clouds[order]
        if form == "file":
            data = MappedClouds(pcf.data.save_clouds(data, tmp_path / "a.npy"))
        elif form == "list":
            data = [cloud[: 5 - int(i) % 2] for cloud, i in zip(data, order, strict=True)]
        training, held_out = split_clouds(take((data, order)), 0.2, seed=0)
        first, second = (set(part.labels.tolist()) for part in (training, held_out))
        assert not first & second
        assert len(second) == 4
        assert len(training) + len(held_out) == 200

    def test_a_split_of_different_clouds_is_that_of_its_seed(self):
        order = torch.randperm(40, generator=seeded_generator(2, "split"))
        held_out = split_clouds(numbered(40, 3), 0.25, seed=2)[1]
        assert torch.equal(held_out.points, numbered(40, 3).points[order[:10]])

    def test_clouds_without_points_are_alike(self):
        assert first_equal_cloud(numbered(4, 3, [0, 2, 0, 3])).tolist() == [0, 1, 0, 3]

    def test_none_are_held_out(self):
        clouds = numbered(4, 3)
        assert split_clouds(clouds, 0.0, seed=0) == (clouds, None)

    @pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan])
    def test_wrong_shares(self, share):
        with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
            split_clouds(numbered(4, 3), share, seed=0)

    def test_a_share_that_leaves_nothing(self):
        with pytest.raises(ValueError, match="leaves 4 to train on and 0 to evaluate on: give more clouds"):
            split_clouds(numbered(4, 3), 0.1, seed=0)
        with pytest.raises(ValueError, match="leaves 0 to train on and 4"):
            split_clouds(numbered(4, 3), 0.9, seed=0)


class TestUnits:
    def test_points_of_all_clouds(self):
        clouds = numbered(4, 3)
        assert torch.equal(some_points(clouds), clouds.points.reshape(-1, 3))

    def test_padding_is_left_out(self):
        sizes = [3, 0, 1, 2]
        points = some_points(numbered(4, 3, sizes))
        assert len(points) == 6
        assert not (points < 0).any()

    def test_of_many_clouds_evenly_spaced_ones(self, monkeypatch):
        monkeypatch.setattr(pcf.training.clouds, "POINTS_FOR_UNITS", 15)
        points = some_points(numbered(101, 3))
        assert points.shape == (15, 3)
        assert points[::3, 0].tolist() == [0, 25, 50, 75, 100]


class TestHalves:
    @pytest.mark.parametrize("seen_points", [1, 50, 1000])
    @pytest.mark.parametrize("num_points", [1, 16, 40, 1000])
    def test_shares_of_every_size(self, num_points, seen_points):
        sizes = torch.arange(200)
        seen, scored, first = divide(sizes, num_points, seen_points)
        for size, a, b, start in zip(*(x.tolist() for x in (sizes, seen, scored, first)), strict=True):
            if size >= 64:
                # Apart: the encoder has the first half, the likelihood the rest.
                assert a == min(size // 2, seen_points)
                assert start == a
                assert b == min(size - a, num_points)
            else:
                assert (a, b, start) == (min(size, seen_points), min(size, num_points), 0)
            assert start + b <= size
            assert bool(b) == bool(size)


class TestBatches:
    def test_each_cloud_once_an_epoch(self):
        batches = CloudBatches(numbered(10, 8), batch_size=3, num_points=4, seen_points=4, seed=0)
        epochs = []
        for epoch in range(4):
            drawn = []
            for step in range(3):
                batch = batches.batch(3 * epoch + step)
                assert torch.equal(batch.index.double(), batch.clouds[:, 0, 0])
                assert torch.equal(batch.index.double(), batch.seen[:, 0, 0])
                drawn += batch.index.tolist()
            assert len(set(drawn)) == 9
            epochs.append(drawn)
        assert len({tuple(sorted(drawn)) for drawn in epochs}) > 1, "other clouds are dropped in other epochs"
        assert epochs[0] != epochs[1]

    def test_a_batch_is_never_larger_than_the_data(self):
        batches = CloudBatches(numbered(3, 8), batch_size=32, num_points=4, seen_points=4, seed=0)
        assert batches.batch_size == 3
        assert sorted(batches.batch(5).index.tolist()) == [0, 1, 2]

    @pytest.mark.parametrize(("num_points", "seen_points"), [(10, 10), (10, 30), (40, 40), (1000, 1000)])
    def test_seen_and_scored_points_are_apart(self, num_points, seen_points):
        batches = CloudBatches(numbered(6, 80), batch_size=4, num_points=num_points, seen_points=seen_points, seed=0)
        counts = torch.zeros(80)
        for step in range(30):
            batch = batches.batch(step)
            assert batch.mask is batch.seen_mask is None
            assert batch.num_points.tolist() == [80] * 4
            expected = min(num_points, 40)
            assert batch.clouds.shape == (4, expected, 3)
            assert batch.seen.shape == (4, min(seen_points, 40), 3)
            for seen, scored in zip(places(batch.seen), places(batch.clouds), strict=True):
                assert len(set(scored)) == expected
                assert len(set(seen)) == min(seen_points, 40)
                assert not set(seen) & set(scored)
                counts[scored] += 1
        # Every point is scored in its turn.
        share = 120 * expected / 80
        assert counts.min() > share / 3
        assert counts.max() < share * 2.5

    def test_small_clouds_are_seen_and_scored_alike(self):
        batch = CloudBatches(numbered(6, 40), batch_size=4, num_points=16, seen_points=16, seed=0).batch(0)
        for seen, scored in zip(places(batch.seen), places(batch.clouds), strict=True):
            assert len(set(seen)) == 16
            assert seen == scored

    @pytest.mark.parametrize("sizes", [None, [40, 1, 7, 40, 22, 9]])
    def test_of_small_clouds_more_points_can_be_seen_than_are_scored(self, sizes):
        batch = CloudBatches(numbered(6, 40, sizes), batch_size=4, num_points=5, seen_points=30, seed=0).batch(0)
        seen, scored = places(batch.seen, batch.seen_mask), places(batch.clouds, batch.mask)
        for size, a, b in zip(batch.num_points.tolist(), seen, scored, strict=True):
            assert (len(set(a)), len(set(b))) == (min(size, 30), min(size, 5))
            assert set(b) <= set(a)

    def test_ragged_clouds(self):
        sizes = [100, 0, 1, 64, 63, 7]
        batches = CloudBatches(numbered(6, 100, sizes), batch_size=6, num_points=40, seen_points=40, seed=0)
        for step in range(5):
            batch = batches.batch(step)
            chosen = [sizes[i] for i in batch.index.tolist()]
            assert batch.num_points.tolist() == chosen
            seen, scored = places(batch.seen, batch.seen_mask), places(batch.clouds, batch.mask)
            expected = {100: (40, 40), 0: (0, 0), 1: (1, 1), 64: (32, 32), 63: (40, 40), 7: (7, 7)}
            for size, a, b in zip(chosen, seen, scored, strict=True):
                assert (len(a), len(b)) == expected[size]
                assert len(set(a)) == len(a)
                assert all(place < size for place in a + b)
                assert set(a).isdisjoint(b) if size >= 64 else set(a) == set(b)
            for points, mask in ((batch.seen, batch.seen_mask), (batch.clouds, batch.mask)):
                assert points.shape == (6, 40, 3)
                assert not points[~mask].any(), "padding is zero"

    def test_ragged_clouds_that_fill_a_batch_need_no_mask(self):
        clouds = numbered(3, 100, [100, 90, 80])
        batch = CloudBatches(clouds, batch_size=3, num_points=40, seen_points=40, seed=0).batch(0)
        assert batch.mask is batch.seen_mask is None
        assert batch.clouds.shape == (3, 40, 3)

    def test_a_batch_of_nothing_but_empty_clouds(self):
        data = numbered(3, 10, [10, 0, 0])
        batch = draw_batch(data, torch.tensor([1, 2]), 5, 5, torch.Generator().manual_seed(0))
        assert batch.clouds.shape == batch.seen.shape == (2, 0, 3)
        assert batch.num_points.tolist() == [0, 0]

    def test_a_step_needs_no_memory_of_earlier_ones(self):
        data = numbered(10, 80)

        def make(**options):
            return CloudBatches(data, **{"batch_size": 3, "num_points": 16, "seen_points": 16, "seed": 4, **options})

        whole = make()
        expected = [whole.batch(step) for step in range(8)]
        for step in (7, 0, 5, 2, 3):
            assert same(make().batch(step), expected[step])
            assert same(whole.batch(step), expected[step])
        assert not same(make(seed=5).batch(0), expected[0])
        assert not torch.equal(expected[0].clouds[:, :, 1], expected[3].clouds[:, :, 1])

    def test_a_cloud_is_another_sample_in_every_epoch(self):
        batches = CloudBatches(numbered(1, 80), batch_size=1, num_points=16, seen_points=16, seed=0)
        rows = {tuple(places(batches.batch(step).clouds)[0]) for step in range(5)}
        assert len(rows) == 5

    def test_labels_and_options(self):
        data = numbered(6, 80)
        batch = CloudBatches(Clouds(data.points, None, torch.arange(6) + 10), 4, 16, 16, seed=0).batch(0)
        assert torch.equal(batch.labels, batch.index + 10)
        options = batch.options()
        assert set(options) == {"index", "labels", "noise_level", "num_points", "kl_weight", "seen"}
        assert options["seen"] is batch.seen
        batch = CloudBatches(numbered(2, 80, [80, 7]), 2, 16, 16, seed=0).batch(0)
        assert set(batch.options()) == {"index", "noise_level", "num_points", "kl_weight", "seen", "seen_mask"}

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
        for points in (batch.clouds, batch.seen):
            assert points.std().item() == pytest.approx(0.2, rel=0.03)
            assert abs(points.mean().item()) < 0.01
        assert not torch.equal(batch.clouds, batch.seen)
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
        for points in (batch.clouds, batch.seen):
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
        seen = [row for batch in batches for row in places(batch.seen, batch.seen_mask)]
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

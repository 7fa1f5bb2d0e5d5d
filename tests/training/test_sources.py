"""Clouds in memory and in a file: which are held out, and which tell the units."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from helpers.numbered_clouds import numbered, take
from pyro_pcflow.data import MappedClouds
from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training import sources
from pyro_pcflow.training.sources import Clouds, MappedSource, first_equal_cloud, some_points, split_clouds


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
        monkeypatch.setattr(sources, "POINTS_FOR_UNITS", 15)
        points = some_points(numbered(101, 3))
        assert points.shape == (15, 3)
        assert points[::3, 0].tolist() == [0, 25, 50, 75, 100]

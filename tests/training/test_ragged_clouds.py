"""Clouds of different sizes: trained on as if padded, in memory for what there is."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.training import CloudSampling
from pyro_pcflow.training.cloud_batches import draw_batch, evaluation_batches, whole_batch
from pyro_pcflow.training.inputs import as_clouds
from pyro_pcflow.training.sources import Clouds, RaggedClouds, first_equal_cloud, some_clouds, some_points

SIZES = [5, 300, 1, 80, 80, 700]


def make(sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    clouds = [torch.randn(size, 3, generator=generator) + 10 * number for number, size in enumerate(sizes)]
    return clouds, RaggedClouds.of(clouds)


def test_what_is_taken_is_what_was_given():
    clouds, ragged = make()
    assert (len(ragged), ragged.point_dim, ragged.max_points) == (6, 3, 700)
    chosen = torch.tensor([3, 0, 5])
    taken, mask = ragged.take(chosen), ragged.mask_of(chosen)
    assert taken.shape == (3, 700, 3)
    for row, number in enumerate(chosen.tolist()):
        assert torch.equal(taken[row, mask[row]], clouds[number])
        assert bool((taken[row, ~mask[row]] == 0).all())
    assert ragged.mask_of(torch.tensor([3, 4])) is None
    assert ragged.take(torch.tensor([3, 4])).shape == (2, 80, 3)
    points = torch.tensor([[4, 0], [299, 7]])
    assert torch.equal(ragged.take(torch.tensor([0, 1]), points)[1], clouds[1][[299, 7]])


def test_a_subset_shares_the_points():
    clouds, ragged = make()
    part = ragged.subset(torch.tensor([5, 2]))
    assert part.points.data_ptr() == ragged.points.data_ptr()
    assert [torch.equal(part.cloud(number), clouds[of]) for number, of in enumerate([5, 2])] == [True, True]
    again = RaggedClouds.of([clouds[5], clouds[2]])
    assert part.fingerprint() == again.fingerprint() != ragged.fingerprint()


def test_a_fingerprint_is_that_of_the_same_clouds_padded():
    clouds, ragged = make()
    padded = torch.nn.utils.rnn.pad_sequence(clouds, batch_first=True)
    mask = torch.arange(700) < torch.tensor(SIZES).unsqueeze(-1)
    assert ragged.fingerprint() == Clouds(padded, mask).fingerprint()


def test_a_batch_has_points_of_its_own_clouds_none_twice():
    clouds, ragged = make()
    batch = draw_batch(ragged, torch.tensor([1, 0, 5]), 100, 60, torch.Generator().manual_seed(0))
    assert batch.num_points.tolist() == [300, 5, 700]
    for row, number in enumerate([1, 0, 5]):
        read = (
            batch.encoder_points[row]
            if batch.encoder_mask is None
            else batch.encoder_points[row, batch.encoder_mask[row]]
        )
        scored = batch.clouds[row] if batch.mask is None else batch.clouds[row, batch.mask[row]]
        for part in (read, scored):
            assert len(part.unique(dim=0)) == len(part)
            assert all((clouds[number] == point).all(-1).any() for point in part)
        if SIZES[number] >= 64:
            assert len(torch.cat([read, scored]).unique(dim=0)) == len(read) + len(scored)
    assert torch.equal(whole_batch(ragged, torch.tensor([0, 3])).num_points, torch.tensor([5, 80]))


def test_every_held_out_cloud_is_evaluated_once_with_little_padding():
    _, ragged = make([10, 1000, 11, 900, 12, 1, 30_000])
    batches = evaluation_batches(ragged, seed=0, noise=0.0, at_once=3)
    assert sorted(number for batch in batches for number in batch.index.tolist()) == list(range(7))
    for batch in batches:
        assert batch.num_points.max() <= 2 * batch.num_points.min()
        assert len(batch.index) <= 3


def test_units_spacing_and_equal_clouds():
    clouds, _ = make()
    ragged = RaggedClouds.of([*clouds, clouds[1], -clouds[1] * 0])
    assert first_equal_cloud(ragged).tolist() == [0, 1, 2, 3, 4, 5, 1, 7]
    assert [len(cloud) for cloud in some_clouds(ragged)] == [*SIZES, 300, 300]
    assert len(some_points(ragged)) == sum(SIZES) + 600


def test_the_first_bad_point_is_named():
    clouds, _ = make()
    clouds[3][7, 1] = float("nan")
    with pytest.raises(ValueError, match=r"1 points are NaN or infinite .* the first is point 7 of cloud 3"):
        as_clouds(clouds, torch.float32, 3, torch.device("cpu"))


def test_a_model_of_clouds_of_different_sizes_trains():
    clouds, _ = make([70, 100, 64, 200, 90, 300, 128, 77])
    model = pcf.PointCloudVAE(
        3, latent_dim=2, encoder={"point_dims": (8,), "hidden_dims": ()}, decoder={"hidden_dims": (8,)}
    )
    result = pcf.fit(
        model,
        clouds,
        max_steps=3,
        batch_size=4,
        held_out=0.25,
        sampling=CloudSampling(target_points=20, encoder_points=30),
    )
    assert result.steps == 3


def test_small_clouds_beside_a_large_one_need_memory_for_what_there_is():
    generator = torch.Generator().manual_seed(0)
    clouds = [torch.randn(100, 3, generator=generator) for _ in range(300)] + [torch.randn(100_000, 3)]
    source = as_clouds(clouds, torch.float32, 3, torch.device("cpu"))
    there = sum(cloud.numel() for cloud in clouds)
    assert source.points.numel() == there
    assert sum(part.numel() for part in vars(source).values() if isinstance(part, torch.Tensor)) <= there + 2 * 301
    batches = evaluation_batches(source.subset(torch.arange(0, 301, 10)), seed=0, noise=0.0)
    kept = sum(batch.clouds.numel() + batch.encoder_points.numel() for batch in batches)
    assert kept <= 3 * there

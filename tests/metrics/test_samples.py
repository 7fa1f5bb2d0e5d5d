"""Which clouds and points are compared, and in which units."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.metrics import (
    evaluate,
)


def clouds(count, num_points=30, seed=0, dim=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    place = torch.randn(count, 1, dim, generator=generator, dtype=dtype)
    return place + 0.3 * torch.randn(count, num_points, dim, generator=generator, dtype=dtype)


def test_draws_of_tensors():
    references = clouds(5)
    sets = torch.stack([clouds(5, seed=k) for k in (1, 2)])
    report = evaluate(sets, references)
    alone = [evaluate(some, references)["mmd-cd"] for some in sets]
    assert list(report.draws["mmd-cd"]) == alone
    # Disjoint sets of one large set: each sample is in one of them.
    marks = torch.arange(10.0).reshape(10, 1, 1).expand(10, 30, 3)
    report = evaluate(marks, references, draws=2)
    first = report.neighbours.samples[:, 0, 0].tolist()
    assert len(set(first)) == 5
    assert report.protocol.num_clouds == 5


def test_numbers_of_clouds_and_points():
    samples, references = clouds(20, 50, seed=1), clouds(8, 40, seed=2)
    report = evaluate(samples, references, num_points=25, num_clouds=6, seed=3)
    assert report.neighbours.samples.shape == report.neighbours.references.shape == (6, 25, 3)
    assert (report.protocol.num_clouds, report.protocol.num_points) == (6, 25)
    for chosen, whole in [(report.neighbours.samples, samples), (report.neighbours.references, references)]:
        points = {tuple(point) for point in whole.reshape(-1, 3).tolist()}
        found = [tuple(point) for point in chosen.reshape(-1, 3).tolist()]
        assert set(found) <= points
        assert len(set(found)) == len(found)
    assert evaluate(samples, references, num_points=25, num_clouds=6, seed=3) == report
    assert evaluate(samples, references, num_points=25, num_clouds=6, seed=4)["mmd-cd"] != report["mmd-cd"]


def test_a_seed_chooses_clouds_and_points_of_both_sets():
    samples, references = torch.stack([clouds(9, 20, seed=k) for k in (1, 2)]), clouds(9, 20, seed=3)

    def chosen(**options):
        neighbours = evaluate(samples, references, **options).neighbours
        return neighbours.samples, neighbours.references

    for count in ({"num_points": 15}, {"num_clouds": 6}):
        first, again, other = (chosen(seed=seed, **count) for seed in (3, 3, 4))
        for one, same, another in zip(first, again, other, strict=True):
            assert torch.equal(one, same)
            assert not torch.equal(one, another)
    # Points of a cloud are chosen for it alone: of equal clouds, different ones remain.
    samples = samples[:, :1].expand(2, 9, 20, 3)
    one, two = chosen(num_points=15)[0][:2]
    assert not torch.equal(one, two)


def test_normalizations():
    samples, references = clouds(9, seed=1), clouds(9, seed=2)
    moved = 3 * samples + 5
    plain = evaluate(samples, references)
    assert evaluate(moved, references)["1-nna-cd"] > 0.9
    scaled = evaluate(samples, references, normalization="references")
    factor = (references - references.mean((0, 1))).square().mean()
    assert scaled["mmd-cd"] == pytest.approx(plain["mmd-cd"] / factor.item(), rel=1e-5)
    assert scaled["1-nna-cd"] == plain["1-nna-cd"]
    for kind in ("per_cloud", "per_cloud_box"):
        same = evaluate(samples, references, normalization=kind)
        assert evaluate(moved, references, normalization=kind)["mmd-cd"] == pytest.approx(same["mmd-cd"], rel=1e-4)
        assert same["mmd-cd"] != plain["mmd-cd"]
    boxes = evaluate(samples, references, normalization="per_cloud_box").neighbours.samples
    torch.testing.assert_close(boxes.abs().amax((1, 2)), torch.ones(9))
    # The longest side alone is scaled to one: sides keep their ratios.
    sides, scaled = (some.amax(1) - some.amin(1) for some in (samples, boxes))
    torch.testing.assert_close(scaled / scaled[:, :1], sides / sides[:, :1])
    assert scaled.amin() < 1.5


@pytest.mark.parametrize("kind", ["references", "per_cloud", "per_cloud_box"])
def test_the_training_set_is_normalised_as_samples_are(kind):
    samples, references, train = clouds(6, seed=1), clouds(6, seed=2), 3 * clouds(6, seed=3) + 5
    report = evaluate(samples, references, train=train, normalization=kind)
    assert report.train == evaluate(train, references, normalization=kind).draws


def test_a_collapsed_sample_has_no_scale_of_its_own_and_fails():
    samples = clouds(6, seed=1)
    samples[2] = 4.0
    assert evaluate(samples, clouds(6)).failed == (0,)
    assert evaluate(samples, clouds(6), normalization="per_cloud").failed == (1,)

"""Every form of data, and what is wrong with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import pyro_pcflow as pcf
from helpers.numbered_clouds import CPU, Items, take
from pyro_pcflow.data import MappedClouds
from pyro_pcflow.training.inputs import as_density_data


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
        assert clouds.sizes_of(torch.arange(4)).tolist() == [4, 0, 7, 1]
        every = torch.arange(4)
        padded, mask = clouds.take(every), clouds.mask_of(every)
        assert padded.shape == (4, 7, 3)
        assert mask.tolist() == [[place < size for place in range(7)] for size in (4, 0, 7, 1)]
        for i, item in enumerate(items):
            assert torch.equal(padded[i][mask[i]], item.double())
        assert torch.equal(clouds.mask_of(torch.tensor([2, 1])), mask[[2, 1]])

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
            assert clouds.sizes.tolist() == [7, 4, 7]
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


class TestDensityData:
    """Points or clouds of two coordinates, with contexts of three or without."""

    def taken(self, data, context_dim=3):
        return as_density_data(data, torch.float32, 2, context_dim, "data")

    @pytest.mark.parametrize("shape", [(50,), (50, 8)], ids=["points", "clouds"])
    def test_a_dataset_of_pairs(self, shape):
        pair = torch.randn(*shape, 2), torch.randn(50, 3)
        one, other = (self.taken(data) for data in (pair, TensorDataset(*pair)))
        assert type(one) is type(other)
        assert one.describe("") == other.describe("")

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
            self.taken(data)

    def test_a_pair_for_a_flow_without_context(self):
        with pytest.raises(ValueError, match="built without a context"):
            self.taken((torch.randn(20, 2), torch.randn(20, 3)), context_dim=0)

    def test_a_module_that_says_nothing_of_contexts_takes_any_or_none(self):
        assert self.taken(torch.randn(20, 2), context_dim=None).contexts is None
        assert self.taken((torch.randn(20, 2), torch.randn(20, 5)), context_dim=None).contexts.shape == (20, 5)

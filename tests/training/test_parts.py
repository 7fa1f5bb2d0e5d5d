from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from pyro_pcflow.ops.random import seeded_generator
from pyro_pcflow.training import density as points_module
from pyro_pcflow.training import toml
from pyro_pcflow.training.density import (
    Batches,
    as_points,
    first_equal,
    split_points,
)
from pyro_pcflow.training.options import as_device
from pyro_pcflow.training.schedule import Schedule
from pyro_pcflow.training.weights import FlatWeights


class TestSchedule:
    def test_warm_up_is_a_line_and_decay_half_a_cosine(self):
        schedule = Schedule(lr=2.0, warmup_steps=4, max_steps=1000)
        decay = [0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(5)]
        expected = [0.5 * decay[0], 1.0 * decay[1], 1.5 * decay[2], 2.0 * decay[3], 2.0 * decay[4]]
        assert [schedule.rate(step, 0.0) for step in range(5)] == pytest.approx(expected)
        assert schedule.rate(250, 0.0) == pytest.approx(1 + math.sqrt(0.5))
        assert schedule.rate(1000, 0.0) == 0.0

    def test_whichever_ends_first_decides(self):
        schedule = Schedule(lr=1.0, warmup_steps=0, max_steps=100, max_seconds=10.0)
        assert schedule.progress(50, 1.0) == 0.5
        assert schedule.progress(10, 9.0) == 0.9
        assert schedule.progress(10, 99.0) == 1.0
        assert Schedule(1.0, 0, max_seconds=10.0).rate(10**9, 5.0) == pytest.approx(0.5)


class TestFlatWeights:
    def test_average_against_a_computation_by_hand(self):
        weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(()))
        flat = FlatWeights({"weight": weight, "bias": bias}, decay=0.2)
        expected = 0.0
        for step, value in enumerate([4.0, -1.0, 3.0, 5.0, 2.0]):
            with torch.no_grad():
                weight.fill_(value)
                bias.fill_(2 * value)
            flat.update_average(step)
            kept = min(0.2, step / (step + 9))
            expected = kept * expected + (1 - kept) * value
        assert flat.averages.tolist() == pytest.approx([expected] * 4 + [2 * expected])
        with flat.averaged():
            assert weight.detach().flatten().tolist() == pytest.approx([expected] * 4)
        assert weight.detach().flatten().tolist() == [2.0] * 4
        flat.release(averaged=True)
        assert bias.item() == pytest.approx(2 * expected)
        flat.values.data.zero_()
        assert bias.item() != 0

    def test_one_vector_steps_as_the_parameters_would(self):
        def model():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()

        plain, flattened = model(), model()
        flat = FlatWeights(dict(flattened.named_parameters()), decay=0.0)
        plain_adam, flat_adam = torch.optim.Adam(plain.parameters()), torch.optim.Adam([flat.values])
        for _ in range(5):
            x = torch.randn(7, 3, dtype=torch.float64)
            plain_adam.zero_grad()
            plain(x).square().mean().backward()
            norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), math.inf)
            plain_adam.step()
            flat.drop_gradients()
            flattened(x).square().mean().backward()
            assert flat.gather_gradients().norm().item() == pytest.approx(norm.item(), rel=1e-12)
            flat_adam.step()
        flat.release(averaged=False)
        for one, other in zip(plain.parameters(), flattened.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)

    def test_gradients_that_are_missing_count_as_zero(self):
        used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
        flat = FlatWeights({"used": used, "unused": unused}, decay=0.0)
        (2 * used).sum().backward()
        assert flat.gather_gradients().tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]

    def test_mixed_types_are_refused(self):
        mixed = {"a": nn.Parameter(torch.zeros(1)), "b": nn.Parameter(torch.zeros(1, dtype=torch.float64))}
        with pytest.raises(ValueError, match=r"one data type, got torch\.float32, torch\.float64"):
            FlatWeights(mixed, decay=0.5)


class TestPoints:
    def test_an_epoch_visits_every_point_once_in_a_new_order(self):
        batches = Batches(torch.arange(20.0).unsqueeze(-1), batch_size=5, seed=0)
        epochs = [torch.cat([batches.batch(step) for step in range(start, start + 4)]).flatten() for start in (0, 4)]
        for epoch in epochs:
            assert sorted(epoch.tolist()) == list(range(20))
        assert not torch.equal(*epochs)

    def test_a_batch_depends_on_seed_and_step_alone(self):
        points = torch.arange(103.0).unsqueeze(-1)
        walked = Batches(points, 10, seed=3)
        history = [walked.batch(step) for step in range(25)]
        assert torch.equal(Batches(points, 10, seed=3).batch(24), history[24])
        assert not torch.equal(Batches(points, 10, seed=4).batch(24), history[24])

    def test_small_data_makes_one_batch(self):
        assert Batches(torch.zeros(7, 3), 2048, seed=0).batch(5).shape == (7, 3)

    def test_noise_is_fresh_and_as_wide_as_asked(self):
        points = torch.zeros(20_000, 2)
        batches = Batches(points, 20_000, seed=0, noise=0.3)
        first, second = batches.batch(0), batches.batch(0)
        assert not torch.equal(first, second)
        assert first.std().item() == pytest.approx(0.3, rel=0.02)
        assert points.abs().max() == 0

    def test_split_parts_are_disjoint_and_complete(self):
        split = split_points(torch.arange(1000.0).unsqueeze(-1), 0.25, seed=0, noise=0.0)
        assert len(split.held_out) == 250
        assert sorted([*split.training.flatten().tolist(), *split.held_out.flatten().tolist()]) == list(range(1000))

    def test_held_out_points_are_at_most_20000_and_their_noise_is_fixed(self):
        points = 1e-9 * torch.arange(100_000.0).unsqueeze(-1).expand(-1, 2)
        one, other = (split_points(points, 0.5, seed=1, noise=0.1) for _ in range(2))
        assert len(one.held_out) == 20_000
        assert len(one.training) == 80_000
        assert torch.equal(one.held_out, other.held_out)
        assert one.held_out.std().item() == pytest.approx(0.1, rel=0.02)
        assert one.training.abs().max() < 1e-3

    @pytest.mark.parametrize("seed", [0, 5])
    def test_a_split_of_different_points_is_that_of_its_seed(self, seed):
        points = torch.randn(200, 3)
        order = torch.randperm(200, generator=seeded_generator(seed, "split"))
        split = split_points(points, 0.3, seed=seed, noise=0.0)
        assert torch.equal(split.held_out, points[order[:60]])
        assert torch.equal(split.training, points[order[60:].sort().values])

    @pytest.mark.parametrize("form", [torch.Tensor, "array", "clouds", "Dataset"])
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
        points = as_points(data, torch.float32, 3)
        split = split_points(points, 0.1, seed=1, noise=0.0)
        training, held_out = ({tuple(point) for point in part.tolist()} for part in (split.training, split.held_out))
        assert not training & held_out
        assert len(held_out) == 10
        assert len(split.training) + len(split.held_out) == 3000
        again = split_points(points, 0.1, seed=1, noise=0.0)
        assert torch.equal(again.training, split.training)
        assert torch.equal(again.held_out, split.held_out)

    def test_copies_are_held_out_with_their_weight_and_no_more_than_20000(self, monkeypatch):
        monkeypatch.setattr(points_module, "MAX_HELD_OUT", 40)
        points = torch.arange(100.0).unsqueeze(-1).repeat_interleave(torch.tensor([1, 9] * 50), 0)
        split = split_points(points, 0.3, seed=0, noise=0.0)
        assert len(split.held_out) == 40
        assert not torch.isin(split.held_out, split.training).any()
        assert len(split.training.unique()) == 70
        assert 0.5 < (split.held_out % 2).mean() < 1

    def test_equal_means_equal_in_every_coordinate(self):
        points = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 2.0], [1.0, -0.0], [1.0, 2.0], [1.0, 0.0]])
        assert first_equal(points).tolist() == [0, 1, 2, 0, 1, 0]
        assert first_equal(points[:0]).tolist() == []
        many = torch.randint(3, (500, 4)).float()
        expected = [next(j for j in range(500) if torch.equal(many[i], many[j])) for i in range(0, 500, 50)]
        assert first_equal(many)[::50].tolist() == expected

    def test_points_that_are_all_the_same_leave_nothing(self):
        with pytest.raises(ValueError, match="of 1 different points leaves 1 to train on and 0"):
            split_points(torch.ones(50, 3), 0.1, seed=0, noise=0.0)


def test_devices():
    assert as_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert as_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device None"):
        as_device(None)


plain_values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    # A surrogate is no character, and no file could hold it.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
tables = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), plain_values, max_size=4),
    lambda inner: st.dictionaries(st.text("abc.\"' \n", max_size=4), inner | plain_values, max_size=4),
    max_leaves=8,
)


@given(tables)
def test_toml_reads_back_as_it_was_written(table):
    assert toml.loads(toml.dumps(table)) == table


def test_toml_leaves_out_none_and_refuses_the_rest():
    assert toml.loads(toml.dumps({"a": None, "b": [{"c": 1}]})) == {"b": [{"c": 1}]}
    assert math.isnan(toml.loads(toml.dumps({"a": math.nan}))["a"])
    with pytest.raises(TypeError, match="Tensor has no form"):
        toml.dumps({"a": torch.zeros(1)})


def test_points_that_are_given_get_the_noise_of_points_that_are_drawn():
    """The score says nothing of how the points came: those that a seed draws score alike when they are given."""
    points = torch.randn(50, 3)
    drawn, clean = (split_points(points, 0.2, seed=0, noise=noise) for noise in (0.5, 0.0))
    assert not torch.isin(drawn.held_out, points).any()
    given = split_points(clean.training, clean.held_out, seed=0, noise=0.5)
    assert torch.equal(given.held_out, drawn.held_out)
    assert torch.equal(given.training, drawn.training)

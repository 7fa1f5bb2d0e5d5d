from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import DiagonalGaussian, NormalizedGaussian, small_stack, some_points
from pyro_pcflow.training import FitResult, point_batches, trainer


def closed_form(training, held_out):
    """Mean log-density of held-out points under the maximum-likelihood diagonal Gaussian."""
    normal = torch.distributions.Normal(training.mean(0), training.std(0, correction=0))
    return normal.log_prob(held_out).sum(-1).mean().item()


class TestMaximumLikelihood:
    def test_a_gaussian_reaches_its_closed_form(self):
        points, held_out = some_points(4000), some_points(1000, seed=6)
        module = DiagonalGaussian()
        result = fit(module, points, held_out=held_out, max_steps=800, batch_size=500, lr=0.05, device="cpu")
        assert result.nats_per_point == pytest.approx(closed_form(points, held_out), abs=3e-3)
        assert module.loc.detach() == pytest.approx(points.mean(0), abs=0.03)
        assert module.log_scale.exp().detach() == pytest.approx(points.std(0), abs=0.03)

    def test_the_result_is_that_of_the_weights_left_in_the_module(self):
        held_out = some_points(300, seed=6)
        module = NormalizedGaussian()
        result = fit(module, some_points(), held_out=held_out, max_steps=30, batch_size=100, device="cpu")
        assert result.nats_per_point == pytest.approx(module.log_prob(held_out).mean().item(), abs=1e-6)
        error = module.log_prob(held_out).std().item() / len(held_out) ** 0.5
        assert result.scores["standard_error"] == pytest.approx(error, rel=1e-5)
        assert f" ± {error:.3f} nats per held-out point" in repr(result)

    def test_the_score_is_no_mean_of_means(self, monkeypatch):
        """Held-out points are scored in parts, of which the last is smaller."""
        monkeypatch.setattr(point_batches, "POINTS_AT_ONCE", 100)
        held_out = some_points(103, seed=6)
        held_out[100:] += 5
        module = NormalizedGaussian()
        result = fit(module, some_points(), held_out=held_out, max_steps=2, device="cpu")
        assert result.nats_per_point == pytest.approx(module.log_prob(held_out).mean().item(), abs=1e-5)

    def test_a_pyro_distribution_is_trained_without_normalisation(self):
        class Wrapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.transform = dist.transforms.affine_coupling(3, hidden_dims=[8])

            def log_prob(self, points):
                base = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
                self.transform.clear_cache()
                return dist.TransformedDistribution(base, [self.transform]).log_prob(points)

        module, points = Wrapped(), some_points()
        before = module.log_prob(points).mean().item()
        result = fit(module, points, max_steps=100, batch_size=200, lr=0.01, device="cpu")
        assert result.nats_per_point > before + 0.5

    @pytest.mark.parametrize("scale", [1e-3, 50.0])
    def test_units_of_the_data_are_units_of_the_density(self, scale):
        scores = []
        for factor in (1.0, scale):
            points = some_points().double() * factor
            result = fit(NormalizedGaussian().double(), points, max_steps=50, batch_size=200, device="cpu")
            scores.append(result.nats_per_point)
        assert scores[1] == pytest.approx(scores[0] - 3 * math.log(scale), abs=1e-6)

    def test_noise_widens_the_density(self):
        # All points on a plane: without noise the density along its normal has no bound.
        points = some_points() * torch.tensor([1.0, 1.0, 0.0])
        module = DiagonalGaussian()
        result = fit(module, points, noise=0.5, max_steps=500, batch_size=500, lr=0.05, device="cpu")
        assert module.log_scale[2].exp().item() == pytest.approx(0.5, rel=0.05)
        widths = (points.var(0) + 0.25).sqrt()
        expected = -(widths.log() + 0.5 * math.log(2 * math.pi) + 0.5).sum().item()
        assert result.nats_per_point == pytest.approx(expected, abs=0.15)

    def test_data_is_flattened_from_clouds_arrays_and_datasets(self):
        points = some_points(600)

        class Clouds(Dataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                return points.reshape(3, 200, 3)[index].numpy()

        fixed = points.numpy().copy()
        fixed.flags.writeable = False
        forms = [points, points.reshape(3, 200, 3), points.double(), fixed, Clouds(), TensorDataset(points)]
        scores = {fit(DiagonalGaussian(), form, max_steps=5, device="cpu").nats_per_point for form in forms}
        assert len(scores) == 1

    def test_a_real_flow_is_fitted_and_normalised_by_training_points_only(self):
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(point_dim=3, num_couplings=4, hidden_dims=[16])
        points = some_points() * 100 + 1000
        held_out = torch.full((10, 3), 1e4)
        fit(flow, points, held_out=held_out, max_steps=2, device="cpu")
        assert flow.normalized
        assert flow.units.loc.tolist() == pytest.approx(points.mean(0).tolist(), rel=1e-5)

    def test_a_normalised_module_keeps_its_units(self):
        module = NormalizedGaussian()
        module.normalize(torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]))
        fit(module, some_points(), max_steps=2, device="cpu")
        assert module.mean.tolist() == [1.0, 1.0, 1.0]


class TestSettings:
    def test_max_seconds_ends_training(self, monkeypatch):
        """By a clock that each step moves on by a second, so that the rate of every step is known."""
        clock = SimpleNamespace(now=1000.0)

        def tick(call):
            clock.now += 1.0

        monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        options = {"max_seconds": 8.0, "warmup_steps": 0, "log_every": 1, "device": "cpu"}
        result = fit(small_stack(before_step=tick), some_points(), **options)
        assert (result.steps, result.seconds) == (8, 8.0)
        # The clock is read when the gradient is there.
        expected = [3e-3 * 0.5 * (1 + math.cos(math.pi * second / 8)) for second in range(1, 9)]
        assert [line["lr"] for line in result.history] == pytest.approx(expected, abs=1e-12)

    def test_a_module_may_say_which_rate_suits_it(self):
        """Unless one is given; the cautious one is for modules that do not say."""
        options = {"warmup_steps": 0, "max_steps": 1, "log_every": 1, "device": "cpu"}
        module = small_stack()
        assert fit(module, some_points(), **options).history[0]["lr"] == 3e-3
        module.learning_rate = 0.02
        assert fit(module, some_points(), **options).history[0]["lr"] == 0.02
        assert fit(module, some_points(), lr=0.001, **options).history[0]["lr"] == 0.001
        flow = pcf.PointCloudFlow(3, num_couplings=1, hidden_dims=[4])
        assert fit(flow, some_points(), **options).history[0]["lr"] == 0.01

    def test_the_rate_rises_over_the_first_steps(self):
        options = {"lr": 0.01, "warmup_steps": 4, "max_steps": 8, "log_every": 1, "device": "cpu"}
        rates = [line["lr"] for line in fit(small_stack(), some_points(), **options).history]
        cosine = [0.005 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
        assert rates == pytest.approx([min(1, (step + 1) / 4) * cosine[step] for step in range(8)], abs=1e-12)

    def test_the_average_keeps_the_share_that_was_asked_for(self):
        weights = []
        for decay in (0.0, 0.5, 0.9):
            module = small_stack()
            fit(module, some_points(), max_steps=20, batch_size=64, ema_decay=decay, device="cpu")
            weights.append(module.layers[0].network[0].weight.detach())
        assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 3

    def test_the_same_seed_repeats_and_another_does_not(self):
        weights = []
        for seed in (1, 1, 2):
            module = small_stack()
            fit(module, some_points(), max_steps=20, batch_size=64, noise=0.1, seed=seed, device="cpu")
            weights.append(module.layers[0].network[0].weight.detach())
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_the_seed_decides_the_noise(self):
        """Of a single point, so that no order of batches could make the difference."""
        found = []
        for seed in (1, 1, 2):
            module = DiagonalGaussian()
            fit(module, torch.zeros(1, 3), held_out=0, noise=0.5, max_steps=5, seed=seed, device="cpu")
            found.append(module.log_scale.detach().clone())
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])

    def test_how_often_it_evaluates_logs_and_saves_changes_no_bit(self, tmp_path):
        weights = []
        for number, every in enumerate((1, 7)):
            module = small_stack()
            options = {
                "log_every": every,
                "eval_every": every,
                "checkpoint_every": every,
                "out": tmp_path / str(number),
            }
            fit(module, some_points(), max_steps=20, batch_size=64, noise=0.1, device="cpu", **options)
            weights.append(module.layers[2].network[3].weight.detach())
        assert torch.equal(*weights)

    def test_gradients_are_clipped(self):
        # Adam is blind to the gradient's scale, but for its epsilon: far below it, nothing moves.
        module = DiagonalGaussian()
        fit(module, some_points(), max_steps=20, grad_clip=1e-14, ema_decay=0, device="cpu")
        assert module.loc.abs().max() < 1e-4

    def test_gradients_are_clipped_to_the_norm_that_is_asked_for(self, monkeypatch):
        steps, step = [], torch.optim.AdamW.step

        def noting(self, closure=None):
            steps.append(self.param_groups[0]["params"][0].grad.clone())
            return step(self, closure)

        monkeypatch.setattr(torch.optim.AdamW, "step", noting)
        last = []
        for clip in (math.inf, 0.5, 1e9):
            fit(DiagonalGaussian(), some_points(), max_steps=1, grad_clip=clip, device="cpu")
            # A step of the warm-up, of a copy, may come before the training's own.
            last.append(steps[-1])
        free, clipped, loose = last
        assert free.norm() > 1
        torch.testing.assert_close(clipped, free * (0.5 / free.norm()))
        assert torch.equal(loose, free)

    def test_it_is_evaluated_without_dropout(self):
        held_out = some_points(300, seed=6)
        module = small_stack(tracks=False)
        result = fit(module, some_points(), held_out=held_out, max_steps=9, device="cpu")
        assert result.nats_per_point == pytest.approx(module.eval().log_prob(held_out).mean().item(), abs=1e-5)
        assert module.train().log_prob(held_out).mean().item() != pytest.approx(result.nats_per_point, abs=1e-3)

    def test_the_average_of_one_step_is_that_step(self):
        weights = []
        for decay in (0.999, 0.0):
            module = DiagonalGaussian()
            fit(module, some_points(), max_steps=1, lr=0.1, warmup_steps=0, ema_decay=decay, device="cpu")
            weights.append(module.loc.detach().clone())
        assert weights[0].abs().min() > 0.01
        assert torch.equal(*weights)

    def test_weights_without_a_gradient_stay(self):
        module = small_stack()
        frozen = module.layers[0].network[0].weight.requires_grad_(False)
        module.unused = nn.Parameter(torch.ones(2))
        before = frozen.clone()
        fit(module, some_points(), max_steps=5, device="cpu")
        assert torch.equal(frozen, before)
        assert module.unused.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "max_steps, max_seconds"),
            ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
            ({"max_seconds": -1}, "max_seconds must be positive"),
            ({"max_steps": 1, "batch_size": 0}, "batch_size must be at least 1"),
            ({"max_steps": 1, "lr": math.nan}, "lr must be positive and finite"),
            ({"max_steps": 1, "noise": -0.1}, "noise must be"),
            ({"max_steps": 1, "ema_decay": 1.0}, "ema_decay must be"),
            ({"max_steps": 1, "grad_clip": 0}, "grad_clip must be positive"),
            ({"max_steps": 1, "seed": -1}, "seed must be"),
            ({"max_steps": 1, "log_every": 0}, "log_every must be at least 1"),
            ({"max_steps": 1, "held_out": 1.0}, "held_out must be"),
            ({"max_steps": 1, "held_out": 1e-9}, "leaves 2000 to train on and 0"),
            ({"max_steps": 1, "resume": True}, "give out"),
            ({"max_steps": 1, "device": "gpu"}, "unknown device 'gpu'"),
            ({"max_steps": 1, "device": "meta"}, "cannot train on device 'meta'"),
            ({"max_steps": 1, "device": "cuda:99"}, "torch sees"),
        ],
    )
    def test_bad_settings_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            fit(DiagonalGaussian(), some_points(), **{"device": "cpu", **options})

    def test_a_number_of_steps_is_an_integer(self):
        with pytest.raises(TypeError, match="integer"):
            fit(DiagonalGaussian(), some_points(), max_steps=1.5)


class TestData:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (torch.zeros(3), r"expected shape \(N, D\) or \(S, N, D\), got \(3,\)"),
            (torch.zeros(1, 2, 3, 3), "expected shape"),
            (torch.zeros(0, 3), "at least one point"),
            (torch.zeros(10, 2), "2 coordinates .* expects 3"),
            (TensorDataset(torch.zeros(0, 3)), "at least one point"),
            (TensorDataset(torch.zeros(4, 3), torch.zeros(4)), "data, contexts: expected"),
        ],
    )
    def test_wrong_shapes(self, data, message):
        with pytest.raises((TypeError, ValueError), match=message):
            fit(DiagonalGaussian(), data, max_steps=1, device="cpu")

    @pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39])
    def test_values_that_are_not_finite_are_counted_and_found(self, bad):
        clouds = some_points(60).double().reshape(2, 30, 3)
        clouds[1, 7, 2] = clouds[1, 9, 0] = bad
        with pytest.raises(ValueError, match=r"2 of 60 points are NaN or infinite.* first at index \(1, 7\)"):
            fit(DiagonalGaussian(), clouds, max_steps=1, device="cpu")

    def test_held_out_points_are_checked_too(self):
        with pytest.raises(ValueError, match="held_out: 1 of 5 points"):
            fit(DiagonalGaussian(), some_points(), held_out=np.full((5, 3), [[0]] * 4 + [[np.nan]]), max_steps=1)

    @pytest.mark.parametrize("data", ["points.npy", [["a", "b", "c"]], torch.zeros(4, 3, dtype=torch.complex64)])
    def test_data_that_is_not_numbers(self, data):
        with pytest.raises(TypeError, match="data: expected"):
            fit(DiagonalGaussian(), data, max_steps=1, device="cpu")

    def test_modules_that_cannot_be_trained(self):
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
            fit(dist.Normal(0, 1), some_points(), max_steps=1)
        with pytest.raises(TypeError, match="no log_prob"):
            fit(nn.Linear(3, 1), some_points(), max_steps=1)
        with pytest.raises(ValueError, match="needs contexts"):
            fit(pcf.PointCloudFlow(context_dim=4, num_couplings=1), some_points(), max_steps=1)
        with pytest.raises(ValueError, match="nothing to train"):
            fit(DiagonalGaussian().requires_grad_(False), some_points(), max_steps=1)

    def test_a_log_prob_of_a_wrong_shape_is_not_averaged_silently(self):
        module = DiagonalGaussian()
        log_prob = module.log_prob
        module.log_prob = lambda points: log_prob(points).unsqueeze(-1)
        with pytest.raises(ValueError, match="one log-density for each point"):
            fit(module, some_points(), max_steps=1, device="cpu")


class TestNothingElseChanges:
    def test_the_callers_random_numbers_modes_and_gradients(self):
        module = small_stack()
        module.eval()
        module.layers[1].train()
        weight = module.layers[0].network[0].weight
        memory = weight.data_ptr()
        weight.grad = gradient = torch.ones_like(weight)
        points = some_points()
        kept = points.clone()
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        with torch.no_grad():
            fit(module, points, max_steps=10, noise=0.1, device="cpu")
            assert not torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads
        assert [layer.training for layer in (module, *module.layers)] == [False, False, True, False]
        assert weight.grad is gradient
        assert module.layers[0].network[0].weight is weight
        assert weight.data_ptr() == memory
        assert torch.equal(points, kept)

    def test_it_trains_under_inference_mode_and_keeps_the_data_type(self):
        module = DiagonalGaussian().double()
        with torch.inference_mode():
            fit(module, some_points(), max_steps=5, device="cpu")
        assert module.loc.dtype == torch.float64
        assert module.loc.abs().min() > 0

    def test_an_error_of_the_module_leaves_it_usable(self):
        def fail(call):
            if call == 4:
                raise OSError("no more")

        module = small_stack(before_step=fail).eval()
        state = torch.get_rng_state()
        with pytest.raises(OSError, match="no more"):
            fit(module, some_points(), max_steps=10, noise=0.1, device="cpu")
        assert torch.equal(torch.get_rng_state(), state)
        assert not module.training
        assert all(parameter.grad is None for parameter in module.parameters())


class TestResult:
    def test_it_reads_well(self):
        result = FitResult(1200, 12.34, 2.0131, [], None, "cpu")
        assert repr(result) == "FitResult(1200 steps in 12.3 s on cpu: 2.013 nats per held-out point)"
        with pytest.raises(AttributeError):
            result.steps = 3

    def test_without_held_out_points_there_is_no_score(self):
        result = fit(DiagonalGaussian(), some_points(), held_out=0, max_steps=3, device="cpu")
        assert result.nats_per_point is None
        assert "nats_per_point" not in result.history[-1]

    def test_history(self):
        result = fit(DiagonalGaussian(), some_points(), max_steps=25, log_every=10, eval_every=20, device="cpu")
        assert [line["step"] for line in result.history] == [10, 20, 25]
        assert ["nats_per_point" in line for line in result.history] == [False, True, True]
        assert result.history[-1]["nats_per_point"] == result.nats_per_point

    def test_logged_loss_is_the_mean_since_the_last_line(self):
        fine = fit(DiagonalGaussian(), some_points(), max_steps=20, log_every=1, device="cpu").history
        coarse = fit(DiagonalGaussian(), some_points(), max_steps=20, log_every=10, device="cpu").history
        for key in ("loss", "grad_norm"):
            means = [np.mean([line[key] for line in fine[part]]) for part in (slice(0, 10), slice(10, 20))]
            assert [line[key] for line in coarse] == pytest.approx(means, rel=1e-6)

    def test_a_bar_shows_what_matters(self, capsys):
        fit(DiagonalGaussian(), some_points(), max_steps=20, device="cpu", progress=True)
        shown = capsys.readouterr()
        assert "100%" in shown.err
        for word in ("loss", "held-out", "nats per point", "points/s"):
            assert word in shown.err
        assert shown.out == ""
        fit(DiagonalGaussian(), some_points(), max_steps=20, device="cpu")
        assert capsys.readouterr().err == ""


def test_the_loop_itself_costs_little(monkeypatch):
    # Counted, not timed: on a busy machine only the number of calls can be relied upon.
    calls = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: calls.append(1) or original(self))
    fit(DiagonalGaussian(), some_points(), max_steps=50, log_every=1000, eval_every=1000, device="cpu")
    assert len(calls) == 50, "one wait for the device in each step"

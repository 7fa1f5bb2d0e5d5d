"""Training on coordinates that float32 would round: with an origin, it is that of the same points about zero."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.small_vae import DECODER, ENCODER, PRIOR
from pyro_pcflow.data import MappedClouds
from pyro_pcflow.plotting import plot_clouds
from pyro_pcflow.plotting.camera import project
from pyro_pcflow.training import ExactLikelihood

MAP = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)
SHORT = {"max_steps": 20, "batch_size": 200, "device": "cpu"}


def cube(*shape, seed=0, size=1.0):
    return size * (torch.rand(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5)


def make_flow(context_dim=0, **options):
    torch.manual_seed(0)
    return pcf.PointCloudFlow(3, context_dim, num_couplings=2, hidden_dims=[16], **options)


def small_vae():
    torch.manual_seed(0)
    return pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=ENCODER, prior_options=PRIOR)


class Plain(nn.Module):
    """A density that knows of no origin."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))

    def log_prob(self, points):
        return dist.Normal(self.loc, 1.0).to_event(1).log_prob(points)


def objective_of(module, data, **options):
    return ExactLikelihood(module, data, **options)


class TestFit:
    @pytest.mark.parametrize("noise", [0.0, 0.02, "auto"])
    @pytest.mark.parametrize("options", [{}, {"base": "mixture", "num_components": 16}], ids=["normal", "mixture"])
    def test_it_is_the_training_of_the_same_points_about_zero(self, options, noise):
        results = []
        for shift in (MAP, 0.0):
            points = shift + cube(3000).float().double()
            flow = make_flow(**options)
            results.append((fit(flow, points, noise=noise, **SHORT), flow))
        (far, far_flow), (near, near_flow) = results
        assert far.nats_per_point == pytest.approx(near.nats_per_point, abs=1e-3)
        assert far.noise == pytest.approx(near.noise, rel=1e-6)
        for one, other in zip(far_flow.parameters(), near_flow.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
        assert far_flow.origin.tolist() == MAP.tolist()
        assert near_flow.origin is None
        assert near_flow.data_dtype == torch.float32

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("options", [{}, {"num_couplings": 4, "hidden_dims": [32]}], ids=["default", "affine"])
    def test_so_is_a_long_one(self, options):
        scores = []
        for shift in (MAP, 0.0):
            torch.manual_seed(0)
            result = fit(pcf.PointCloudFlow(3, **options), shift + cube(20_000), max_steps=1000, device="cpu")
            scores.append(result.nats_per_point)
        assert scores[0] == pytest.approx(scores[1], abs=0.02)

    def test_every_form_of_points(self, tmp_path):
        points = MAP + cube(600)
        forms = [
            points,
            points.numpy(),
            points.reshape(3, 200, 3),
            TensorDataset(points),
            TensorDataset(points.reshape(3, 200, 3)),
        ]
        scores = {fit(make_flow(), form, **SHORT).nats_per_point for form in forms}
        assert len(scores) == 1

    def test_whole_numbers_beyond_float32(self):
        points = (100 * cube(2000)).round().long()
        scores = [fit(make_flow(), shift + points, noise=0.3, **SHORT).nats_per_point for shift in (2**40, 0)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)
        assert make_flow_on(2**40 + points).origin is not None
        with pytest.raises(ValueError, match=r"data: whole numbers of 2\*\*53 or more"):
            fit(make_flow(), points + 2**60, **SHORT)

    def test_it_is_said_once(self, caplog):
        flow = make_flow()
        with caplog.at_level(logging.WARNING):
            fit(flow, MAP + cube(1000), noise=0.01, **SHORT)
            fit(flow, MAP + cube(1000), noise=0.01, **SHORT)
        said = [record.getMessage() for record in caplog.records if "origin" in record.getMessage()]
        assert said == ["an origin of (701362, 4485513, 40) is subtracted from the points, in float64"]
        assert flow.origin.tolist() == MAP.tolist()

    def test_held_out_points(self):
        flow, points = make_flow(), MAP + cube(1000)
        result = fit(flow, points, held_out=MAP + cube(300, seed=1), **SHORT)
        expected = flow.requires_grad_(False).log_prob(MAP + cube(300, seed=1)).mean()
        assert result.nats_per_point == pytest.approx(float(expected), abs=1e-4)
        with pytest.raises(ValueError, match=r"held_out: points in torch.float32 for a flow that subtracts an origin"):
            fit(make_flow(), points, held_out=(MAP + cube(300)).float(), **SHORT)
        with pytest.raises(ValueError, match=r"held_out: .*subtract an origin first"):
            fit(make_flow(), cube(1000), held_out=points, **SHORT)

    def test_clouds_with_contexts(self, tmp_path):
        clouds, contexts = cube(8, 200).float().double(), torch.randn(8, 2)
        scores = []
        for shift in (MAP, 0.0):
            for form in (shift + clouds, list(shift + clouds)):
                flow = make_flow(2)
                scores.append(fit(flow, (form, contexts), noise=0.01, **SHORT).nats_per_point)
                assert flow.data_dtype == (torch.float32 if shift is not MAP else torch.float64)
        assert scores == pytest.approx([scores[0]] * 4, abs=1e-3)

    def test_noise_is_drawn_as_for_the_same_points_about_zero(self):
        drawn = []
        for shift in (MAP, 0.0):
            points = shift + cube(500).float().double()
            objective = objective_of(make_flow(), points, noise=0.1, held_out=points, batch_size=50)
            objective.module.normalize(objective.points_for_units())
            torch.manual_seed(0)
            batch = objective.batch(0).points
            drawn.append((batch.double() - shift, objective.held_out[0].points.double() - shift))
            assert batch.dtype == objective.module.data_dtype
        for one, other in zip(*drawn, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

    def test_float32_is_kept_as_it_is(self):
        points = cube(500).float()
        objective = objective_of(make_flow(), points, held_out=0)
        assert objective.points_for_units().data_ptr() == points.data_ptr()

    def test_a_flow_in_float64_needs_none(self):
        flow = make_flow().double()
        result = fit(flow, MAP + cube(1000), **SHORT)
        assert flow.origin is None
        expected = fit(make_flow(), MAP + cube(1000), **SHORT).nats_per_point
        assert result.nats_per_point == pytest.approx(expected, abs=1e-2)


def make_flow_on(points):
    flow = make_flow()
    flow.normalize(points)
    return flow


class TestRefused:
    def test_a_density_without_an_origin(self):
        with pytest.raises(ValueError, match=r"data: .*float32 would round.* subtract an origin first"):
            fit(Plain(), MAP + cube(500), **SHORT)
        fit(Plain(), cube(500), **SHORT)
        fit(Plain().double(), MAP + cube(500), **SHORT)

    def test_a_trained_flow_without_an_origin(self):
        flow = make_flow()
        fit(flow, cube(500), **SHORT)
        with pytest.raises(ValueError, match="subtract an origin first"):
            fit(flow, MAP + cube(500), **SHORT)

    def test_float32_points_of_a_trained_flow_with_one(self):
        flow = make_flow_on(MAP + cube(500))
        with pytest.raises(ValueError, match=r"data: points in torch.float32 for a flow that subtracts an origin"):
            fit(flow, (MAP + cube(500)).float(), **SHORT)

    def test_models_of_clouds(self):
        clouds = MAP + cube(6, 60)
        options = {"max_steps": 1, "batch_size": 2, "device": "cpu", "noise": 0.01}
        with pytest.raises(ValueError, match=r"data: .*subtract an origin first"):
            fit(small_vae(), clouds, **options)
        with pytest.raises(ValueError, match=r"held_out: .*subtract an origin first"):
            fit(small_vae(), cube(6, 60), held_out=clouds, **options)
        with pytest.raises(ValueError, match=r"points: .*subtract an origin first"):
            small_vae().normalize(clouds)
        vae = small_vae()
        fit(vae, cube(6, 60), **options)
        assert vae.units.origin is None
        # Of one cloud alone they would be as far apart as float32 needs.
        vae.normalize(700 + cube(20, 200))
        assert vae.units.origin is vae.decoder.origin is None

    def test_a_completer(self):
        completer = pcf.infer.Completer(small_vae())
        with pytest.raises(ValueError, match=r"points: .*subtract an origin first"):
            completer.normalize(MAP + cube(6, 60))


class TestOtherUnits:
    """A trained flow and points that its units were not made for."""

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda points: points + 20, r"lies 1\d+ of its standard deviations from its centre"),
            (lambda points: points * 50, r"standard deviation is 50 of its own"),
            (lambda points: points / 50, r"standard deviation is 0\.02 of its own"),
        ],
    )
    @pytest.mark.parametrize("shift", [0.0, MAP], ids=["zero", "map"])
    def test_they_are_warned_of(self, change, words, shift):
        flow = make_flow()
        fit(flow, shift + cube(1000), **SHORT)
        fit(flow, shift + 2 * cube(1000) + 1, **SHORT)
        with pytest.warns(UserWarning, match=words):
            fit(flow, shift + change(cube(1000)), **SHORT)

    def test_models_of_clouds_are_warned_as_well(self):
        vae = small_vae()
        options = {"max_steps": 1, "batch_size": 2, "device": "cpu", "noise": 0.01}
        fit(vae, cube(6, 60), **options)
        with pytest.warns(UserWarning, match="units of other points"):
            fit(vae, 100 + cube(6, 60), **options)


class TestRuns:
    def test_to_a_millimetre_through_files(self, tmp_path):
        """Fitted, saved and loaded, what is sampled and scored is what it was."""
        flow, points = make_flow(base="mixture", num_components=16), MAP + cube(3000)
        fit(flow, points, noise=0.01, out=tmp_path / "run", pictures=False, **SHORT)
        again = pcf.load(tmp_path / "run" / "model.pt")
        assert again.origin.tolist() == MAP.tolist()
        assert again.origin.dtype == torch.float64
        assert torch.equal(again.log_prob(points), flow.log_prob(points))
        for one in (again, copy.deepcopy(again).float()):
            torch.manual_seed(3)
            expected = flow.sample(1, 100)
            torch.manual_seed(3)
            assert float((one.sample(1, 100) - expected).abs().max()) < 1e-3
        noise, _ = again.requires_grad_(False).transform.inverse_and_log_det(points)
        assert float((again.transform(noise) - points).abs().max()) < 1e-3

    def test_a_run_that_is_resumed_keeps_the_origin(self, tmp_path):
        points = MAP + cube(1000)
        whole, half, rest = make_flow(), make_flow(), make_flow()
        options = {**SHORT, "noise": 0.01, "pictures": False}
        fit(whole, points, out=tmp_path / "whole", **options)
        fit(half, points, out=tmp_path / "run", **{**options, "max_steps": 10})
        fit(rest, points, out=tmp_path / "run", resume=True, **options)
        assert rest.origin.tolist() == whole.origin.tolist()
        assert torch.isfinite(rest.log_prob(points)).all()
        state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["module"]
        assert [v["origin"] for v in state.values() if isinstance(v, dict) and "origin" in v] == [MAP.tolist()]

    def test_pictures(self):
        """A millionth of the coordinates is a shape."""
        flow = make_flow_on(MAP + cube(500))
        states = flow.trajectory(300)
        frames = [project(points, up="z") for points in (states, states - MAP)]
        assert np.abs(frames[0] - frames[0].mean((0, 1)) - frames[1] + frames[1].mean((0, 1))).max() < 1e-6
        assert len(plot_clouds(states[-1], size=1.0).axes) > 0

    def test_a_file_of_clouds(self, tmp_path):
        path = pcf.data.save_clouds(cube(8, 200).float(), tmp_path / "a.npy")
        result = fit(make_flow(2), (MappedClouds(path), torch.randn(8, 2)), noise=0.01, **SHORT)
        assert result.nats_per_point is not None

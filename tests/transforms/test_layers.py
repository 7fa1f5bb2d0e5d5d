"""What each layer does, and what of it `coupling_stack` is asked for."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.testing import randomize_parameters

T = pcf.transforms
SMALL = {"hidden_dims": [4]}


class TestStack:
    @pytest.mark.parametrize(
        ("num_couplings", "options", "limit"),
        [
            (4, {}, 1.0),
            (24, {}, 0.5),
            (4, {"max_total_log_scale": 1.0}, 0.25),
            (4, {"max_log_scale": 0.1}, 0.1),
            (4, {"max_log_scale": 9.0}, 3.0),
        ],
    )
    def test_the_log_scales_of_all_layers_are_bounded_together(self, num_couplings, options, limit):
        stack = T.coupling_stack(3, num_couplings=num_couplings, **SMALL, **options)
        assert [part.elementwise.max_log_scale for part in stack.parts] == pytest.approx([limit] * num_couplings)

    @pytest.mark.parametrize("context_dim", [0, 2])
    def test_no_weights_scale_a_coordinate_beyond_the_bound(self, context_dim):
        stack = T.coupling_stack(
            2, num_couplings=40, context_dim=context_dim, max_total_log_scale=3.0, **SMALL
        ).double()
        randomize_parameters(stack, 30.0)
        view = stack.condition(torch.randn(2).double()) if context_dim else stack
        log_det = view.transform_and_log_det(torch.randn(200, 2).double())[1]
        assert log_det.abs().max() < 3.0
        assert log_det.abs().max() > 0.05

    def test_what_lies_between_the_couplings(self):
        stack = T.coupling_stack(3, num_couplings=3, lu_linear=True, act_norm=True, max_total_log_scale=0.6, **SMALL)
        kinds = [type(part).__name__ for part in stack.parts]
        step = ["PointCoupling", "LULinear", "ActNorm"]
        assert kinds == [*step, *step, "PointCoupling", "ActNorm"]
        limits = [getattr(part, "elementwise", part).max_log_scale for part in stack.parts]
        assert limits == pytest.approx([0.2] * 8)

    def test_options_reach_every_coupling(self):
        options = {
            "conditioning": "film",
            "context_dims": [5],
            "context_layers": [0],
            "residual": True,
            "activation": "tanh",
            "num_frequencies": 2,
        }
        stack = T.coupling_stack(3, num_couplings=3, context_dim=2, hidden_dims=[6, 6], **options)
        for part in stack.parts:
            assert {name: getattr(part.conditioner, name) for name in options} == options
        separate = T.coupling_stack(3, num_couplings=2, separate_networks=True, **SMALL)
        assert all(len(part.conditioner.networks) == 2 for part in separate.parts)
        assert T.coupling_stack(3, num_couplings=2, backend="plain", **SMALL).backend == "plain"
        additive = T.coupling_stack(3, num_couplings=2, coupling="additive", **SMALL)
        assert all(type(part.elementwise) is T.Additive for part in additive.parts)

    def test_masks_take_turns(self):
        masks = [[True, False, False], [False, True, True]]
        stack = T.coupling_stack(3, num_couplings=5, masks=masks, **SMALL)
        assert [list(part.mask) for part in stack.parts] == [masks[i % 2] for i in range(5)]

    def test_a_trajectory_is_every_state_on_the_way(self):
        stack = randomize_parameters(
            T.coupling_stack(3, num_couplings=4, context_dim=2, lu_linear=True, **SMALL)
        ).double()
        x, context = torch.randn(5, 3).double(), torch.randn(5, 2).double()
        states = stack.trajectory(x, context)
        assert states.shape == (8, 5, 3)
        torch.testing.assert_close(states[0], x)
        torch.testing.assert_close(states[-1], stack.condition(context)(x))
        assert ((states[1:] - states[:-1]).abs().amax((1, 2)) > 1e-3).all()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"context_dim": -1}, "context_dim must not be negative"),
            ({"num_couplings": 0}, "num_couplings must be at least 1"),
            ({"max_log_scale": 0.0}, "must be positive"),
            ({"max_total_log_scale": -1.0}, "must be positive"),
            ({"masks": []}, "at least one mask"),
            ({"masks": "none"}, "masks must be one of"),
            ({"backend": "fast"}, "backend"),
        ],
    )
    def test_wrong_options(self, options, words):
        with pytest.raises(ValueError, match=words):
            T.coupling_stack(3, **SMALL, **options)

    def test_parts_must_fit_each_other(self):
        with pytest.raises(ValueError, match="share point_dim"):
            T.CouplingStack([T.lu_linear(3), T.lu_linear(2)])
        with pytest.raises(ValueError, match="context_dim=4"):
            T.ConditionalCouplingStack([T.conditional_affine_point_coupling(3, 4, **SMALL)], 5)
        with pytest.raises(TypeError, match="must be a point transform"):
            T.CouplingStack([T.conditional_affine_point_coupling(3, 4, **SMALL)])


class TestActNorm:
    def test_the_first_data_alone_set_it(self):
        norm, data = T.act_norm(3).double(), 5 + torch.tensor([0.1, 1.0, 20.0]) * torch.randn(100, 3)
        data = data.double()
        noise = norm.inv(data)
        assert noise.mean(0).abs().max() < 1e-9
        torch.testing.assert_close(noise.std(0, correction=0), torch.ones(3).double())
        norm.inv(100 * data)
        torch.testing.assert_close(norm.inv(data.clone()), noise)

    def test_a_loaded_one_is_not_set_again(self):
        norm, twin = T.act_norm(2), T.act_norm(2)
        norm.inv(5 + torch.randn(50, 2))
        twin.load_state_dict(norm.state_dict())
        assert twin.initialized
        other = torch.randn(30, 2)
        torch.testing.assert_close(twin.inv(other), norm.inv(other.clone()))

    def test_weights_that_samples_trained_are_not_overwritten(self):
        norm = T.act_norm(2)
        with torch.no_grad():
            norm.loc[0] = 3.0
        norm.inv(torch.randn(50, 2))
        assert norm.loc.tolist() == [3.0, 0.0]
        assert norm.initialized

    def test_a_scale_beyond_the_bound_is_set_to_the_bound(self):
        norm = T.act_norm(1, max_log_scale=2.0).double()
        norm.initialize(1e6 * torch.randn(100, 1))
        assert 1.5 < norm.log_scale.item() < 2.0

    @pytest.mark.parametrize("data", [torch.ones(1, 2), torch.tensor([[1.0, math.nan], [0.0, 0.0]])])
    def test_it_needs_two_finite_points(self, data):
        with pytest.raises(ValueError, match="at least 2 finite points"):
            T.act_norm(2).inv(data)


class TestLULinear:
    def test_it_is_its_matrix(self):
        mixing = randomize_parameters(T.lu_linear(3, permutation=[2, 0, 1]).double())
        matrix = mixing.transform_and_log_det(torch.eye(3).double())[0].mT
        lower, upper = mixing._factors(mixing.log_diagonal)
        torch.testing.assert_close(matrix, (lower @ upper)[[2, 0, 1]])
        torch.testing.assert_close(lower.diagonal(), torch.ones(3).double())
        assert upper.tril(-1).abs().max() == 0
        x = torch.randn(4, 3).double()
        y, log_det = mixing.transform_and_log_det(x)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix)[1].expand(4))
        torch.testing.assert_close(mixing.inverse_and_log_det(y)[0], x)

    def test_its_diagonal_is_bounded(self):
        mixing = T.lu_linear(3, max_log_scale=0.5)
        with torch.no_grad():
            mixing.raw_log_diagonal.fill_(1e3)
        assert mixing.log_diagonal.max() <= 0.5

    @pytest.mark.parametrize("permutation", [[0, 1], [0, 0, 1], [1, 2, 3]])
    def test_a_wrong_permutation(self, permutation):
        with pytest.raises(ValueError, match="a permutation of 0 to 2"):
            T.lu_linear(3, permutation=permutation)


class TestStandardize:
    def test_one_scale_and_a_shift_for_each_coordinate(self):
        data = torch.tensor([3.0, -2.0]) + torch.tensor([1.0, 5.0]) * torch.randn(1000, 2)
        units = T.standardize(2)
        assert not units.fitted
        units.fit(data)
        torch.testing.assert_close(units.loc, data.mean(0))
        torch.testing.assert_close(units.scale, (data - data.mean(0)).square().mean().sqrt())
        noise, log_det = units.inverse_and_log_det(data)
        torch.testing.assert_close(noise * units.scale + units.loc, data)
        torch.testing.assert_close(log_det, -2 * units.scale.log().expand(1000))
        twin = T.standardize(2)
        twin.load_state_dict(units.state_dict())
        assert twin.fitted

    @pytest.mark.parametrize("data", [torch.ones(5, 2), torch.full((5, 2), math.inf)])
    def test_points_without_units(self, data):
        units = T.standardize(2)
        with pytest.raises(ValueError, match="cannot take units from 5 points"):
            units.fit(data)
        assert not units.fitted
        assert units.scale == 1


def test_points_and_contexts_that_do_not_fit():
    view = T.conditional_affine_point_coupling(3, 4, **SMALL).condition(torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"context\.unsqueeze\(-2\)"):
        view(torch.randn(5, 100, 3))
    with pytest.raises(ValueError, match=r"shape \(\*batch, 3\)"):
        view(torch.randn(5, 2))
    with pytest.raises(TypeError, match=r"context as a torch\.Tensor"):
        view.transform.condition([1.0] * 4)

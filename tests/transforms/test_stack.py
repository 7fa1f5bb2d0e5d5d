"""Many couplings as one transform."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.testing import randomize_parameters

T = pcf.transforms
SMALL = {"hidden_dims": [4]}


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
def test_the_log_scales_of_all_layers_are_bounded_together(num_couplings, options, limit):
    stack = T.coupling_stack(3, num_couplings=num_couplings, **SMALL, **options)
    assert [part.elementwise.max_log_scale for part in stack.parts] == pytest.approx([limit] * num_couplings)


@pytest.mark.parametrize("coupling", ["spline", "cubic"])
def test_the_affine_part_of_a_bend_counts(coupling):
    stack = T.coupling_stack(3, num_couplings=24, coupling=coupling, **SMALL)
    assert [part.elementwise.config["max_log_scale"] for part in stack.parts] == [0.5] * 24


@pytest.mark.parametrize("coupling", ["affine", "spline", "cubic"])
def test_a_stack_is_a_density(coupling):
    """Its integral over the plane is 1, by the midpoint rule."""
    torch.manual_seed(0)
    stack = T.coupling_stack(2, num_couplings=4, hidden_dims=[8], coupling=coupling).double()
    randomize_parameters(stack, 0.2)
    ticks = torch.linspace(-10, 10, 401).double()
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1)
    with torch.no_grad():
        noise, log_det = stack.inverse_and_log_det(points)
    density = (torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1) + log_det).exp()
    assert density.amax() > 0.2  # that of the noise is 0.16
    assert abs(density.sum().item() * 0.05**2 - 1) < 1e-3


@pytest.mark.parametrize("context_dim", [0, 2])
def test_no_weights_scale_a_coordinate_beyond_the_bound(context_dim):
    stack = T.coupling_stack(2, num_couplings=40, context_dim=context_dim, max_total_log_scale=3.0, **SMALL).double()
    randomize_parameters(stack, 30.0)
    view = stack.condition(torch.randn(2).double()) if context_dim else stack
    log_det = view.transform_and_log_det(torch.randn(200, 2).double())[1]
    assert log_det.abs().max() < 3.0
    assert log_det.abs().max() > 0.05


def test_what_lies_between_the_couplings():
    stack = T.coupling_stack(3, num_couplings=3, lu_linear=True, act_norm=True, max_total_log_scale=0.6, **SMALL)
    kinds = [type(part).__name__ for part in stack.parts]
    step = ["PointCoupling", "LULinear", "ActNorm"]
    assert kinds == [*step, *step, "PointCoupling", "ActNorm"]
    limits = [getattr(part, "elementwise", part).max_log_scale for part in stack.parts]
    assert limits == pytest.approx([0.2] * 8)


def test_options_reach_every_coupling():
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


def test_masks_take_turns():
    masks = [[True, False, False], [False, True, True]]
    stack = T.coupling_stack(3, num_couplings=5, masks=masks, **SMALL)
    assert [list(part.mask) for part in stack.parts] == [masks[i % 2] for i in range(5)]


def test_a_trajectory_is_every_state_on_the_way():
    stack = randomize_parameters(T.coupling_stack(3, num_couplings=4, context_dim=2, lu_linear=True, **SMALL)).double()
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
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        T.coupling_stack(3, **SMALL, **options)


def test_parts_must_fit_each_other():
    with pytest.raises(ValueError, match="share point_dim"):
        T.CouplingStack([T.lu_linear(3), T.lu_linear(2)])
    with pytest.raises(ValueError, match="context_dim=4"):
        T.ConditionalCouplingStack([T.conditional_affine_point_coupling(3, 4, **SMALL)], 5)
    with pytest.raises(TypeError, match="must be a point transform"):
        T.CouplingStack([T.conditional_affine_point_coupling(3, 4, **SMALL)])

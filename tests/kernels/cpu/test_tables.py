"""Networks of one kept coordinate, which the compiled kernel turns into tables: knots, and what lies beyond."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import pyro_pcflow as pcf
from helpers.comparison import assert_as_exact_as_plain, example_of, make
from pyro_pcflow.kernels.cpu.build import INSTRUCTION_SETS
from pyro_pcflow.nn.conditioner import CONDITIONINGS

TABLED = {"masks": "keep_one", "num_frequencies": 0}


pytestmark = pytest.mark.parametrize("backend", [f"fused {name}" for name in INSTRUCTION_SETS], indirect=True)


@st.composite
def configurations(draw):
    """Options of a stack whose networks have tables, and the numbers of clouds and of points."""
    inner, outer = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    options = {
        **TABLED,
        "point_dim": draw(st.integers(2, 4)),
        "num_couplings": draw(st.integers(1, 3)),
        "hidden_dims": [inner, outer],
        "coupling": draw(st.sampled_from(["affine", "additive"])),
        "activation": draw(st.sampled_from(["relu", "leaky_relu"])),
        "context_dim": draw(st.sampled_from([0, 5])),
    }
    if options["coupling"] == "affine":
        options["separate_networks"] = draw(st.booleans())
    if options["context_dim"]:
        options["conditioning"] = draw(st.sampled_from(CONDITIONINGS))
        options["context_layers"] = draw(st.sampled_from([None, [0], [1]]))
    return options, draw(st.integers(1, 4)), inner + draw(st.integers(0, 250))


@pytest.mark.parametrize("inverse", [False, True])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configuration=configurations())
def test_values_and_gradients(backend, inverse, configuration):
    options, clouds, points = configuration
    assert_as_exact_as_plain(*example_of(options, clouds, points), inverse, backend)


def simple(activation="relu", **options):
    return make(
        {**TABLED, "point_dim": 3, "num_couplings": 1, "hidden_dims": [12, 20], "activation": activation, **options}
    )


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (0.0, 0.5),  # units that never switch, on
        (0.0, -0.5),  # and off
        (0.0, 0.0),
        (1e-40, 0.5),  # knots that are no finite numbers
        (2.0, 30.0),  # beyond all points, on the left
        (2.0, -30.0),
        (-2.0, 0.7),  # all knots at one place
    ],
)
def test_units_that_all_switch_at_one_place(backend, activation, weight, bias):
    stack = simple(activation)
    first = next(module for module in stack.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        first.weight.fill_(weight)
        first.bias.fill_(bias)
    torch.manual_seed(1)
    assert_as_exact_as_plain(stack, torch.randn(2, 60, 3), None, True, backend)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e3])
def test_points_that_are_close_or_far(backend, spread):
    torch.manual_seed(1)
    assert_as_exact_as_plain(simple(), 0.3 + spread * torch.randn(2, 60, 3), None, True, backend)


def test_points_at_the_knots(backend):
    """Where a derivative jumps either side is right, but the value has none."""
    stack = simple()
    first = next(module for module in stack.modules() if isinstance(module, torch.nn.Linear))
    knots = (-first.bias / first.weight.squeeze(-1)).detach()
    x = torch.randn(1, 48, 3)
    x[0, :12, 0] = x[0, 12:24, 1] = x[0, 24:36, 2] = knots
    exact = copy.deepcopy(stack).double().inverse_and_log_det(x.double())
    pcf.kernels.set_backend(stack, backend)
    for got, expected in zip(stack.inverse_and_log_det(x), exact, strict=True):
        assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_point_harms_no_other(backend, bad):
    stack = simple()
    torch.manual_seed(1)
    x = torch.randn(2, 60, 3)
    pcf.kernels.set_backend(stack, backend)
    good, log_det = stack.inverse_and_log_det(x)
    x[0, 7] = bad
    value, log_det_with_bad = stack.inverse_and_log_det(x)
    others = torch.ones(2, 60, dtype=torch.bool)
    others[0, 7] = False
    torch.testing.assert_close(value[others], good[others])
    torch.testing.assert_close(log_det_with_bad[others], log_det[others])
    assert not value[0, 7].isfinite().all()


def test_many_chunks_of_one_cloud(backend):
    """Threads share the gradients of one cloud, and each adds up several tables."""
    stack = simple(num_couplings=3, context_dim=5, conditioning="film")
    torch.manual_seed(1)
    assert_as_exact_as_plain(stack, torch.randn(1, 7000, 3), torch.randn(1, 1, 5), True, backend)

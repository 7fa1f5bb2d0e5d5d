"""Every fast way to run a stack against the plain one in float64: values and gradients, over configurations."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from helpers.comparison import assert_as_exact_as_plain, example_of
from pyro_pcflow.kernels.gpu import launch as fused_gpu
from pyro_pcflow.nn.conditioner import CONDITIONINGS
from pyro_pcflow.ops.network import ACTIVATIONS
from pyro_pcflow.transforms.masks import MASK_PATTERNS

# Triton's interpreter is slow.
WIDE, EXAMPLES = ([96], 12) if fused_gpu.INTERPRETED else ([96, 128, 200, 512], 15)
WIDTHS = st.one_of(st.integers(1, 70), st.sampled_from(WIDE))


@st.composite
def configurations(draw):
    """Options of a stack, and the numbers of clouds and of points."""
    depth = draw(st.integers(1, 4))
    widths = draw(st.one_of(st.lists(WIDTHS, min_size=depth, max_size=depth), st.just([24] * depth)))
    options = {
        "point_dim": draw(st.integers(2, 8)),
        "num_couplings": draw(st.integers(1, 3)),
        "hidden_dims": widths,
        "coupling": draw(st.sampled_from(["affine", "additive"])),
        "masks": draw(st.sampled_from(MASK_PATTERNS)),
        "residual": draw(st.booleans()),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "num_frequencies": draw(st.integers(0, 3)),
        "context_dim": draw(st.sampled_from([0, 5])),
    }
    if options["coupling"] == "affine":
        options["separate_networks"] = draw(st.booleans())
    if options["context_dim"]:
        options["conditioning"] = draw(st.sampled_from(CONDITIONINGS))
        options["context_layers"] = draw(st.sampled_from([None, [0], [depth - 1]]))
    return options, draw(st.integers(1, 4)), draw(st.one_of(st.integers(1, 9), st.integers(40, 130)))


@pytest.mark.parametrize("inverse", [False, True])
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(configuration=configurations())
def test_values_and_gradients_are_those_of_the_plain_way(backend, inverse, configuration):
    options, clouds, points = configuration
    assert_as_exact_as_plain(*example_of(options, clouds, points), inverse, backend)

"""Couplings by name, and their conditioners."""

from __future__ import annotations

import pytest

import pyro_pcflow as pcf

T = pcf.transforms


@pytest.mark.parametrize(("prefix", "sizes"), [("", (3,)), ("conditional_", (3, 4))])
@pytest.mark.parametrize("kind", ["affine", "additive", "spline", "cubic"])
def test_options_reach_the_conditioner(prefix, sizes, kind):
    options = {"residual": True, "activation": "leaky_relu", "num_frequencies": 2}
    if prefix:
        options |= {"conditioning": "film", "context_dims": [6], "context_layers": [1]}
    conditioner = getattr(T, f"{prefix}{kind}_point_coupling")(*sizes, **options).conditioner
    assert {name: getattr(conditioner, name) for name in options} == options

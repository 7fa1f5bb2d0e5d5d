"""Every transform against every promise: a new layer is one line here."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_pcflow as pcf
from pyro_pcflow.distributions.bases import ConditionalNormal
from pyro_pcflow.nn.conditioner import CONDITIONINGS
from pyro_pcflow.ops.network import ACTIVATIONS
from pyro_pcflow.transforms.masks import MASK_PATTERNS

T = pcf.transforms
# The drawn configurations below are of all three, too.
DIMS = [3, *(pytest.param(dim, marks=pytest.mark.exhaustive) for dim in (2, 6))]
SMALL = {"hidden_dims": [8, 5], "activation": "tanh"}


def fitted_standardize(dim):
    units = T.standardize(dim)
    units.fit(5 + 3 * torch.randn(100, dim))
    return units


PLAIN = {
    "standardize": fitted_standardize,
    "act_norm": lambda dim: T.act_norm(dim),
    "lu_linear": lambda dim: T.lu_linear(dim, permutation=[*range(1, dim), 0]),
    "affine": lambda dim: T.affine_point_coupling(dim, **SMALL),
    "affine, Fourier features": lambda dim: T.affine_point_coupling(dim, num_frequencies=2, **SMALL),
    "affine, residual": lambda dim: T.affine_point_coupling(dim, hidden_dims=[6] * 3, activation="tanh", residual=True),
    "affine, two networks": lambda dim: T.affine_point_coupling(dim, separate_networks=True, **SMALL),
    "additive": lambda dim: T.additive_point_coupling(dim, **SMALL),
    "spline": lambda dim: T.spline_point_coupling(dim, num_bins=4, **SMALL),
    "cubic": lambda dim: T.cubic_point_coupling(dim, num_terms=2, **SMALL),
    "stack": lambda dim: T.coupling_stack(dim, num_couplings=4, **SMALL),
    "stack, additive": lambda dim: T.coupling_stack(dim, num_couplings=3, coupling="additive", **SMALL),
    "stack, splines": lambda dim: T.coupling_stack(dim, num_couplings=3, coupling="spline", **SMALL),
    "stack, cubic": lambda dim: T.coupling_stack(dim, num_couplings=3, coupling="cubic", **SMALL),
    "stack, mixed and normed": lambda dim: T.coupling_stack(
        dim, num_couplings=3, lu_linear=True, act_norm=True, **SMALL
    ),
}
CONDITIONAL = {
    "base": lambda dim: ConditionalNormal(dim, 4),
    "affine": lambda dim: T.conditional_affine_point_coupling(dim, 4, **SMALL),
    "affine, two networks": lambda dim: T.conditional_affine_point_coupling(dim, 4, separate_networks=True, **SMALL),
    "affine, residual": lambda dim: T.conditional_affine_point_coupling(
        dim, 4, hidden_dims=[6] * 3, context_dims=[5] * 3, activation="tanh", residual=True
    ),
    "additive": lambda dim: T.conditional_additive_point_coupling(dim, 4, **SMALL),
    "additive, layers of the context": lambda dim: T.conditional_additive_point_coupling(
        dim, 4, context_dims=[6], context_layers=[1], **SMALL
    ),
    "spline": lambda dim: T.conditional_spline_point_coupling(dim, 4, num_bins=4, **SMALL),
    "cubic": lambda dim: T.conditional_cubic_point_coupling(dim, 4, num_terms=2, **SMALL),
    "stack": lambda dim: T.coupling_stack(dim, num_couplings=3, context_dim=4, **SMALL),
    "stack, additive": lambda dim: T.coupling_stack(dim, num_couplings=3, context_dim=4, coupling="additive", **SMALL),
    "stack, splines": lambda dim: T.coupling_stack(dim, num_couplings=3, context_dim=4, coupling="spline", **SMALL),
    "stack, cubic": lambda dim: T.coupling_stack(dim, num_couplings=3, context_dim=4, coupling="cubic", **SMALL),
    "stack, two networks and layers of the context": lambda dim: T.coupling_stack(
        dim, num_couplings=3, context_dim=4, context_dims=[6], context_layers=[1], separate_networks=True, **SMALL
    ),
    "stack, mixed and normed": lambda dim: T.coupling_stack(
        dim, num_couplings=3, context_dim=4, lu_linear=True, act_norm=True, **SMALL
    ),
    **{
        f"affine, {name}": partial(
            lambda dim, name: T.conditional_affine_point_coupling(dim, 4, conditioning=name, **SMALL),
            name=name,
        )
        for name in CONDITIONINGS
    },
}


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", PLAIN)
def test_plain(name, dim, device, dtype):
    pcf.testing.check_transform(lambda: PLAIN[name](dim), device=device, dtype=dtype)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional(name, dim, device, dtype):
    pcf.testing.check_conditional_transform(lambda: CONDITIONAL[name](dim), device=device, dtype=dtype)


def masks(dim):
    return st.lists(st.booleans(), min_size=dim, max_size=dim).filter(lambda mask: any(mask) and not all(mask))


@settings(max_examples=15)
@given(data=st.data())
def test_any_configuration(data):
    """Round trip, Jacobian, gradients and the rest, for drawn sizes, masks and conditionings."""
    check_a_configuration(data)


@pytest.mark.exhaustive
@settings(max_examples=150)
@given(data=st.data())
def test_any_of_many_configurations(data):
    check_a_configuration(data)


def check_a_configuration(data):
    dim = data.draw(st.sampled_from([2, 3, 6]), "dim")
    mask = data.draw(masks(dim), "mask")
    options = {
        "hidden_dims": data.draw(st.lists(st.integers(4, 9), min_size=1, max_size=3), "hidden_dims"),
        "activation": data.draw(st.sampled_from(sorted(set(ACTIVATIONS) - {"relu"})), "activation"),
        "num_frequencies": data.draw(st.integers(0, 3), "num_frequencies"),
        "mask": mask,
    }
    affine = data.draw(st.booleans(), "affine")
    if affine:
        options["max_log_scale"] = data.draw(st.floats(0.1, 3.0), "max_log_scale")
    context_dim = data.draw(st.integers(0, 5), "context_dim")
    seed = data.draw(st.integers(0, 1000), "seed")
    if context_dim == 0:
        make = T.affine_point_coupling if affine else T.additive_point_coupling
        pcf.testing.check_transform(lambda: make(dim, **options), seed=seed, num_points=4)
    else:
        options["conditioning"] = data.draw(st.sampled_from(CONDITIONINGS), "conditioning")
        make = T.conditional_affine_point_coupling if affine else T.conditional_additive_point_coupling
        pcf.testing.check_conditional_transform(lambda: make(dim, context_dim, **options), seed=seed, num_points=4)


@settings(max_examples=6)
@given(
    dim=st.sampled_from([2, 3, 6]),
    num_couplings=st.integers(1, 7),
    pattern=st.sampled_from(MASK_PATTERNS),
    conditioning=st.sampled_from(CONDITIONINGS),
)
def test_any_stack(dim, num_couplings, pattern, conditioning):
    make = partial(
        T.coupling_stack,
        dim,
        num_couplings=num_couplings,
        masks=pattern,
        context_dim=2,
        conditioning=conditioning,
        **SMALL,
    )
    pcf.testing.check_conditional_transform(make, num_points=3)

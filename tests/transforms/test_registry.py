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
from pyro_pcflow.transforms.masks import MASK_PATTERNS, coupling_masks

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
    "stack": lambda dim: T.coupling_stack(dim, num_couplings=4, **SMALL),
    "stack, additive": lambda dim: T.coupling_stack(dim, num_couplings=3, coupling="additive", **SMALL),
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
    "stack": lambda dim: T.coupling_stack(dim, num_couplings=3, context_dim=4, **SMALL),
    "stack, additive": lambda dim: T.coupling_stack(dim, num_couplings=3, context_dim=4, coupling="additive", **SMALL),
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


@pytest.mark.parametrize(("prefix", "sizes"), [("", (3,)), ("conditional_", (3, 4))])
@pytest.mark.parametrize("kind", ["affine", "additive"])
def test_options_reach_the_conditioner(prefix, sizes, kind):
    options = {"residual": True, "activation": "leaky_relu", "num_frequencies": 2}
    if prefix:
        options |= {"conditioning": "film", "context_dims": [6], "context_layers": [1]}
    conditioner = getattr(T, f"{prefix}{kind}_point_coupling")(*sizes, **options).conditioner
    assert {name: getattr(conditioner, name) for name in options} == options


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


@pytest.mark.parametrize("pattern", MASK_PATTERNS)
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_mask_patterns_move_every_coordinate(pattern, dim):
    masks = coupling_masks(dim, 2 * dim, pattern)
    assert all(any(mask) and not all(mask) for mask in masks)
    assert all(not all(mask[i] for mask in masks) for i in range(dim))


class TestTheChecksBite:
    """A check that passes a broken layer is worth nothing."""

    class Wrong(T.PointCoupling):
        def inverse_and_log_det(self, y, context=None):
            x, log_det = super().inverse_and_log_det(y, context)
            return self.spoil(x, log_det, y)

    @staticmethod
    def make(spoil, base=None):
        conditioner = pcf.nn.Conditioner(2, [2], [8], activation="tanh")
        coupling = TestTheChecksBite.Wrong([True, True, False], T.Affine(), conditioner)
        coupling.spoil = spoil
        return coupling

    @pytest.mark.parametrize(
        ("spoil", "promise"),
        [
            (lambda x, log_det, y: (x, log_det + 0.05), "Jacobian"),
            (lambda x, log_det, y: (x, -log_det), "Jacobian"),
            (lambda x, log_det, y: (x * 1.001, log_det), "must be y"),
            (
                lambda x, log_det, y: (x + 1e-3 * (y - y.mean(0)).abs().sum(), log_det),
                "must be y|another point",
            ),
            (lambda x, log_det, y: (x.detach(), log_det.detach()), "Jacobian|depend on"),
        ],
    )
    def test_on_a_wrong_layer(self, spoil, promise):
        with pytest.raises(AssertionError, match=promise):
            pcf.testing.check_transform(lambda: self.make(spoil))

    @pytest.mark.parametrize(("forgotten", "changed"), [("parameters", "parameters"), ("copies", "sample")])
    def test_on_a_layer_with_a_stale_cache(self, monkeypatch, forgotten, changed):
        module = pcf.transforms.cache
        if forgotten == "parameters":
            monkeypatch.setattr(module, "_joined", lambda tensors: torch.empty(0))
        else:
            monkeypatch.setattr(module, "map", lambda *_: [True], raising=False)
        with pytest.raises(AssertionError, match=f"outlive a change of the {changed}"):
            pcf.testing.check_transform(lambda: T.affine_point_coupling(3, **SMALL))

    class KnowsItsMode(T.PointCoupling):
        def inverse_and_log_det(self, y, context=None):
            x, log_det = super().inverse_and_log_det(y, context)
            return (x, log_det) if self.training else (x + 0.1, log_det)

    class HasAnIdleParameter(T.PointCoupling):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.idle = torch.nn.Parameter(torch.zeros(2))

    class LooksAtOtherPoints(T.PointCoupling):
        """What a coupling keeps of all points of the batch shifts each; that can be undone."""

        def shift(self, points):
            return points[..., :1].mean() * points.new_tensor([0.0, 0.0, 1.0]) * (points.dim() > 1)

        def transform_and_log_det(self, x, context=None):
            y, log_det = super().transform_and_log_det(x, context)
            return y + self.shift(x), log_det

        def inverse_and_log_det(self, y, context=None):
            return super().inverse_and_log_det(y - self.shift(y), context)

    class KeepsWhatItSaw(T.PointCoupling):
        def transform_and_log_det(self, x, context=None):
            self.seen = x
            return super().transform_and_log_det(x, context)

    @pytest.mark.parametrize(
        ("layer", "promise"),
        [
            (KnowsItsMode, "train and eval mode must give the same bits"),
            (HasAnIdleParameter, "the density must depend on idle"),
            (LooksAtOtherPoints, "no point may depend on another point"),
            (KeepsWhatItSaw, "nothing may be kept of a sample that has died"),
        ],
    )
    def test_on_a_layer_that_breaks_one_promise(self, layer, promise):
        with pytest.raises(AssertionError, match=promise):
            pcf.testing.check_transform(
                lambda: layer([True, True, False], T.Affine(), pcf.nn.Conditioner(2, [2], [8], activation="tanh"))
            )

    def test_on_a_layer_that_mixes_up_contexts(self):
        class Mixed(T.ConditionalPointCoupling):
            def condition(self, context):
                return super().condition(context.roll(1, 0) if context.dim() > 2 else context)

        def make():
            conditioner = pcf.nn.Conditioner(2, [2], [8], context_dim=4, activation="tanh")
            return Mixed([True, True, False], T.Affine(), conditioner, 4)

        with pytest.raises(AssertionError, match="each context must act on its own cloud alone"):
            pcf.testing.check_conditional_transform(make)

    def test_they_leave_the_random_numbers_alone(self):
        state = torch.get_rng_state()
        pcf.testing.check_transform(lambda: T.affine_point_coupling(3, **SMALL))
        assert torch.equal(torch.get_rng_state(), state)

"""Elementwise maps: their formulas, and one that is not of this library, through everything that takes a coupling."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pyro_pcflow as pcf
from helpers.bend import Bend, ForgottenOption
from pyro_pcflow.testing import randomize_parameters
from pyro_pcflow.transforms.lowering import can_lower

T = pcf.transforms
SMALL = {"num_couplings": 3, "hidden_dims": [6]}


MAPS = {
    "affine": T.Affine(0.7),
    "additive": T.Additive(),
    "spline": T.RationalQuadraticSpline(num_bins=5, bound=2.0, max_log_scale=0.5),
    "cubic": T.CubicRational(num_terms=3, max_log_scale=0.5),
    "of another": Bend(0.5),
}


@given(
    x=st.floats(-5, 5),
    shift=st.floats(-5, 5),
    raw=st.floats(-50, 50),
    limit=st.floats(0.1, 3.0),
)
def test_affine_is_its_formula(x, shift, raw, limit):
    log_scale = limit * math.tanh(raw / limit)
    parameters = torch.tensor([[shift, raw]]).double()
    value, log_det = T.Affine(limit).inverse_and_log_det(torch.tensor([x]).double(), parameters)
    assert value.item() == pytest.approx(x * math.exp(log_scale) + shift)
    assert log_det.item() == pytest.approx(log_scale)


def test_additive_is_its_formula():
    value, log_det = T.Additive().inverse_and_log_det(torch.tensor([3.0, 4.0]), torch.tensor([[1.0], [-2.0]]))
    assert value.tolist() == [4.0, 2.0]
    assert log_det.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("elementwise", [T.RationalQuadraticSpline(5, 2.0, 0.5), T.CubicRational(3, 0.5)])
def test_a_bend_comes_after_the_affine_map_on_the_way_to_noise(elementwise):
    """With a bend that is the identity it is affine; without an affine map it bends what it is given."""
    y, raw = torch.randn(50, 2).double(), torch.randn(50, 2, elementwise.num_parameters).double()
    straight, unmoved = raw.clone(), raw.clone()
    straight[..., 2:] = 0
    unmoved[..., :2] = 0
    scaled, log_scale = T.Affine(0.5).inverse_and_log_det(y, raw[..., :2])
    for value, expected in zip(elementwise.inverse_and_log_det(y, straight), (scaled, log_scale), strict=True):
        torch.testing.assert_close(value, expected)
    bent, log_slope = elementwise.inverse_and_log_det(scaled, unmoved)
    assert (bent - scaled).abs().max() > 0.1
    for value, expected in zip(elementwise.inverse_and_log_det(y, raw), (bent, log_scale + log_slope), strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: T.RationalQuadraticSpline(num_bins=1), "num_bins must be at least 2, got 1"),
        (lambda: T.RationalQuadraticSpline(bound=-1.0), r"bound must be positive and finite, got -1\.0"),
        (lambda: T.RationalQuadraticSpline(max_log_scale=0.0), "max_log_scale must be positive"),
        (lambda: T.CubicRational(num_terms=0), "num_terms must be at least 1, got 0"),
        (lambda: T.CubicRational(max_log_scale=0.0), "max_log_scale must be positive"),
    ],
)
def test_options_out_of_range_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("name", MAPS)
def test_maps_keep_their_promises(name, device, dtype):
    pcf.testing.check_elementwise(MAPS[name], device=device, dtype=dtype)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_is_positive_and_finite(bound):
    with pytest.raises(ValueError, match="positive and finite"):
        T.Affine(bound)


def test_what_is_no_elementwise_map_is_refused():
    for wrong in (Bend, "affine", torch.nn.Identity()):
        with pytest.raises(TypeError, match="expected an Elementwise, such as Affine"):
            T.point_coupling(3, wrong)
    with pytest.raises(TypeError, match="expected an Elementwise"):
        pcf.PointCloudFlow(3, coupling=Bend)
    with pytest.raises(ValueError, match="affine, additive, spline, cubic, or an Elementwise, got 'splines'"):
        pcf.PointCloudFlow(3, coupling="splines")

    class Without(T.Elementwise):
        num_parameters = 0

    with pytest.raises(ValueError, match="num_parameters of at least 1, got 0"):
        T.point_coupling(3, Without())


def test_a_sum_over_coordinates_is_refused():
    class Summed(Bend):
        def inverse_and_log_det(self, y, parameters):
            x, log_det = super().inverse_and_log_det(y, parameters)
            return x, log_det.sum(-1)

    with pytest.raises(ValueError, match=r"log-derivative of each coordinate, both of shape \(5, 1\)"):
        T.point_coupling(3, Summed(), hidden_dims=[4]).inv(torch.randn(5, 3))


# Through everything.

QUIET = {"device": "cpu", "logging": pcf.training.Logging(pictures=False)}
BUILT = {
    "flow": lambda: pcf.PointCloudFlow(3, coupling=Bend(0.5), **SMALL),
    "mixture": lambda: pcf.MixtureOfFlows(2, 3, coupling=Bend(0.5), **SMALL),
    "vae": lambda: pcf.PointCloudVAE(
        3,
        4,
        decoder={**SMALL, "coupling": Bend(0.5)},
        prior_options={**SMALL, "coupling": Bend(0.25)},
        encoder={"point_dims": [8], "hidden_dims": [4]},
    ),
    "auto-decoder": lambda: pcf.models.AutoDecoder(4, 3, 4, decoder={**SMALL, "coupling": Bend(0.5)}, prior="normal"),
}


def elementwise_of(module):
    return [part.elementwise for part in module.modules() if isinstance(getattr(part, "elementwise", None), Bend)]


@pytest.mark.parametrize("name", BUILT)
def test_a_map_of_another_is_trained_saved_and_loaded(name, tmp_path):
    torch.manual_seed(0)
    module, clouds = BUILT[name](), torch.randn(4, 30, 3)
    assert len(elementwise_of(module)) == {"flow": 3, "mixture": 6, "vae": 6, "auto-decoder": 3}[name]
    data = clouds.flatten(0, 1) if name in ("flow", "mixture") else clouds
    result = pcf.fit(module, data, max_steps=3, seed=0, held_out=0, out=tmp_path / "run", **QUIET)
    assert result.steps == 3
    path = tmp_path / "run" / "model.pt"
    with pytest.raises(ValueError, match=r"class 'Bend', which this library does not have: .*custom=\[MyClass\]"):
        pcf.load(path)
    again = pcf.load(path, custom=[Bend])
    assert [one.limit for one in elementwise_of(again)] == [one.limit for one in elementwise_of(module)]
    for key, value in module.state_dict().items():
        found = again.state_dict()[key]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    torch.manual_seed(1)
    drawn = module.sample(2, 10)
    torch.manual_seed(1)
    assert torch.equal(again.sample(2, 10), drawn)


def test_a_run_with_a_map_of_another_resumes_with_the_same_alone(tmp_path):
    def run(limit, **options):
        part = T.point_coupling(3, Bend(limit), hidden_dims=[4])
        flow = pcf.PointCloudFlow(3, transform=T.CouplingStack([part, T.lu_linear(3)]))
        return pcf.fit(flow, torch.ones(20, 3).cumsum(0), max_steps=2, out=tmp_path / "run", **QUIET, **options)

    run(0.5)
    assert run(0.5, resume=True).steps == 2
    with pytest.raises(ValueError, match=r"module\.config\.transform\.config\.parts was .*'class': 'Bend'"):
        run(0.25, resume=True)


def test_a_map_whose_config_forgets_an_option_is_not_saved(tmp_path):
    flow = pcf.PointCloudFlow(3, coupling=ForgottenOption(0.5), **SMALL)
    with pytest.raises(ValueError, match=r"has elementwise, which has limit=0\.5, where its config makes 1\.0"):
        pcf.save(flow, tmp_path / "flow.pt")


def test_a_map_of_another_takes_the_plain_way_and_ours_the_fast_one():
    ours, other = T.Affine(0.5), Bend(0.5)

    class Louder(T.Affine):
        pass

    plain = [other, Louder(), T.RationalQuadraticSpline(), T.CubicRational()]
    for elementwise, lowers in ((ours, True), (T.Additive(), True), *((one, False) for one in plain)):
        assert can_lower(T.point_coupling(3, elementwise)) is lowers
    stack = randomize_parameters(
        T.ConditionalCouplingStack(
            [T.conditional_point_coupling(3, 2, one, hidden_dims=[8]) for one in (ours, other, ours)], 2
        )
    )
    x, context = torch.randn(4, 200, 3), torch.randn(4, 1, 2)
    values = {}
    for backend in ("plain", "tiled"):
        pcf.kernels.set_backend(stack, backend)
        values[backend] = stack.inverse_and_log_det(x, context)
    for one, two in zip(*values.values(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_method_that_was_replaced_is_called():
    coupling = T.affine_point_coupling(3)
    assert can_lower(coupling)
    coupling.elementwise.inverse_and_log_det = lambda y, parameters: (y, torch.zeros_like(y))
    assert not can_lower(coupling)


def test_objects_say_their_options():
    assert repr(T.Affine(0.5)) == "Affine(max_log_scale=0.5)"
    assert repr(T.CubicRational(2)) == "CubicRational(num_terms=2, max_log_scale=1.0)"
    assert repr(Bend()) == "Bend(limit=1.0)"
    assert "mask=>==, Additive()" in repr(T.additive_point_coupling(3))

"""The change of units."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

import pyro_pcflow as pcf

T = pcf.transforms
MAP = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)


def cube(count=1000, size=1.0, seed=0):
    return size * (torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5)


def test_one_scale_and_a_shift_for_each_coordinate():
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
def test_points_without_units(data):
    units = T.standardize(2)
    with pytest.raises(ValueError, match="cannot take units from 5 points"):
        units.fit(data)
    assert not units.fitted
    assert units.scale == 1


class TestOrigin:
    """Data at map coordinates, of a module in float32."""

    def test_fit_finds_it_and_only_where_it_is_needed(self):
        units = T.standardize(3)
        units.fit(MAP + cube())
        assert units.origin.tolist() == MAP.tolist()
        assert units.data_dtype == torch.float64
        assert units.loc.dtype == units.scale.dtype == torch.float32
        torch.testing.assert_close(units.loc, cube().mean(0).float(), rtol=0, atol=1e-6)
        assert "origin=(701362, 4485513, 40)" in repr(units)
        for points in (cube(), (MAP + cube()).float()):
            units.fit(points)
            assert units.origin is None
            assert units.data_dtype == torch.float32
        wide = T.standardize(3).double()
        wide.fit(MAP + cube())
        assert wide.origin is None
        assert wide.data_dtype == torch.float64

    def test_one_that_is_given(self):
        units = T.standardize(3)
        units.fit(cube().float(), origin=torch.tensor([0.5, 0.0, 0.0]))
        assert units.origin.tolist() == [0.5, 0.0, 0.0]
        assert units.origin.dtype == torch.float64
        torch.testing.assert_close(units.loc[0], cube().mean(0)[0].float() - 0.5)
        with pytest.raises(ValueError, match="3 coordinates"):
            units.fit(cube(), origin=torch.zeros(2))

    def test_of_points_with_features(self):
        units = T.standardize(4, feature_dim=1)
        units.fit(torch.cat([MAP + cube(), 0.5 + cube(seed=1)[:, :1]], -1))
        assert units.origin.tolist() == [*MAP.tolist(), 0.0]

    def test_there_and_back_to_a_micrometre_with_the_determinant_of_before(self):
        units, reference = T.standardize(3), T.standardize(3).double()
        units.fit(MAP + cube())
        reference.fit(MAP + cube())
        points = MAP + cube(seed=1)
        noise, log_det = units.inverse_and_log_det(points)
        assert noise.dtype == log_det.dtype == torch.float32
        expected, expected_log_det = reference.inverse_and_log_det(points)
        torch.testing.assert_close(noise.double(), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(log_det.double(), expected_log_det, rtol=1e-6, atol=0)
        again, forward = units.transform_and_log_det(noise)
        assert again.dtype == torch.float64
        assert float((again - points).abs().max()) < 1e-6
        assert torch.equal(forward, -log_det)
        plain = T.standardize(3)
        plain.fit(cube().float())
        assert torch.equal(units.scale.log(), plain.scale.log())

    @pytest.mark.parametrize("change", ["float", "half", "bfloat16", "double"])
    def test_no_conversion_rounds_it(self, change):
        units = T.standardize(3)
        units.fit(MAP + 0.125 + cube(size=0.1))
        origin = units.origin.clone()
        getattr(torch.nn.Sequential(units), change)()
        copied = copy.deepcopy(units).float()
        for one in (units, copied, pickle.loads(pickle.dumps(units))):
            assert one.origin.dtype == torch.float64
            assert torch.equal(one.origin, origin)
        assert float((units.inverse_and_log_det(origin + 0.01)[0] * units.scale + units.loc - 0.01).abs().max()) < 1e-3

    def test_it_goes_where_the_module_goes(self):
        units = T.standardize(3)
        units.fit(MAP + cube())
        assert units.to("meta").origin.device.type == "meta"

    def test_state(self):
        units, twin = T.standardize(3), T.standardize(3)
        units.fit(MAP + cube())
        assert units.get_extra_state() == {"fitted": True, "origin": MAP.tolist()}
        twin.load_state_dict(units.state_dict())
        points = MAP + cube(seed=1)
        assert torch.equal(twin.inverse_and_log_det(points)[0], units.inverse_and_log_det(points)[0])
        twin.load_state_dict(T.standardize(3).state_dict())
        assert twin.origin is None
        before = {**units.state_dict(), "_extra_state": {"fitted": True}}
        units.load_state_dict(before)
        assert units.origin is None
        for wrong in ([1.0], [1.0, 2.0, math.nan], ["a", 1.0, 2.0]):
            with pytest.raises(ValueError, match=r"expected an origin|could not convert"):
                units.set_extra_state({"fitted": True, "origin": wrong})

    def test_gradients_of_both_directions(self):
        units = T.standardize(3)
        units.fit(MAP + cube())
        points = (MAP + cube(5, seed=1)).requires_grad_()
        units.inverse_and_log_det(points)[0].sum().backward()
        torch.testing.assert_close(points.grad, (1 / units.scale).double().expand(5, 3), rtol=1e-6, atol=0)
        noise = torch.randn(5, 3).requires_grad_()
        units(noise).sum().backward()
        torch.testing.assert_close(noise.grad, units.scale.expand(5, 3))

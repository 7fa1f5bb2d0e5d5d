"""Flows whose data lie at map coordinates: float64 outside, float32 inside, the density of the same points at zero."""

from __future__ import annotations

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

import pyro_pcflow as pcf
from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture
from pyro_pcflow.infer import register, sample_pose

MAP = torch.tensor([701362.0, 4485513.0, 40.0], dtype=torch.float64)
FLOWS = {
    "affine": {"num_couplings": 2, "hidden_dims": [16]},
    "mixture": {"base": "mixture", "num_components": 8, "num_couplings": 0},
    "mixture under couplings": {"base": "mixture", "num_components": 8, "num_couplings": 2, "coupling": "cubic"},
}


def cube(*shape, seed=0):
    return torch.rand(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5


def make_flow(kind="affine", origin=True, **options):
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, **FLOWS[kind], **options)
    with torch.no_grad():
        for parameter in flow.transform.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    flow.normalize(MAP + cube(2000) if origin else cube(2000).float())
    return flow.requires_grad_(False)


@pytest.mark.parametrize("kind", FLOWS)
def test_the_density_is_that_of_the_same_points_about_zero(kind):
    far, near = make_flow(kind), make_flow(kind, origin=False)
    assert far.origin.tolist() == MAP.tolist()
    assert (far.data_dtype, near.data_dtype, near.origin) == (torch.float64, torch.float32, None)
    assert "origin (701362, 4485513, 40)" in repr(far)
    points = cube(100, seed=1)
    expected = near.log_prob(points.float())
    for log_prob in (far.log_prob(MAP + points), far.condition().log_prob(MAP + points)):
        assert log_prob.dtype == torch.float32
        torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-4)
    exact = copy.deepcopy(far).double()
    torch.testing.assert_close(exact.log_prob(MAP + points), expected.double(), rtol=1e-4, atol=1e-4)
    cloud = far.cloud(num_points=100).log_prob(MAP + points)
    torch.testing.assert_close(cloud, expected.sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", FLOWS)
def test_samples_are_those_of_the_same_flow_about_zero(kind):
    far, near = make_flow(kind), make_flow(kind, origin=False)
    samples = []
    for flow in (far, near):
        torch.manual_seed(1)
        mask = torch.arange(50) < 40
        masked = flow.cloud(mask=mask).sample((2,))
        samples.append((flow.sample(2, 50), masked[:, :40], flow.trajectory(50)))
        assert flow.data_dtype == samples[-1][0].dtype == samples[-1][2].dtype
    for one, other in zip(*samples, strict=True):
        torch.testing.assert_close(one - MAP, other.double(), rtol=0, atol=1e-5)
    # None of them was rounded to the grid of float32.
    assert float((samples[0][0] - samples[0][0].float().double()).abs().mean()) > 0.01


def test_narrower_points_are_refused():
    """They have lost their digits already."""
    flow = make_flow()
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(TypeError, match=r"expected points in float64, .* \(701362, 4485513, 40\), got torch.float"):
            flow.log_prob(torch.zeros(5, 3, dtype=dtype))
        with pytest.raises(TypeError, match="expected points in float64"):
            flow.cloud(num_points=5).log_prob(torch.zeros(5, 3, dtype=dtype))
    assert flow.log_prob(torch.tensor([[701362, 4485513, 40]])).isfinite().all()


def test_an_origin_of_your_own_and_none_again():
    flow = make_flow()
    flow.normalize(MAP + cube(1000), origin=torch.tensor([701000, 4485000, 0]))
    assert flow.origin.tolist() == [701000.0, 4485000.0, 0.0]
    flow.normalize(cube(1000).float())
    assert flow.origin is None
    flow = flow.double()
    flow.normalize(MAP + cube(1000))
    assert flow.origin is None
    assert flow.sample(1, 5).dtype == torch.float64


def test_contexts_stay_in_float32():
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[8])
    flow.normalize(MAP + cube(4, 500))
    clouds = flow.cloud(torch.randn(4, 2), num_points=20)
    assert clouds.log_prob(clouds.sample()).dtype == torch.float32
    with pytest.raises(TypeError, match="contexts"):
        flow.condition(torch.randn(4, 2).double())


@pytest.mark.parametrize("wide", [False, True])
def test_a_mixture_of_flows_has_one_origin(wide):
    """Also where a region, alone, would need none."""
    torch.manual_seed(0)
    flows = pcf.distributions.MixtureOfFlows(2, 3, num_couplings=2, hidden_dims=[8])
    flows = flows.double() if wide else flows
    regions = torch.cat([cube(1000), 1e4 + cube(1000)])
    flows.normalize(MAP + regions)
    assert (flows.origin is None) == wide
    assert flows.data_dtype == torch.float64
    assert len({str(flow.origin) for flow in flows.flows}) == 1
    samples = flows.sample(1, 200)
    assert samples.dtype == torch.float64
    assert flows.log_prob(samples).dtype == (torch.float64 if wide else torch.float32)
    flows.normalize(regions)
    flows.normalize(regions.float().to(flows.weight_logits))
    assert all(flow.origin is None for flow in flows.flows)


class TestAround:
    """What is made of a flow."""

    def test_a_background(self):
        scan = MAP + cube(200, seed=1)
        mixtures = [
            pcf.distributions.with_background(flow.condition(), 0.1, points.amin(0), points.amax(0))
            for flow, points in ((make_flow(), scan), (make_flow(origin=False), (scan - MAP).float()))
        ]
        expected = mixtures[1].log_prob((scan - MAP).float())
        torch.testing.assert_close(mixtures[0].log_prob(scan).float(), expected, rtol=1e-4, atol=1e-4)
        assert mixtures[0].sample((50,)).dtype == torch.float64

    @pytest.mark.parametrize("kind", FLOWS)
    def test_noise(self, kind):
        """Exact for Gaussians, whose squares must not be taken at map coordinates, and by quadrature."""
        far, near = (
            pcf.distributions.with_noise(make_flow(kind, origin).condition(), 0.01) for origin in (True, False)
        )
        assert isinstance(far, GaussianMixture) == (kind == "mixture")
        points = cube(50, seed=1)
        torch.testing.assert_close(
            far.log_prob(MAP + points).double(), near.log_prob(points.float()).double(), rtol=1e-3, atol=1e-3
        )
        assert float((far.sample((100,)) - MAP).abs().max()) < 5

    @pytest.mark.parametrize("kind", ["affine", "mixture"])
    def test_a_sensor(self, kind):
        direction = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
        far = pcf.distributions.one_sided(make_flow(kind).condition(), direction, direction @ MAP, num_samples=256)
        near = pcf.distributions.one_sided(
            make_flow(kind, origin=False).condition(), direction.float(), num_samples=256
        )
        points = cube(50, seed=1)
        torch.testing.assert_close(
            far.log_prob(MAP + points).double(), near.log_prob(points.float()).double(), rtol=1e-3, atol=1e-3
        )
        assert far.sample((10,)).dtype == torch.float64


class TestInference:
    @pytest.mark.parametrize("origin", [True, False])
    def test_registration(self, origin):
        """A scan at map coordinates of an object that lies there, too, or about zero."""
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(3, base="mixture", num_components=40, num_couplings=0)
        thing = cube(4000) * torch.tensor([0.3, 0.6, 1.0])
        thing[:, 0] += thing[:, 2].square()
        flow.normalize(MAP + thing if origin else thing.float())
        flow.requires_grad_(False)
        shift = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
        scan = (thing[:300] + shift) + MAP
        found = register(flow, scan, spread=0.2, num_samples=20, num_starts=64, check=False)
        expected = shift if origin else shift + MAP
        middle = MAP if origin else torch.zeros(3).double()
        placed = (found.matrix[:3, :3] @ middle) + found.matrix[:3, 3]
        assert found.matrix.dtype == torch.float64
        assert float((placed - middle - expected).norm()) < 0.1

    def test_a_scan_that_a_sensor_would_see_rounded_is_refused(self):
        flow = make_flow("mixture", origin=False)
        with pytest.raises(ValueError, match=r"scan: .* subtract an origin first"):
            register(flow, MAP + cube(1000), observe=lambda point: point)

    def test_completion(self):
        """The context, of which there is a prior, is in the type of the weights."""
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[8])
        flow.normalize(MAP + cube(500))
        options = {"num_samples": 2, "num_chains": 2, "num_steps": 10, "warmup_steps": 5, "check": False}
        partial = MAP + cube(20, seed=1)
        completed = pcf.complete(flow, partial, 30, method="hmc", temper=1.0, **options).clouds
        assert completed.dtype == torch.float64
        assert torch.equal(completed[:, :20], partial.expand(2, -1, -1))
        assert float((completed - MAP).abs().max()) < 5

    def model(self, flow):
        def model(scan):
            shift = pyro.sample("shift", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
            moved = dist.TransformedDistribution(flow.condition(), [dist.transforms.AffineTransform(shift, 1.0, 1)])
            pyro.sample("scan", pcf.PointCloud(moved, num_points=len(scan)), obs=scan)

        return model

    def test_nuts(self):
        pyro.set_rng_seed(0)
        flow = make_flow("mixture under couplings")
        truth = torch.tensor([0.2, -0.3, 0.1], dtype=torch.float64)
        scan = flow.sample(1, 100)[0] + truth
        chain = MCMC(NUTS(self.model(flow)), num_samples=20, warmup_steps=20, disable_progbar=True)
        chain.run(scan)
        draws = chain.get_samples()["shift"]
        assert draws.dtype == torch.float64
        assert float((draws.mean(0) - truth).norm()) < 0.3
        assert float(draws.std(0).max()) < 0.2

    def test_svi(self):
        pyro.set_rng_seed(0)
        flow = make_flow("affine")
        truth = torch.tensor([0.2, -0.3, 0.1], dtype=torch.float64)
        scan = flow.sample(1, 300)[0] + truth
        model = self.model(flow)
        guide = AutoNormal(model, init_scale=0.02)
        svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
        for _ in range(150):
            svi.step(scan)
        assert float((guide.median()["shift"] - truth).norm()) < 0.3

    def test_a_pose_of_the_prior(self):
        flow = make_flow("affine")
        one = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)

        def model(scan):
            translation = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
            pose = sample_pose(around=one, spread=1e-8, translation=translation)
            posed = dist.TransformedDistribution(flow.condition(), [pose])
            pyro.sample("scan", pcf.PointCloud(posed, num_points=len(scan)), obs=scan)

        scan = flow.sample(1, 100)[0]
        fixed = {"pose_quaternion_offset": torch.zeros(4).double(), "pose_translation": torch.zeros(3).double()}
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data=fixed)).get_trace(scan)
        trace.compute_log_prob()
        torch.testing.assert_close(
            trace.nodes["scan"]["log_prob"].double(),
            flow.cloud(num_points=100).log_prob(scan).double(),
            rtol=1e-4,
            atol=1e-2,
        )


def test_a_notebook_draws_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<" in make_flow()._repr_html_()
        assert "<" in make_flow().cloud(num_points=50)._repr_html_()

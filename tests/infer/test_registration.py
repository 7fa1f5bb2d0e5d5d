"""Registration: posteriors over poses with known answers, symmetric objects, outliers, sensors and errors."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from helpers.posed_objects import BRACKET, ELLIPSOID, SPINDLE, random_pose, scan_of
from pyro_pcflow.distributions import one_sided
from pyro_pcflow.infer import register
from pyro_pcflow.transforms import rotation_matrix, rotation_vector

WIDTHS = torch.tensor([0.2, 0.5, 1.0]).double()
STARTS = 128
FEW = dist.Beta(1.0, 10.0)


def degrees(a, b):
    return rotation_vector(a.mT @ b).norm(dim=-1).rad2deg()


def test_posterior_of_the_place_in_closed_form():
    """A Gaussian object of known rotation: the place is normal, by completing the square."""
    pyro.set_rng_seed(0)
    pose = random_pose()
    scan = scan_of(ELLIPSOID, pose, 30)
    quaternion = torch.as_tensor([1.0, 0.0, 0.0, 0.0])
    turned = scan @ pose.rotation  # so that the object's axes are those of the scan
    found = register(
        ELLIPSOID,
        turned,
        around=quaternion,
        spread=1e-4,
        translation=dist.Normal(torch.ones(3).double(), 0.5).to_event(1),
        outlier_probability=None,
        num_samples=4000,
        num_starts=16,
    )
    precision = 30 / WIDTHS**2 + 1 / 0.25
    mean = (turned.sum(0) / WIDTHS**2 + 1 / 0.25) / precision
    assert len(found.modes.weight) == 1
    torch.testing.assert_close(found.modes.translation[0], mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.covariance[3:, 3:].diagonal(), 1 / precision, rtol=5e-3, atol=0)
    assert ((found.translation.mean(0) - mean).abs() < 4 * (1 / precision / 4000).sqrt()).all()
    assert (found.translation.std(0) * precision.sqrt() - 1).abs().max() < 4 / math.sqrt(2 * 4000)
    assert (found.outlier_probability == 0).all()
    assert (found.outlier_share == 0).all()


def test_chains_of_a_wide_posterior_against_uniform_rotations():
    """Eight points about a known place: squares of the rotation's entries, by weights of uniform rotations.

    The density of the rotation is a Bingham distribution, so wide that no normal in the tangent space is like it.
    """
    pyro.set_rng_seed(0)
    pose = random_pose()
    scan = pose.inv(scan_of(ELLIPSOID, pose, 8)) @ pose.rotation.T
    found = register(
        ELLIPSOID,
        scan,
        translation=dist.Normal(torch.zeros(3).double(), 1e-3).to_event(1),
        outlier_probability=None,
        method="hmc",
        num_samples=1600,
        num_starts=STARTS,
    )
    uniform = rotation_matrix(torch.randn(200_000, 4).double())
    own = torch.einsum("ni,kij->knj", scan, uniform)
    weights = (-0.5 * (own / WIDTHS).square().sum((-1, -2))).softmax(0)
    assert 1 / weights.square().sum() > 500
    expected = (weights[:, None, None] * uniform.square()).sum(0)
    # Of at least so many effective draws.
    error = 4 * (found.rotation.square().var(0) * (1 / 200 + weights.square().sum())).sqrt()
    assert ((found.rotation.square().mean(0) - expected).abs() < error).all()
    assert found.diagnostics["r_hat"].shape == (len(found.modes.weight), 6)


@pytest.mark.parametrize("method", ["laplace", "hmc"])
def test_an_ellipsoid_has_four_poses(method):
    pyro.set_rng_seed(0)
    pose = random_pose()
    found = register(ELLIPSOID, scan_of(ELLIPSOID, pose, 200, 10), method=method, num_starts=STARTS)
    torch.testing.assert_close(found.modes.weight, torch.full((4,), 0.25).double(), rtol=0, atol=0.01)
    assert found.mode.bincount().tolist() == [50] * 4
    apart = degrees(found.modes.rotation.unsqueeze(1), found.modes.rotation)
    torch.testing.assert_close(apart, 180 * (1 - torch.eye(4)).double(), rtol=0, atol=0.2)
    assert degrees(pose.rotation, found.modes.rotation).amin() < 10
    if method == "hmc":
        assert found.diagnostics["r_hat"].max() < 1.2
        assert (found.diagnostics["acceptance"] > 0.5).all()


def test_a_spindle_has_two_poses_and_any_turn_about_its_axis():
    pyro.set_rng_seed(0)
    pose = random_pose()
    found = register(SPINDLE, scan_of(SPINDLE, pose, 200), num_starts=STARTS, num_samples=400)
    assert len(found.modes.weight) == 2
    assert (found.modes.weight - 0.5).abs().max() < 0.02
    along = found.rotation[..., 2] @ pose.rotation[:, 2]
    assert (along.abs() > math.cos(math.radians(15))).all()
    assert 0.4 < (along > 0).double().mean() < 0.6
    # The first axis points anywhere around: no direction is more than a third as likely again as another.
    about = pose.rotation.mT @ found.rotation[..., 0].unsqueeze(-1)
    angle = torch.atan2(about[:, 1, 0], about[:, 0, 0])
    counts = torch.histc(angle, 4, -math.pi, math.pi)
    assert (counts > 50).all()


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_a_bracket_among_outliers(scale):
    pyro.set_rng_seed(2)
    pose = random_pose(scale)
    scan = scan_of(BRACKET, pose, 200, num_outliers=20)
    prior = None if scale == 1.0 else dist.LogNormal(torch.zeros(()).double(), 0.3)
    found = register(BRACKET, scan, scale=prior, num_starts=STARTS)
    assert len(found.modes.weight) == 1
    away = torch.cat(
        [rotation_vector(found.modes.rotation[0].mT @ pose.rotation), pose.translation - found.modes.translation[0]]
    )
    distance = away @ torch.linalg.solve(found.covariance, away)
    assert distance < 22.5  # exceeded once in 1000, of 6 degrees of freedom
    assert degrees(found.modes.rotation[0], pose.rotation) < 5
    assert found.outlier_probability[:200].mean() < 0.1 < 0.9 < found.outlier_probability[200:].median()
    assert abs(found.outlier_share.mean() - 20 / 220) < 0.06
    if scale != 1.0:
        assert (found.scale.mean() - scale).abs() < 4 * found.scale.std()
    torch.testing.assert_close(
        found.matrix @ torch.tensor([0.1, 0.2, 0.3, 1.0]).double(),
        torch.cat([_placed(found, torch.tensor([0.1, 0.2, 0.3]).double()), torch.ones(1).double()]),
    )
    assert found.matrices.shape == (200, 4, 4)
    spread = torch.cat([rotation_vector(found.modes.rotation[0].mT @ found.rotation), found.translation], -1).T.cov()
    ratio = spread.diagonal() / found.covariance.diagonal()
    assert ((ratio > 0.6) & (ratio < 1.6)).all()


def _placed(found, point):
    return found.modes.scale[0] * found.modes.rotation[0] @ point + found.modes.translation[0]


@pytest.mark.exhaustive
@pytest.mark.timeout(2400)  # the chains of 200 scans took more than ten minutes on one slow core
@pytest.mark.parametrize("method", ["laplace", "hmc"])
def test_regions_cover_poses_of_simulated_scans(method):
    """Ninety percent regions of 6 numbers hold the truth in 90% of 200 scans, within three standard errors."""
    pyro.set_rng_seed(0)
    covered = []
    for _ in range(200):
        pose = random_pose()
        found = register(BRACKET, scan_of(BRACKET, pose, 100, num_outliers=5), method=method, num_starts=STARTS)
        nearest = degrees(found.modes.rotation, pose.rotation).argmin()
        mode = found.modes
        away = torch.cat(
            [rotation_vector(mode.rotation[nearest].mT @ pose.rotation), pose.translation - mode.translation[nearest]]
        )
        covered.append(away @ torch.linalg.solve(mode.covariance[nearest], away) < 10.645)
    share = torch.stack(covered).double().mean()
    assert abs(share - 0.9) < 3 * (0.9 * 0.1 / 200) ** 0.5


def test_a_rotation_that_is_known_roughly_has_one_pose():
    pyro.set_rng_seed(0)
    pose = random_pose()
    scan = scan_of(ELLIPSOID, pose, 200)
    turned = scan @ pose.rotation
    found = register(ELLIPSOID, turned, around=torch.tensor([2.0, 0.0, 0.0, 0.0]), spread=0.3, num_starts=STARTS)
    assert len(found.modes.weight) == 1
    assert degrees(found.modes.rotation[0], torch.eye(3).double()) < 15


def test_a_sensor_that_sees_one_side():
    """Without it the place is wrong by much more than it is known to."""
    pyro.set_rng_seed(0)
    direction = torch.tensor([0.0, 0.0, 1.0]).double()
    scan = one_sided(ELLIPSOID, direction, softness=0.05).sample((300,))
    options = {"spread": 0.1, "outlier_probability": None, "num_starts": 32}
    blind = register(ELLIPSOID, scan, check=False, **options)
    found = register(ELLIPSOID, scan, observe=lambda point: one_sided(point, direction, softness=0.05), **options)
    assert blind.modes.translation[0, 2] > 0.5
    assert found.modes.translation[0, 2].abs() < 4 * found.covariance[5, 5].sqrt() < 0.4


def test_tempering_widens():
    pyro.set_rng_seed(0)
    pose = random_pose()
    scan = scan_of(BRACKET, pose, 300)
    full, half = (
        register(BRACKET, scan, temper=temper, outlier_probability=None, num_starts=STARTS) for temper in (1.0, 0.25)
    )
    ratio = half.covariance.diagonal() / full.covariance.diagonal()
    assert (ratio - 4).abs().max() < 0.6


def test_an_origin_away_from_the_object_moves_with_its_rotation():
    """The covariance is that of the draws, which move the origin five units away as the object turns about itself."""
    pyro.set_rng_seed(0)
    away = torch.tensor([0.0, 0.0, 5.0]).double()
    thing = dist.Normal(away, WIDTHS).to_event(1)
    count = 2000
    found = register(
        thing,
        thing.sample((1000,)),
        around=torch.tensor([1.0, 0.0, 0.0, 0.0]),
        spread=0.1,
        method="laplace",
        num_samples=count,
        num_starts=16,
    )
    assert len(found.modes.weight) == 1
    turned, translation = found.covariance.diagonal().split(3)
    # A turn about x moves the origin along y, and one about y along x.
    assert (translation[:2] > 0.9 * 25 * turned[:2].flip(0)).all()
    spread = torch.cat([rotation_vector(found.modes.rotation[0].mT @ found.rotation), found.translation], -1).T.cov()
    ratio = spread.diagonal() / found.covariance.diagonal()
    assert (ratio - 1).abs().max() < 5 * math.sqrt(2 / count)


def test_digits_of_places_that_are_far_away():
    """A flow in float32, and a scan in float64 at the coordinates of a map."""
    pyro.set_rng_seed(0)
    torch.manual_seed(0)
    thing = dist.Normal(torch.zeros(3), torch.tensor([0.2, 0.5, 1.0])).to_event(1)
    away = torch.tensor([5e5, 4.6e6, 100.0]).double()
    scan = ELLIPSOID.sample((200,)) + away
    found = register(thing, scan, num_starts=STARTS)
    assert found.translation.dtype == torch.float64
    error = (found.modes.translation[0] - away).abs()
    assert (error < 5 * found.covariance[3:, 3:].diagonal().sqrt()).all()
    assert error.max() < 0.5


def test_a_flow_and_a_seed():
    """A flow with units of its own; a seed repeats; gradients and modes of the flow stay as they are."""
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, base="mixture", num_components=4, num_couplings=2, hidden_dims=[8])
    points = 100 * BRACKET.sample((2000,)).float()
    flow.normalize(points)
    with torch.no_grad():
        flow.condition()
    scan = points[:200] + torch.tensor([50.0, 0.0, 0.0])
    draws = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        draws.append(register(flow, scan, num_samples=8, num_starts=32))
    assert torch.equal(draws[0].matrices, draws[1].matrices)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in flow.parameters())


def test_what_is_wrong_is_told():
    scan = torch.randn(20, 3)
    flow = pcf.PointCloudFlow(3, context_dim=2, num_couplings=2, hidden_dims=[4])
    thing = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    with pytest.raises(TypeError, match=r"context of 2 numbers, .* give flow.condition\(context\)"):
        register(flow, scan)
    with pytest.raises(TypeError, match="a flow or a distribution of points, got Linear"):
        register(torch.nn.Linear(3, 3), scan)
    with pytest.raises(ValueError, match=r"event_shape \(3,\) and batch_shape \(5,\)"):
        register(thing.expand((5,)), scan)
    with pytest.raises(ValueError, match=r"at least 4 points, got shape \(2, 20, 3\)"):
        register(thing, torch.randn(2, 20, 3))
    with pytest.raises(ValueError, match=r"at least 4 points, got list"):
        register(thing, [[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="1 points of the scan are NaN"):
        register(thing, torch.where(torch.arange(20)[:, None] == 3, torch.nan, scan))
    with pytest.raises(ValueError, match="one coordinate in common"):
        register(thing, scan * torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="positive spread in radians, got -1"):
        register(thing, scan, spread=-1.0)
    with pytest.raises(ValueError, match="give spread, too"):
        register(thing, scan, around=torch.ones(4))
    with pytest.raises(ValueError, match=r"quaternion as a tensor of 4 numbers, got shape \(3,\)"):
        register(thing, scan, around=torch.ones(3), spread=0.1)
    with pytest.raises(ValueError, match="translations of event shape"):
        register(thing, scan, translation=dist.Normal(torch.zeros(3), 1.0))
    with pytest.raises(ValueError, match="one scale as a distribution"):
        register(thing, scan, scale=dist.LogNormal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match="one outlier_probability as a distribution"):
        register(thing, scan, outlier_probability=0.1)
    with pytest.raises(ValueError, match="method must be one of laplace, hmc, got 'nuts'"):
        register(thing, scan, method="nuts")
    with pytest.raises(ValueError, match="temper must be a positive number, got 0"):
        register(thing, scan, temper=0)
    with pytest.raises(ValueError, match="num_samples=0, num_starts=512"):
        register(thing, scan, num_samples=0)


class TestCheck:
    def test_a_good_scan_passes(self):
        pyro.set_rng_seed(0)
        scan = scan_of(BRACKET, random_pose(), 300)
        found = register(BRACKET, scan, num_starts=STARTS)
        report = found.check()
        assert report
        assert report.messages == ()
        assert report.outliers < 0.1
        assert abs(report.missing) < 0.2
        assert math.isnan(report.r_hat)

    @pytest.mark.parametrize(
        ("factor", "what"),
        [
            (0.1, "other units"),
            (2.0, "other units"),
            pytest.param(10.0, "other units", marks=pytest.mark.exhaustive),
            (1.0, "does not see"),
        ],
    )
    def test_bad_scans_are_doubted(self, factor, what):
        """Of other units, and a half of the object whose other half would have been seen."""
        pyro.set_rng_seed(0)
        pose = random_pose()
        scan = factor * scan_of(BRACKET, pose, 600)
        if factor == 1:
            # Along the object's longest axis.
            own = scan @ pose.rotation
            scan = scan[own[:, own.std(0).argmax()] > own.mean(0)[own.std(0).argmax()]]
        with pytest.warns(UserWarning, match=f"would not have made the scan.*{what}"):
            found = register(BRACKET, scan, num_starts=STARTS, outlier_probability=None if factor == 1 else FEW)
        assert not found.check()

    def test_it_can_be_left_out(self):
        pyro.set_rng_seed(0)
        found = register(ELLIPSOID, 10 * scan_of(ELLIPSOID, random_pose(), 50), num_starts=16, check=False)
        with pytest.raises(ValueError, match="check=False"):
            found.check()

"""Sensors whose noise and outliers are latents, against numerical integrals."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions import one_sided
from pyro_pcflow.distributions.gaussian_mixture import as_gaussians
from pyro_pcflow.infer import Completer, UnknownBackground, UnknownNoise, complete

UP = torch.tensor([0.0, 0.0, 1.0]).double()
LOW, HIGH = torch.full((3,), -4.0).double(), torch.full((3,), 4.0).double()
WIDTH = dist.LogNormal(torch.tensor(-1.0).double(), 0.7)
SHARE = dist.Beta(torch.tensor(1.0).double(), 6.0)

# Small models, few steps and clouds that are no shapes: what complete says of them has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:what was found may be wrong")


def moved(batch_shape=()):
    """A round object of width 0.3, whose place along the first axis is normal."""

    def model():
        with pyro.plate("clouds", *batch_shape) if batch_shape else pyro.poutine.block(hide=[]):
            shift = pyro.sample("shift", dist.Normal(torch.zeros(()).double(), 1.0))
        loc = torch.stack([shift, torch.zeros_like(shift), torch.zeros_like(shift)], -1)
        return dist.Normal(loc, 0.3).to_event(1)

    return model


def on_a_grid(partial, log_density, prior, values):
    """Mean and deviation of the shift and of another latent, by a sum over a grid of both.

    `log_density(points, shift, value)` is that of points, broadcast.
    """
    shifts = torch.linspace(-3, 3, 601).double()
    log_prior = dist.Normal(0.0, 1.0).log_prob(shifts).unsqueeze(-1) + prior.log_prob(values)
    log_joint = log_prior + log_density(partial, shifts[:, None, None], values[:, None]).sum(-1)
    # Cells of the grid of `values` differ in size.
    weights = (log_joint + torch.gradient(values)[0].log()).flatten().softmax(0).reshape(log_joint.shape)
    moments = []
    for part, place in ((weights.sum(1), shifts), (weights.sum(0), values)):
        mean = (part * place).sum()
        moments.append((mean, (part * (place - mean).square()).sum().sqrt()))
    return moments


def check_moments(draws, moments, tolerance=0.25):
    # Draws of a chain are not independent, and a guide is normal: a third of the deviation for both.
    for values, (mean, deviation) in zip(draws, moments, strict=True):
        assert abs(values.mean() - mean) < deviation / 3
        assert abs(values.std() / deviation - 1) < tolerance


def noisy_density(points, shift, width):
    variance = 0.09 + width.square()
    distance = (points[:, 0] - shift).square() + points[:, 1:].square().sum(-1)
    return -0.5 * distance / variance - 1.5 * torch.log(2 * math.pi * variance)


def outlier_density(points, shift, share):
    object_density = noisy_density(points, shift, torch.zeros(()).double())
    return torch.logaddexp((-share).log1p() + object_density, share.log() - 3 * math.log(8.0))


def noisy_scan(width, count=40, shift=0.7):
    return torch.tensor([shift, 0.0, 0.0]).double() + math.hypot(0.3, width) * torch.randn(count, 3).double()


def scan_with_outliers(count, num_outliers, shift=-0.4):
    scan = noisy_scan(0.0, count, shift)
    scan[:num_outliers] = LOW + (HIGH - LOW) * torch.rand(num_outliers, 3).double()
    return scan


GRIDS = {
    "noise_width": torch.logspace(-2.5, 0.7, 400).double(),
    "background_share": torch.logspace(-4, -0.03, 400).double(),
}
# Gradients of a guide are of one draw each.
TOLERANCE = {"hmc": 0.25, "nuts": 0.25, "svi": 0.4}
METHODS = [
    ("hmc", {"num_steps": 25}),
    pytest.param("svi", {"num_steps": 1000}, marks=pytest.mark.exhaustive),
    pytest.param("nuts", {"num_steps": 400}, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_an_unknown_width_has_the_posterior_of_a_numerical_integral(method, options):
    pyro.set_rng_seed(0)
    partial = noisy_scan(0.4)
    found = complete(moved(), partial, 40, observe=UnknownNoise(WIDTH), method=method, num_samples=400, **options)
    moments = on_a_grid(partial, noisy_density, WIDTH, GRIDS["noise_width"])
    check_moments([found.latents["shift"], found.latents["noise_width"]], moments, TOLERANCE[method])
    assert abs(moments[1][0] - 0.4) < 3 * moments[1][1]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_an_unknown_share_has_the_posterior_of_a_numerical_integral(method, options):
    pyro.set_rng_seed(0)
    partial = scan_with_outliers(60, 12)
    background = UnknownBackground(LOW, HIGH, SHARE)
    found = complete(moved(), partial, 60, observe=background, method=method, num_samples=400, **options)
    moments = on_a_grid(partial, outlier_density, SHARE, GRIDS["background_share"])
    check_moments([found.latents["shift"], found.latents["background_share"]], moments, TOLERANCE[method])
    assert abs(moments[1][0] - 0.2) < 3 * moments[1][1]


def test_each_cloud_of_a_batch_has_its_own():
    """A share and a width of each cloud, of which some points are padding: three problems of two latents each."""
    pyro.set_rng_seed(0)
    partial = torch.stack([noisy_scan(width, 30, shift) for width, shift in ((0.02, 0.0), (0.3, 1.0), (1.2, -1.0))])
    mask = torch.arange(30) < torch.tensor([30, 20, 30]).unsqueeze(-1)
    partial[~mask] = torch.nan
    options = {"mask": mask, "method": "hmc", "num_steps": 25, "num_samples": 400}
    found = complete(moved((3,)), partial, 30, observe=UnknownNoise(WIDTH), **options)
    assert found.diagnostics["r_hat"].shape == (3, 2)
    for cloud in range(3):
        moments = on_a_grid(partial[cloud][mask[cloud]], noisy_density, WIDTH, GRIDS["noise_width"])
        check_moments([found.latents["shift"][:, cloud], found.latents["noise_width"][:, cloud]], moments)
    partial = torch.stack([scan_with_outliers(30, count) for count in (0, 3, 9)])
    partial[~mask] = torch.nan
    found = complete(moved((3,)), partial, 30, observe=UnknownBackground(LOW, HIGH, SHARE), **options)
    for cloud in range(3):
        moments = on_a_grid(partial[cloud][mask[cloud]], outlier_density, SHARE, GRIDS["background_share"])
        check_moments([found.latents["shift"][:, cloud], found.latents["background_share"][:, cloud]], moments)


def test_what_nests_is_exact_for_gaussians():
    """Noise, then a one-sided sensor, then outliers: the density by hand, and no quasi-Monte Carlo in it."""
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, 2, base="mixture", num_components=6, num_couplings=0)
    pcf.testing.randomize_parameters(flow, 0.3).double().requires_grad_(False).normalize(torch.randn(100, 3).double())
    point = flow.condition(torch.randn(4, 2).double())
    background, noise = UnknownBackground(LOW, HIGH), UnknownNoise(WIDTH)
    share, width = torch.tensor([0.1, 0.2, 0.3, 0.4]).double(), torch.tensor([0.1, 0.5, 0.05, 0.2]).double()

    def sensor(point):
        with pyro.plate("clouds", 4):
            return background(one_sided(noise(point), UP, 0.1, 0.2, num_samples=1))

    seen = pyro.poutine.condition(sensor, {"background_share": share, "noise_width": width})(point)
    assert seen.batch_shape == (4,)
    points = point.sample((7,)).clamp(-3.9, 3.9)
    log_weights, loc, root = as_gaussians(point)
    covariance = root @ root.mT + width.square()[:, None, None, None] * torch.eye(3).double()
    noisy = dist.MixtureSameFamily(dist.Categorical(logits=log_weights), dist.MultivariateNormal(loc, covariance))
    draws = noisy.sample((200_000,))
    kept = torch.special.ndtr((draws[..., 2] - 0.1) / 0.2).mean(0)
    clean = noisy.log_prob(points).exp() * torch.special.ndtr((points[..., 2] - 0.1) / 0.2) / kept
    expected = (1 - share) * clean + share / 8**3
    torch.testing.assert_close(seen.log_prob(points), expected.log(), rtol=0, atol=0.02)


def small_completer():
    torch.manual_seed(0)
    decoder = {"base": "mixture", "num_components": 4, "num_couplings": 0, "hidden_dims": [8]}
    vae = pcf.PointCloudVAE(latent_dim=3, decoder=decoder)
    pcf.testing.randomize_parameters(vae, 0.1)
    return Completer(vae, context_dim=8, encoder={"point_dims": [8], "hidden_dims": [8]})


@pytest.mark.parametrize("batch_shape", [(), pytest.param((1,), marks=pytest.mark.exhaustive), (3,)])
@pytest.mark.parametrize("method", ["hmc", "svi"])
def test_they_nest_in_a_completion(method, batch_shape):
    """Around the recorded points; the completer proposes the shape, and the prior what the sensor does not know."""
    completer = small_completer()
    partial = torch.randn(*batch_shape, 20, 3)
    background, noise = UnknownBackground.around(partial), UnknownNoise.around(partial)

    def sensor(point):
        return background(one_sided(noise(point), UP.float()))

    for proposal in (None, completer) if method == "hmc" else (None,):
        options = {"proposal": proposal, "num_chains": 8} if method == "hmc" else {}
        result = complete(
            completer.model, partial, 20, observe=sensor, method=method, num_steps=8, num_samples=4, **options
        )
        assert result.latents["z"].shape == (4, *batch_shape, 3)
        for name in ("background_share", "noise_width"):
            assert result.latents[name].shape == (4, *batch_shape)
            assert (result.latents[name] > 0).all()
        if method == "hmc":
            assert result.diagnostics["r_hat"].shape == (*batch_shape, 5)


def test_the_box_around_clouds():
    """Of the points that the mask keeps, and a share of the longest side around it."""
    points = torch.tensor(
        [[[0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [9.0, 9.0, 9.0]], [[1.0, 1.0, 1.0]] * 2 + [[1.0, 5.0, 1.0]]]
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    background = UnknownBackground.around(points, mask, margin=0.25)
    torch.testing.assert_close(background.low, torch.tensor([[-0.5, -0.5, -0.5], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(background.high, torch.tensor([[2.5, 1.5, 0.5], [2.0, 6.0, 2.0]]))
    noise = UnknownNoise.around(points, mask, relative=0.1, spread=0.5)
    torch.testing.assert_close(noise.width.loc.exp(), torch.tensor([0.2, 0.4]))
    assert (noise.width.scale == 0.5).all()


def test_the_default_share_is_of_the_type_of_the_box():
    point = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    trace = pyro.poutine.trace(UnknownBackground(LOW, HIGH)).get_trace(point)
    prior = trace.nodes["background_share"]["fn"]
    assert prior.mean == pytest.approx(1 / 21)
    assert trace.nodes["background_share"]["value"].dtype == torch.float64


def test_wrong_use():
    cloud = torch.randn(5, 3)
    with pytest.raises(ValueError, match="low < high"):
        UnknownBackground(HIGH, LOW)
    with pytest.raises(ValueError, match=r"both of shape \(D,\) or \(\*batch, D\), got \(3,\) and \(2,\)"):
        UnknownBackground(torch.zeros(3), torch.ones(2))
    with pytest.raises(TypeError, match="corners of a box as tensors"):
        UnknownBackground(-1.0, 1.0)
    with pytest.raises(TypeError, match="expected a distribution as the prior share, got float"):
        UnknownBackground(LOW, HIGH, 0.1)
    with pytest.raises(TypeError, match="expected a distribution as the prior width, got float"):
        UnknownNoise(0.1)
    with pytest.raises(ValueError, match=r"over single numbers, got the event shape \(3,\)"):
        UnknownNoise(dist.LogNormal(torch.zeros(3), 1.0).to_event(1))
    with pytest.raises(ValueError, match="at least one quadrature node"):
        UnknownNoise(WIDTH, nodes=0)
    with pytest.raises(ValueError, match="margin of at least 0, got -1"):
        UnknownBackground.around(cloud, margin=-1.0)
    with pytest.raises(ValueError, match="expected positive numbers"):
        UnknownNoise.around(cloud, relative=0.0)
    with pytest.raises(ValueError, match=r"\(\*batch, N, D\), got shape \(3,\)"):
        UnknownNoise.around(cloud[0])
    with pytest.raises(ValueError, match="mask of booleans"):
        UnknownNoise.around(cloud, torch.ones(5))
    with pytest.raises(ValueError, match="at least one point in every cloud"):
        UnknownNoise.around(cloud, torch.zeros(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="finite ones"):
        UnknownNoise.around(cloud / 0)
    with pytest.raises(ValueError, match="a cloud of one place has no size"):
        UnknownBackground.around(cloud[:1])

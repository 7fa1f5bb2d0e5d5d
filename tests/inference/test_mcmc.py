"""NUTS and HMC over contexts and poses: potential energies by hand, posteriors in closed form and on a grid."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from pyro.ops.stats import effective_sample_size
from torch.distributions.transforms import AffineTransform

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from pyro_pcflow.distributions import with_background
from pyro_pcflow.infer import sample_pose

SIZES = torch.tensor([0, 1, 3, 6])
PRIOR = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
PLACE = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), 0.5)
LOG_SIZE = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 0.3)
# For the posterior of `known`, whose standard deviation is about 0.3 in every direction.
WELL_TUNED = {"step_size": 0.12, "num_steps": 4, "adapt_step_size": False, "adapt_mass_matrix": False}


class OneCloud:
    """A context and its cloud; a class, so that it can be sent to another process."""

    def __init__(self, flow):
        self.flow = flow

    def __call__(self, cloud):
        z = pyro.sample("z", dist.Normal(PRIOR.loc, 1).to_event(1))
        pyro.sample("x", self.flow.cloud(z, num_points=len(cloud)), obs=cloud)


class CloudsAsEvents(OneCloud):
    def __call__(self, clouds, mask):
        with pyro.plate("clouds", len(clouds)):
            z = pyro.sample("z", dist.Normal(PRIOR.loc, 1).to_event(1))
            pyro.sample("x", self.flow.cloud(z, mask=mask), obs=clouds)


class CloudsAsPlates(OneCloud):
    def __call__(self, clouds, mask):
        with pyro.plate("clouds", len(clouds), dim=-2):
            z = pyro.sample("z", dist.Normal(PRIOR.loc, 1).to_event(1))
            with pyro.plate("points", clouds.shape[1], dim=-1), pyro.poutine.mask(mask=mask):
                pyro.sample("x", self.flow.condition(z), obs=clouds)


class Pose:
    """A known shape at an unknown place and of unknown size; base and transforms are kept between calls."""

    def __init__(self, base, transforms=()):
        self.base, self.transforms = base, transforms

    def __call__(self, cloud):
        place = pyro.sample("place", dist.Normal(PLACE.loc, PLACE.scale).to_event(1))
        size = pyro.sample("size", dist.LogNormal(LOG_SIZE.loc, LOG_SIZE.scale))
        # With event_dim=1 torch would count the log-determinant of a scalar scale once instead of three times.
        pose = AffineTransform(place, size.expand(3), event_dim=1)
        posed = dist.TransformedDistribution(self.base, [*self.transforms, pose])
        pyro.sample("x", pcf.PointCloud(posed, len(cloud)), obs=cloud)


@pytest.fixture(scope="module")
def known():
    # Of this seed the posterior has nearly the same width in all directions, which samplers like.
    return make_conjugate(num_couplings=2, seed=10)


@pytest.fixture
def cloud(known):
    return known.flow.cloud(torch.tensor([0.5, -1.0], dtype=torch.float64), num_points=6).sample()


@pytest.fixture
def clouds(known):
    return known.flow.cloud(PRIOR.sample((4,)), num_points=6).sample(), torch.arange(6) < SIZES.unsqueeze(-1)


def make_shape(context_dim):
    """A point distribution without high frequencies, so that a coarse grid integrates it."""
    with torch.random.fork_rng():
        flow = pcf.PointCloudFlow(
            3, context_dim, num_couplings=3, hidden_dims=[8], activation="tanh", num_frequencies=0
        )
        pcf.testing.randomize_parameters(flow)
    context = torch.linspace(-1, 1, context_dim, dtype=torch.float64) if context_dim else None
    return flow.double().requires_grad_(False), context


def assert_mean(values, expected, min_effective):
    """Means over `(chains, samples)` within four standard errors by the effective sample size."""
    effective = effective_sample_size(values)
    assert (effective > min_effective).all(), effective
    # An estimate above the number of draws is believed no further.
    effective = effective.clamp(max=values.shape[0] * values.shape[1])
    values = values.flatten(0, 1)
    error = 4 * values.std(0) / effective.sqrt()
    assert ((values.mean(0) - expected).abs() < error).all(), (values.mean(0), expected, error)


def assert_normal_moments(samples, posterior, min_effective):
    """Mean and covariance of samples `(chains, samples, *batch, C)`, where the posterior is standardised."""
    standard = torch.linalg.solve_triangular(
        posterior.scale_tril, (samples - posterior.mean).unsqueeze(-1), upper=False
    ).squeeze(-1)
    assert_mean(standard, torch.zeros_like(standard[0, 0]), min_effective)
    products = standard.unsqueeze(-1) * standard.unsqueeze(-2)
    identity = torch.eye(samples.shape[-1], dtype=samples.dtype)
    assert_mean(products, identity.expand_as(products[0, 0]), min_effective / 2)


def run(kernel, *data, num_samples, warmup_steps, **options):
    pyro.set_rng_seed(0)
    mcmc = MCMC(kernel, num_samples, warmup_steps, disable_progbar=True, **options)
    mcmc.run(*data)
    return mcmc


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("case", ["cloud", "events", "plates", "pose", "pose in one list", "pose without context"])
def test_potential_is_minus_the_log_joint(known, cloud, clouds, case, jit_compile):
    """At several points, twice, in turn and in place, with gradients: no memory may get between them."""
    flow = known.flow
    if case.startswith("pose"):
        flow, context = make_shape(context_dim=0 if case == "pose without context" else 2)
        shape = flow.condition(context)
        model = Pose(shape) if case == "pose" else Pose(shape.base_dist, shape.transforms)
        data = (cloud,)
        shapes = {"place": (3,), "size": ()}

        def log_joint(place, size):  # size on the scale of its logarithm, where a log-normal is a normal
            points = (cloud - place) / size.exp()
            likelihood = flow.log_prob(points, context).sum() - 3 * len(cloud) * size
            return PLACE.log_prob(place).sum() + LOG_SIZE.log_prob(size) + likelihood

    elif case == "cloud":
        model, data, shapes = OneCloud(flow), (cloud,), {"z": (2,)}

        def log_joint(z):
            return PRIOR.log_prob(z).sum() + sum(flow.log_prob(point, z) for point in cloud)

    else:
        model = (CloudsAsEvents if case == "events" else CloudsAsPlates)(flow)
        points, mask = clouds
        padding = float("nan") if case == "events" else 0.0
        data = (torch.where(mask.unsqueeze(-1), points, padding), mask)
        shapes = {"z": (4, 2) if case == "events" else (4, 1, 2)}

        def log_joint(z):
            scores = [
                flow.log_prob(points[b, n], z.reshape(4, 2)[b]) for b, size in enumerate(SIZES) for n in range(size)
            ]
            return PRIOR.log_prob(z).sum() + sum(scores)

    _, potential_fn, _, _ = initialize_model(model, data, jit_compile=jit_compile, skip_jit_warnings=True)
    places = [{k: torch.randn(s, dtype=torch.float64) for k, s in shapes.items()} for _ in range(3)]
    moved = {k: v.clone() for k, v in places[0].items()}
    for i, params in enumerate([*places, *places, moved, places[1], moved, moved]):
        if i == 8:
            for value in moved.values():
                value += 0.5
        gradient, energy = potential_grad(potential_fn, params)
        leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
        expected = log_joint(**leaves)
        torch.testing.assert_close(energy, -expected.detach(), rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(potential_fn(params), -expected.detach(), rtol=1e-10, atol=1e-10)
        by_autograd = torch.autograd.grad(expected, list(leaves.values()))
        for name, slope in zip(leaves, by_autograd, strict=True):
            torch.testing.assert_close(gradient[name], -slope, rtol=1e-9, atol=1e-9)

    # The slope along a random line, without autograd.
    step = {k: 1e-5 * torch.randn_like(v) for k, v in moved.items()}
    up, down = ({k: v + sign * step[k] for k, v in moved.items()} for sign in (1, -1))
    rise = (log_joint(**down) - log_joint(**up)) / 2
    torch.testing.assert_close(sum((gradient[k] * step[k]).sum() for k in step), rise, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("in_one_list", [False, True])
def test_potential_follows_the_weights(cloud, in_one_list):
    """An energy, other weights, the same tensor again; also by a write that leaves no version."""
    flow, context = make_shape(context_dim=2)
    shape = flow.condition(context)
    model = Pose(shape.base_dist, shape.transforms) if in_one_list else Pose(shape)
    _, potential_fn, _, _ = initialize_model(model, (cloud,))
    params = {"place": torch.zeros(3, dtype=torch.float64), "size": torch.zeros((), dtype=torch.float64)}
    prior = PLACE.log_prob(params["place"]).sum() + LOG_SIZE.log_prob(params["size"])
    energies = []
    for write in (lambda p: None, lambda p: p.mul_(1.1), lambda p: p.data.mul_(1.1)):
        with torch.no_grad():
            for parameter in flow.transform.parameters():
                write(parameter)
        energies.append(potential_grad(potential_fn, params)[1])
        expected = prior + flow.log_prob(cloud, context).sum()
        torch.testing.assert_close(energies[-1], -expected, rtol=1e-10, atol=1e-10)
    assert len(set(energies)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", ["NUTS", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("compiled NUTS", "HMC"))]
)
def test_posterior_of_a_context(known, cloud, sampler):
    """Mean and covariance in closed form, a hundred effective samples or more."""
    model = OneCloud(known.flow)
    num_samples, warmup_steps = 500, 150
    if sampler == "HMC":
        kernel = HMC(model, **WELL_TUNED)
        warmup_steps = 20
    elif sampler == "NUTS":
        kernel = NUTS(model, full_mass=True)
    else:
        kernel = NUTS(model, jit_compile=True, ignore_jit_warnings=True)
        num_samples = 800
    mcmc = run(kernel, cloud, num_samples=num_samples, warmup_steps=warmup_steps)
    diagnostics = mcmc.diagnostics()
    assert (diagnostics["z"]["r_hat"] < 1.01).all()
    assert diagnostics["divergences"] == {"chain 0": []}
    assert_normal_moments(mcmc.get_samples(group_by_chain=True)["z"], known.posterior(cloud), min_effective=100)


def test_pose_before_a_background_under_jit():
    """The traced potential is the plain one, also away from where it was traced."""
    flow, _ = make_shape(context_dim=0)
    scan = flow.cloud(num_points=6).sample()

    def model(scan):
        outlier = pyro.sample("outlier", dist.Beta(PRIOR.scale, 3.0))
        pose = sample_pose(around=torch.tensor([1.0, 0.0, 0.0, 0.0]).double())
        point = with_background(
            dist.TransformedDistribution(flow.condition(), [pose]), outlier, scan.amin(0), scan.amax(0)
        )
        pyro.sample("scan", pcf.PointCloud(point, len(scan)), obs=scan)

    _, plain, _, _ = initialize_model(model, (scan,))
    _, traced, _, _ = initialize_model(model, (scan,), jit_compile=True, skip_jit_warnings=True)
    for _ in range(3):
        params = {"outlier": torch.randn(()).double(), "pose_quaternion_offset": 0.3 * torch.randn(4).double()}
        torch.testing.assert_close(traced(params), plain(params))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "padding"),
    [(CloudsAsEvents, float("nan")), pytest.param(CloudsAsPlates, 1e3, marks=pytest.mark.exhaustive)],
)
def test_posteriors_of_clouds_of_different_sizes(known, clouds, model, padding):
    """Each in closed form; that of an empty cloud is the prior."""
    points, mask = clouds
    posterior = known.posterior(points, mask)
    torch.testing.assert_close(posterior.mean[0], PRIOR.mean)
    torch.testing.assert_close(posterior.covariance_matrix[0], torch.eye(2, dtype=torch.float64))
    kernel = NUTS(model(known.flow), jit_compile=True, ignore_jit_warnings=True)
    points = torch.where(mask.unsqueeze(-1), points, padding)
    mcmc = run(kernel, points, mask, num_samples=300, warmup_steps=100)
    samples = mcmc.get_samples(group_by_chain=True)["z"].reshape(1, 300, 4, 2)
    assert_normal_moments(samples, posterior, min_effective=100)


@pytest.mark.slow
def test_posterior_of_a_pose():
    """Place and size against a trapezoid rule in four dimensions, by the way of `initialize_model`."""
    flow, context = make_shape(context_dim=2)
    shape = flow.condition(context)
    cloud = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64) + 1.2 * shape.sample((6,))
    start, potential_fn, transforms, _ = initialize_model(
        Pose(shape), (cloud,), jit_compile=True, skip_jit_warnings=True
    )
    kernel = NUTS(potential_fn=potential_fn, full_mass=True)
    mcmc = run(kernel, num_samples=500, warmup_steps=150, initial_params=start, transforms=transforms)
    samples = mcmc.get_samples(group_by_chain=True)
    assert (samples["size"] > 0).all()
    got = torch.cat([samples["place"], samples["size"].log().unsqueeze(-1)], -1)

    # The posterior is as wide as one or two steps, where the rule is exact to many digits.
    along = torch.linspace(-2, 2, 16, dtype=torch.float64)
    grid = torch.cartesian_prod(along, along, along, torch.linspace(-0.9, 1, 16, dtype=torch.float64))
    place, log_size = grid[:, :3], grid[:, 3:]
    log_joint = PLACE.log_prob(place).sum(-1) + LOG_SIZE.log_prob(log_size).squeeze(-1)
    for point in cloud:
        log_joint += shape.log_prob((point - place) / log_size.exp()) - 3 * log_size.squeeze(-1)
    weights = log_joint.softmax(0)
    mean = weights @ grid
    covariance = (weights.unsqueeze(-1) * (grid - mean)).T @ (grid - mean)
    assert_normal_moments(got, torch.distributions.MultivariateNormal(mean, covariance), min_effective=100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["fork", *(pytest.param(way, marks=pytest.mark.exhaustive) for way in ("one by one", "spawn"))]
)
# From Python 3.12 on every fork of a process with threads warns, and Pyro starts a thread for its log.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_chains(known, cloud, monkeypatch, way):
    """Pyro takes chains in parallel where there are more cores than chains; tell it that there are."""
    cores = 2 if way == "one by one" else 3
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: cores)
    options = {"num_chains": 2, "num_samples": 250, "warmup_steps": 20}
    kernel = HMC(OneCloud(known.flow), **WELL_TUNED)
    threads = torch.get_num_threads()
    # A forked process must not enter a pool of threads that stayed behind in its parent.
    torch.set_num_threads(1)
    try:
        if way == "one by one":
            with pytest.warns(UserWarning, match="sequentially"):
                mcmc = run(kernel, cloud, **options)
        else:
            mcmc = run(kernel, cloud, **options, mp_context=way)
    finally:
        torch.set_num_threads(threads)
    samples = mcmc.get_samples(group_by_chain=True)["z"]
    assert samples.shape == (2, 250, 2)
    assert not (samples[0] == samples[1]).any()
    assert (mcmc.diagnostics()["z"]["r_hat"] < 1.01).all()
    assert_normal_moments(samples, known.posterior(cloud), min_effective=100)


def test_compiled_potentials_need_a_frozen_flow(cloud):
    """Of Pyro and torch.jit, as with any module in a model; without compiling a trainable flow is as good."""
    flow = make_conjugate(num_couplings=2, seed=10).flow.requires_grad_(True)
    with pytest.raises(RuntimeError, match="Cannot insert a Tensor that requires grad"):
        run(NUTS(OneCloud(flow), jit_compile=True, ignore_jit_warnings=True), cloud, num_samples=2, warmup_steps=2)
    trained = run(NUTS(OneCloud(flow)), cloud, num_samples=10, warmup_steps=10).get_samples()["z"]
    assert all(parameter.grad is None for parameter in flow.parameters())
    frozen = run(NUTS(OneCloud(flow.requires_grad_(False))), cloud, num_samples=10, warmup_steps=10).get_samples()["z"]
    torch.testing.assert_close(trained, frozen)

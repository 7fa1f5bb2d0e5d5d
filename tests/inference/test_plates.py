"""Plates, subsampling, scales and masks around points and clouds, against sums over a table of single densities."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.func import jacrev

import pyro_pcflow as pcf

CLOUDS, POINTS, CONTEXT = 4, 3, 2


@dataclass
class Problem:
    """A random flow with everything that a log-joint is the sum of."""

    flow: pcf.PointCloudFlow
    contexts: torch.Tensor  # (B, C)
    clouds: torch.Tensor  # (B, N, 3)
    prior: torch.Tensor  # (B,), log-density of each context
    scores: torch.Tensor  # (B, N), log-density of each point under the context of its cloud
    mask: torch.Tensor  # (B, N), clouds of 0, 1, 2 and 3 points


@pytest.fixture(scope="module", params=["bias", "film"])
def problem(request):
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(
        3, CONTEXT, num_couplings=3, hidden_dims=[8], conditioning=request.param, base="conditional"
    )
    pcf.testing.randomize_parameters(flow)
    flow.normalize(3 + 2 * torch.randn(50, 3))
    flow = flow.double().eval().requires_grad_(False)
    contexts = torch.randn(CLOUDS, CONTEXT, dtype=torch.float64)
    clouds = torch.randn(CLOUDS, POINTS, 3, dtype=torch.float64)
    scores = torch.stack([torch.stack([score(flow, x, c) for x in xs]) for xs, c in zip(clouds, contexts, strict=True)])
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(contexts).sum(-1)
    mask = torch.arange(POINTS) < torch.arange(CLOUDS).unsqueeze(-1)
    return Problem(flow, contexts, clouds, prior, scores, mask)


def score(flow, point, context):
    """The density of one point by the change of variables, with the Jacobian from autograd."""

    def noise(x):
        return flow.transform.condition(context).inverse_and_log_det(x)[0]

    loc, log_scale = flow.base.network(context).chunk(2)
    normal = torch.distributions.Normal(loc, log_scale.tanh().exp())
    return normal.log_prob(noise(point)).sum() + torch.linalg.slogdet(jacrev(noise)(point)).logabsdet


def prior():
    return dist.Normal(torch.zeros(CONTEXT, dtype=torch.float64), 1.0).to_event(1)


def as_plates(problem, clouds_plate, points_plate, masked=False):
    """A plate of points inside the plate of clouds."""
    with pyro.plate("clouds", CLOUDS, dim=-2, **clouds_plate):
        z = pyro.sample("z", prior(), obs=pyro.subsample(problem.contexts.unsqueeze(-2), event_dim=1))
        with pyro.plate("points", POINTS, dim=-1, **points_plate):
            mask = pyro.subsample(problem.mask, event_dim=0) if masked else True
            with poutine.mask(mask=mask):
                pyro.sample("x", problem.flow.condition(z), obs=pyro.subsample(problem.clouds, event_dim=1))


def as_masked_points(problem, clouds_plate, points_plate, masked=False):
    """The same with the mask on the distribution, and plates that hand out their indices."""
    points = pyro.plate("points", POINTS, dim=-1, **points_plate)
    with pyro.plate("clouds", CLOUDS, dim=-2, **clouds_plate) as i:
        z = pyro.sample("z", prior(), obs=problem.contexts[i].unsqueeze(-2))
        with points as j:
            point = problem.flow.condition(z)
            if masked:
                point = point.mask(problem.mask[i][:, j])
            pyro.sample("x", point, obs=problem.clouds[i][:, j])


def as_event(problem, clouds_plate, points_plate, masked=False):
    """One event per cloud. No plate reaches into an event, so that N / n is a scale of its own."""
    j = points_plate.get("subsample")
    if j is None:
        j = torch.randperm(POINTS)[: points_plate.get("subsample_size", POINTS)]
    with pyro.plate("clouds", CLOUDS, **clouds_plate) as i:
        z = pyro.sample("z", prior(), obs=problem.contexts[i])
        mask = problem.mask[i][:, j] if masked else None
        with poutine.scale(scale=POINTS / len(j)):
            pyro.sample("x", problem.flow.cloud(z, num_points=len(j), mask=mask), obs=problem.clouds[i][:, j])


SPELLINGS = [as_plates, as_masked_points, as_event]


def log_joint(model, *args, **kwargs):
    return poutine.trace(model).get_trace(*args, **kwargs).log_prob_sum()


def subsets(size, count):
    return [torch.tensor(chosen) for chosen in combinations(range(size), count)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("model", SPELLINGS)
def test_full_log_joint(problem, model, masked):
    """Masked, the clouds have 0, 1, 2 and 3 points."""
    expected = problem.prior.sum() + (problem.scores[problem.mask] if masked else problem.scores).sum()
    torch.testing.assert_close(log_joint(model, problem, {}, {}, masked), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("num_clouds", "num_points"), [(2, 3), (4, 2), (3, 2), (1, 1)])
@pytest.mark.parametrize("model", SPELLINGS)
def test_all_subsamples_average_to_the_full_log_joint(problem, model, num_clouds, num_points, masked):
    scores = problem.scores * problem.mask if masked else problem.scores
    estimates = []
    for i, j in product(subsets(CLOUDS, num_clouds), subsets(POINTS, num_points)):
        estimates.append(log_joint(model, problem, {"subsample": i}, {"subsample": j}, masked))
        by_hand = problem.prior[i].sum() + POINTS / num_points * scores[i][:, j].sum()
        torch.testing.assert_close(estimates[-1], CLOUDS / num_clouds * by_hand)
    full = problem.prior.sum() + scores.sum()
    torch.testing.assert_close(torch.stack(estimates).mean(), full)
    # Otherwise nothing was subsampled, and the mean would say nothing.
    assert torch.stack(estimates).std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("model", SPELLINGS)
def test_random_subsamples_are_unbiased(problem, model):
    """Within four standard errors of the mean of 400 draws of Pyro's own."""
    sizes = {"subsample_size": 2}
    estimates = torch.stack([log_joint(model, problem, sizes, sizes) for _ in range(400)])
    full = problem.prior.sum() + problem.scores.sum()
    assert abs(estimates.mean() - full) < 4 * estimates.std() / 20
    # The draws must be random, and every one of the 6 * 3 subsamples possible.
    assert len(estimates.round(decimals=6).unique()) == 18


def test_a_cloud_event_ignores_the_size_of_a_plate_of_points(problem):
    """What goes wrong without the scale by hand: each of the n entries of the plate counts the whole cloud."""

    def model(j):
        with pyro.plate("clouds", CLOUDS, dim=-1), pyro.plate("points", POINTS, dim=-2, subsample=j):
            cloud = problem.flow.cloud(problem.contexts, num_points=len(j))
            pyro.sample("x", cloud, obs=problem.clouds[:, j])

    for j in subsets(POINTS, 2):
        right = POINTS / len(j) * problem.scores[:, j].sum()
        torch.testing.assert_close(log_joint(model, j), len(j) * right)


@pytest.mark.parametrize("num_clouds", [1, 3, 4])
def test_sequential_plate_of_clouds_of_different_sizes(problem, num_clouds):
    """Without a mask: the clouds have 0, 1, 2 and 3 points."""

    def model(chosen):
        for i in pyro.plate("clouds", CLOUDS, subsample=chosen):
            z = pyro.sample(f"z_{i}", prior(), obs=problem.contexts[i])
            cloud = problem.clouds[i][problem.mask[i]]
            pyro.sample(f"x_{i}", problem.flow.cloud(z, num_points=len(cloud)), obs=cloud)

    estimates = torch.stack([log_joint(model, chosen) for chosen in subsets(CLOUDS, num_clouds)])
    torch.testing.assert_close(estimates.mean(), problem.prior.sum() + problem.scores[problem.mask].sum())


@pytest.mark.parametrize("padding", [0.0, 1e3, float("nan")])
def test_masks_leave_the_gradient_of_the_shorter_cloud(problem, padding):
    """In every spelling; an empty cloud says nothing about its context."""
    expected = []
    for cloud, mask, context in zip(problem.clouds, problem.mask, problem.contexts, strict=True):
        z = context.clone().requires_grad_()
        total = sum((score(problem.flow, point, z) for point in cloud[mask]), 0 * z.sum())
        expected.append(torch.autograd.grad(total, z)[0])
    expected = torch.stack(expected)
    assert (expected[0] == 0).all()
    assert (expected[1:] != 0).all()

    clouds = torch.where(problem.mask.unsqueeze(-1), problem.clouds, padding)
    z = problem.contexts.clone().requires_grad_()

    def with_poutine():
        clouds_plate, points_plate = pyro.plate("clouds", CLOUDS, dim=-2), pyro.plate("points", POINTS, dim=-1)
        with clouds_plate, points_plate, poutine.mask(mask=problem.mask):
            pyro.sample("x", problem.flow.condition(z.unsqueeze(-2)), obs=clouds)

    def with_masked_distribution():
        with pyro.plate("clouds", CLOUDS, dim=-2), pyro.plate("points", POINTS, dim=-1):
            pyro.sample("x", problem.flow.condition(z.unsqueeze(-2)).mask(problem.mask), obs=clouds)

    def with_event():
        with pyro.plate("clouds", CLOUDS):
            pyro.sample("x", problem.flow.cloud(z, mask=problem.mask), obs=clouds)

    for model in (with_poutine, with_masked_distribution, with_event):
        if padding != padding and model is not with_event:
            # Pyro scores what it masks: only a cloud event takes padding that is not a number.
            with pytest.raises(ValueError, match=r"support|finite"):
                log_joint(model)
            continue
        value = log_joint(model)
        torch.testing.assert_close(value, problem.scores[problem.mask].sum())
        torch.testing.assert_close(torch.autograd.grad(value, z)[0], expected)


def test_whole_clouds_are_masked_under_a_plate_of_clouds(problem):
    kept = torch.tensor([True, False, True, False])

    def model():
        with pyro.plate("clouds", CLOUDS), poutine.mask(mask=kept):
            pyro.sample("x", problem.flow.cloud(problem.contexts, mask=problem.mask), obs=problem.clouds)

    expected = (problem.scores * problem.mask)[kept].sum()
    torch.testing.assert_close(log_joint(model), expected)


def nested_as_plates(problem, plates, masked):
    """Two categories of two clouds each: a context of the category, one of the cloud, and points."""
    categories, clouds, points = plates
    contexts, x = problem.contexts.reshape(2, 2, 1, CONTEXT), problem.clouds.reshape(2, 2, POINTS, 3)
    with pyro.plate("categories", 2, dim=-3, subsample=categories) as k:
        mean = pyro.sample("mean", prior(), obs=contexts[k, :1].mean(-2, keepdim=True))
        with pyro.plate("clouds", 2, dim=-2, subsample=clouds) as i:
            z = pyro.sample("z", dist.Normal(mean, 0.5).to_event(1), obs=contexts[k][:, i])
            with pyro.plate("points", POINTS, dim=-1, subsample=points) as j:
                mask = problem.mask.reshape(2, 2, POINTS)[k][:, i][..., j] if masked else True
                with poutine.mask(mask=mask):
                    pyro.sample("x", problem.flow.condition(z), obs=x[k][:, i][..., j, :])


def nested_as_events(problem, plates, masked):
    categories, clouds, j = plates
    contexts, x = problem.contexts.reshape(2, 2, CONTEXT), problem.clouds.reshape(2, 2, POINTS, 3)
    with pyro.plate("categories", 2, dim=-2, subsample=categories) as k:
        mean = pyro.sample("mean", prior(), obs=contexts[k, :1])
        with pyro.plate("clouds", 2, dim=-1, subsample=clouds) as i:
            z = pyro.sample("z", dist.Normal(mean, 0.5).to_event(1), obs=contexts[k][:, i])
            mask = problem.mask.reshape(2, 2, POINTS)[k][:, i][..., j] if masked else None
            with poutine.scale(scale=POINTS / len(j)):
                cloud = problem.flow.cloud(z, num_points=len(j), mask=mask)
                pyro.sample("x", cloud, obs=x[k][:, i][..., j, :])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("counts", [(2, 2, 3), (1, 2, 3), (2, 1, 3), (1, 1, 2)])
@pytest.mark.parametrize("model", [nested_as_plates, nested_as_events])
def test_categories_of_clouds(problem, model, counts, masked):
    contexts = problem.contexts.reshape(2, 2, CONTEXT)
    between = torch.distributions.Normal(contexts[:, :1], 0.5).log_prob(contexts).sum()
    scores = problem.scores * problem.mask if masked else problem.scores
    full = problem.prior[::2].sum() + between + scores.sum()
    every = product(*(subsets(size, count) for size, count in zip((2, 2, POINTS), counts, strict=True)))
    estimates = torch.stack([log_joint(model, problem, plates, masked) for plates in every])
    torch.testing.assert_close(estimates.mean(), full)
    assert len(estimates) == 1 or estimates.std() > 0.1


@pytest.mark.parametrize("model", ["plates", "event"])
def test_draws_under_plates_belong_to_their_contexts(problem, model):
    """Carried back to noise by its own context, every point of every cloud is standard normal."""
    flow, size = problem.flow, 2000
    if model == "plates":
        with pyro.plate("clouds", CLOUDS, subsample_size=2, dim=-2) as i:
            contexts = problem.contexts[i].unsqueeze(-2)
            with pyro.plate("points", 10 * size, subsample_size=size, dim=-1):
                x = pyro.sample("x", flow.condition(contexts))
    else:
        with pyro.plate("clouds", CLOUDS, subsample_size=2) as i:
            contexts = problem.contexts[i].unsqueeze(-2)
            x = pyro.sample("x", flow.cloud(problem.contexts[i], num_points=size))
    assert x.shape == (2, size, 3)
    for cloud, context in zip(x, contexts.squeeze(-2), strict=True):
        noise, _ = flow.transform.condition(context).inverse_and_log_det(cloud)
        loc, log_scale = flow.base.network(context).chunk(2)
        noise = (noise - loc) / log_scale.tanh().exp()
        # Standard errors of the mean and of the covariance of standard normal draws; that of a variance is larger.
        assert (noise.mean(0).abs() < 4 / size**0.5).all()
        assert ((noise.T.cov() - torch.eye(3)).abs() < 4 * (2 / size) ** 0.5).all()

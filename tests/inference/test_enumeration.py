"""Mixtures of flows with enumerated labels, per cloud and per point, against sums over every assignment."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    JitTraceEnum_ELBO,
    TraceEnum_ELBO,
    config_enumerate,
    infer_discrete,
)
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.stats import effective_sample_size
from torch.nn.functional import one_hot

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SIZES = torch.tensor([0, 1, 3])
MASK = torch.arange(3) < SIZES.unsqueeze(-1)
NUM_KINDS = 3


def no_guide(*args):
    pass


# One flow stands for all kinds: the label chooses its context. With an enumerated label the context gets a
# dimension for the kinds on its left, and everything else broadcasts.
def label_per_cloud_event(flow, context_of, log_weights, clouds, mask):
    with pyro.plate("clouds", len(clouds)):
        label = pyro.sample("label", dist.Categorical(logits=log_weights), infer={"enumerate": "parallel"})
        pyro.sample("x", flow.cloud(context_of(label), num_points=clouds.shape[1], mask=mask), obs=clouds)
    return label


def label_per_cloud_plate(flow, context_of, log_weights, clouds, mask):
    with pyro.plate("clouds", len(clouds), dim=-2):
        label = pyro.sample("label", dist.Categorical(logits=log_weights), infer={"enumerate": "parallel"})
        with pyro.plate("points", clouds.shape[1], dim=-1), pyro.poutine.mask(mask=mask):
            pyro.sample("x", flow.condition(context_of(label)), obs=clouds)
    return label


def label_per_point(flow, context_of, log_weights, clouds, mask):
    with pyro.plate("clouds", len(clouds), dim=-2), pyro.plate("points", clouds.shape[1], dim=-1):
        label = pyro.sample("label", dist.Categorical(logits=log_weights), infer={"enumerate": "parallel"})
        with pyro.poutine.mask(mask=mask):
            pyro.sample("x", flow.condition(context_of(label)), obs=clouds)
    return label


SPELLINGS = {"event": label_per_cloud_event, "plate": label_per_cloud_plate, "point": label_per_point}


@pytest.fixture
def flow():
    flow = pcf.PointCloudFlow(3, NUM_KINDS, num_couplings=3, hidden_dims=[8], base="conditional").double()
    pcf.testing.randomize_parameters(flow, 0.2)
    return flow.requires_grad_(False)


@pytest.fixture
def table():
    return torch.randn(NUM_KINDS, NUM_KINDS, dtype=torch.float64)


@pytest.fixture
def clouds(flow, table):
    return flow.cloud(table[torch.tensor([0, 1, 1])], num_points=3).sample()


def scores_of_points(flow, contexts, clouds, mask):
    """`log p(point | kind)`, shape `(clouds, points, kinds)`, one at a time; zero where there is no point."""
    scores = torch.zeros(*mask.shape, len(contexts), dtype=clouds.dtype)
    for b, n in mask.nonzero().tolist():
        for k, context in enumerate(contexts):
            scores[b, n, k] = flow.log_prob(clouds[b, n], context)
    return scores


def over_all_assignments(scores, log_weights):
    """`log p` of everything and the probability of each label, from `(labels, kinds)`, by brute force."""
    rows = torch.arange(len(scores))
    assignments = torch.tensor(list(itertools.product(range(scores.shape[-1]), repeat=len(scores))))
    log_joint = (scores + log_weights)[rows, assignments].sum(-1)
    shares = log_joint.softmax(0) @ one_hot(assignments).flatten(1).to(scores.dtype)
    return log_joint.logsumexp(0), shares.reshape(scores.shape)


@pytest.mark.parametrize("context", ["one of K", "table"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_evidence_and_responsibilities_over_all_assignments(flow, table, clouds, spelling, masked, context):
    """The loss, `compute_marginals`, and the gradient with respect to log-weights; padding has the prior."""
    if context == "one of K":
        table = torch.eye(NUM_KINDS, dtype=torch.float64)

        def context_of(label):
            return one_hot(label, NUM_KINDS).double()
    else:

        def context_of(label):
            return table[label]

    if not masked:
        clouds = clouds[:2, :2]
    mask = MASK if masked else torch.ones(2, 2, dtype=torch.bool)
    clouds = torch.where(mask.unsqueeze(-1), clouds, float("nan") if spelling == "event" else 1e3)
    scores = scores_of_points(flow, table, clouds, mask)
    if spelling == "point":
        shape = mask.shape
        evidence, shares = over_all_assignments(scores[mask], WEIGHTS.log())
        expected = WEIGHTS.expand(scores.shape).clone()
        expected[mask] = shares
    else:
        shape = mask.shape[:1] if spelling == "event" else (len(clouds), 1)
        evidence, expected = over_all_assignments(scores.sum(1), WEIGHTS.log())
        assert not masked or torch.allclose(expected[0], WEIGHTS)
        expected = expected.reshape(*shape, NUM_KINDS)
    assert (expected - WEIGHTS).abs().max() > 0.2

    model = partial(SPELLINGS[spelling], flow, context_of)
    log_weights = WEIGHTS.log().expand(*shape, NUM_KINDS).clone().requires_grad_()
    data = (log_weights, clouds, mask if masked or spelling != "event" else None)
    elbo = TraceEnum_ELBO(max_plate_nesting=len(shape))
    loss = elbo.differentiable_loss(model, no_guide, *data)
    torch.testing.assert_close(loss, -evidence)
    torch.testing.assert_close(loss.item(), elbo.loss(config_enumerate(model), no_guide, *data))
    marginal = elbo.compute_marginals(model, no_guide, *data)["label"]
    torch.testing.assert_close(marginal.probs.detach(), expected)
    # A log-weight raises the evidence by as much as its kind is likelier than before.
    (slope,) = torch.autograd.grad(-loss, log_weights)
    torch.testing.assert_close(slope, expected - WEIGHTS)


def test_a_mask_around_points_and_labels_counts_no_padding(flow, table, clouds):
    """A masked label has a log-density of zero for each kind, whose sum would be `log K` for each padded point."""

    def model(clouds):
        with pyro.plate("clouds", 3, dim=-2), pyro.plate("points", 3, dim=-1), pyro.poutine.mask(mask=MASK):
            label = pyro.sample("label", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            pyro.sample("x", flow.condition(table[label]), obs=clouds)

    evidence, shares = over_all_assignments(scores_of_points(flow, table, clouds, MASK)[MASK], WEIGHTS.log())
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    assert elbo.loss(model, no_guide, clouds) == pytest.approx(-evidence.item(), rel=1e-10)
    probs = elbo.compute_marginals(model, no_guide, clouds)["label"].probs
    torch.testing.assert_close(probs[MASK], shares)
    torch.testing.assert_close(probs[~MASK], WEIGHTS.expand(5, NUM_KINDS))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_sampled_labels_have_the_frequencies_of_the_responsibilities(flow, table, clouds, spelling):
    copies = 1000
    scores = scores_of_points(flow, table, clouds, MASK)
    if spelling != "point":
        scores = scores.sum(1)
    expected = (scores + WEIGHTS.log()).softmax(-1)
    model = partial(SPELLINGS[spelling], flow, table.__getitem__, WEIGHTS.log())
    sampler = infer_discrete(model, first_available_dim=-2 if spelling == "event" else -3, temperature=1)
    pyro.set_rng_seed(0)
    labels = sampler(clouds.repeat(copies, 1, 1), MASK.repeat(copies, 1))
    frequencies = one_hot(labels.reshape(copies, *expected.shape[:-1]), NUM_KINDS).double().mean(0)
    error = 4 * (expected * (1 - expected) / copies).sqrt() + 1e-3
    assert ((frequencies - expected).abs() < error).all()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_likeliest_labels_are_the_planted_ones(spelling):
    """Kinds that are more than eleven standard deviations apart; what was not seen has the likeliest kind."""
    known = make_conjugate()
    table = 20 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    centres = (table @ known.loc.T) / known.scale
    assert torch.nn.functional.pdist(centres).min() > 11
    planted = dist.Categorical(WEIGHTS).sample((40,) if spelling == "event" else (40, 1))
    sizes = torch.arange(40) % 5
    mask = torch.arange(4) < sizes.unsqueeze(-1)
    if spelling == "point":
        planted = dist.Categorical(WEIGHTS).sample((40, 4))
    clouds = known.flow.condition(table[planted.reshape(40, -1)]).expand((40, 4)).sample()
    model = partial(SPELLINGS[spelling], known.flow, table.__getitem__, WEIGHTS.log())
    finder = infer_discrete(model, first_available_dim=-2 if spelling == "event" else -3, temperature=0)
    found = finder(clouds, mask)
    seen = mask if spelling == "point" else (sizes > 0).reshape(planted.shape)
    assert planted[seen].unique().tolist() == [0, 1, 2]
    assert torch.equal(found[seen], planted[seen])
    assert (found[~seen] == 0).all()


@pytest.mark.slow
def test_svi_learns_weights_and_embeddings():
    """Well-separated kinds: the likeliest weights are the planted counts, the embeddings a least-squares fit."""
    pyro.clear_param_store()
    known = make_conjugate()
    table = 10 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    num_clouds, num_points = 200, 4
    planted = dist.Categorical(WEIGHTS).sample((num_clouds,))
    clouds = known.flow.cloud(table[planted], num_points=num_points).sample()
    start = table + torch.randn_like(table)

    def model(clouds):
        weights = pyro.param("weights", torch.full_like(WEIGHTS, 1 / 3), constraint=dist.constraints.simplex)
        embeddings = pyro.param("embeddings", start)
        label_per_cloud_event(known.flow, embeddings.__getitem__, weights.log(), clouds, None)

    optim = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.98})
    svi = SVI(model, no_guide, optim, TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(250):
        svi.step(clouds)
        optim.step()

    weights = pyro.param("weights").detach()
    torch.testing.assert_close(weights, one_hot(planted).double().mean(0), rtol=0, atol=1e-3)
    assert ((weights - WEIGHTS).abs() < 4 * (WEIGHTS * (1 - WEIGHTS) / num_clouds).sqrt()).all()
    noise, _ = known.flow.transform.condition(table[0]).inverse_and_log_det(clouds)
    by_kind = torch.stack([(noise[planted == k] - known.bias).mean((0, 1)) for k in range(NUM_KINDS)])
    fit = torch.linalg.lstsq(known.loc / known.scale.unsqueeze(-1), (by_kind / known.scale).T).solution.T
    torch.testing.assert_close(pyro.param("embeddings").detach(), fit, rtol=0, atol=1e-2)


# A label and a context that are both latent: the flow sees the sum of the kind's embedding and the cloud's own
# deviation. For each kind this is the conjugate problem with another bias.
OFFSETS = torch.tensor([[-0.4], [0.0], [0.6]], dtype=torch.float64)
ZERO = torch.zeros(1, dtype=torch.float64)


def label_and_deviation(flow, clouds, mask):
    with pyro.plate("clouds", len(clouds)):
        label = pyro.sample("label", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
        deviation = pyro.sample("deviation", dist.Normal(ZERO, 1).to_event(1))
        pyro.sample("x", flow.cloud(OFFSETS[label] + deviation, mask=mask), obs=clouds)


@pytest.fixture
def deviating():
    """The flow, clouds of 0, 1 and 3 points, log-evidences and posteriors with the kinds first."""
    known = make_conjugate(context_dim=1, strength=0.7)
    clouds = known.flow.cloud(torch.tensor([[0.0], [-0.5], [0.8]], dtype=torch.float64), num_points=3).sample()
    kinds = [replace(known, bias=known.bias + known.loc @ offset) for offset in OFFSETS]
    evidence = torch.stack(
        [torch.stack([kind.log_evidence(x, m) for x, m in zip(clouds, MASK, strict=True)]) for kind in kinds]
    )
    posteriors = [kind.posterior(clouds, MASK) for kind in kinds]
    means = torch.stack([posterior.mean for posterior in posteriors])
    scales = torch.stack([posterior.stddev for posterior in posteriors])
    return known.flow, clouds, evidence + WEIGHTS.log().unsqueeze(-1), means, scales


def sum_of_kinds(flow, clouds, deviation):
    """`log p(cloud | deviation)` with the label summed out by hand; deviations `(*batch, clouds, 1)`."""
    of_kinds = [
        weight.log() + (flow.log_prob(clouds, (offset + deviation).unsqueeze(-2)) * MASK).sum(-1)
        for weight, offset in zip(WEIGHTS, OFFSETS, strict=True)
    ]
    return torch.stack(of_kinds).logsumexp(0)


@pytest.mark.parametrize("particles", [1, 7])
def test_the_exact_guide_has_the_evidence_without_variance(deviating, particles):
    """A label enumerated in the guide, and a normal context given the label; every draw is worth the same."""
    flow, clouds, log_joint, means, scales = deviating

    def guide(clouds, mask):
        with pyro.plate("clouds", 3):
            shares = dist.Categorical(logits=log_joint.T)
            label = pyro.sample("label", shares, infer={"enumerate": "parallel"})
            rows = torch.arange(3)
            pyro.sample("deviation", dist.Normal(means[label, rows], scales[label, rows]).to_event(1))

    elbo = TraceEnum_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    for _ in range(3):
        loss = elbo.loss(partial(label_and_deviation, flow), guide, clouds, MASK)
        assert loss == pytest.approx(-log_joint.logsumexp(0).sum().item(), rel=1e-10)


@pytest.mark.slow
def test_svi_finds_labels_and_contexts_together(deviating):
    pyro.clear_param_store()
    flow, clouds, log_joint, means, scales = deviating
    positive = dist.constraints.positive

    def guide(clouds, mask):
        logits = pyro.param("logits", torch.zeros(3, NUM_KINDS, dtype=torch.float64))
        loc = pyro.param("loc", torch.zeros(NUM_KINDS, 3, 1, dtype=torch.float64))
        scale = pyro.param("scale", torch.ones(NUM_KINDS, 3, 1, dtype=torch.float64), constraint=positive)
        with pyro.plate("clouds", 3):
            label = pyro.sample("label", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            rows = torch.arange(3)
            pyro.sample("deviation", dist.Normal(loc[label, rows], scale[label, rows]).to_event(1))

    def divergence():
        """From the guide to the posterior in nats, in closed form."""
        logits = pyro.param("logits").detach()
        normal = dist.Normal(pyro.param("loc").detach(), pyro.param("scale").detach())
        of_contexts = torch.distributions.kl_divergence(normal, dist.Normal(means, scales)).squeeze(-1).T
        of_labels = torch.distributions.kl_divergence(
            dist.Categorical(logits=logits), dist.Categorical(logits=log_joint.T)
        )
        return (of_labels + (logits.softmax(-1) * of_contexts).sum(-1)).sum()

    pyro.set_rng_seed(0)
    elbo = TraceEnum_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    optim = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.99})
    svi = SVI(partial(label_and_deviation, flow), guide, optim, elbo)
    svi.evaluate_loss(clouds, MASK)
    assert divergence() > 1
    for _ in range(300):
        svi.step(clouds, MASK)
        optim.step()
    assert divergence() < 0.01


@pytest.mark.parametrize("elbo", [TraceEnum_ELBO, JitTraceEnum_ELBO])
def test_label_summed_out_beside_a_point_estimate(deviating, elbo):
    """The guide has only the context: the sum over kinds stands inside the logarithm, for loss and gradient."""
    pyro.clear_param_store()
    flow, clouds, _, _, _ = deviating
    options = {} if elbo is TraceEnum_ELBO else {"ignore_jit_warnings": True}
    elbo = elbo(max_plate_nesting=1, **options)

    def guide(clouds, mask):
        deviation = pyro.param("deviation_map", torch.full((3, 1), 0.3, dtype=torch.float64))
        with pyro.plate("clouds", 3):
            pyro.sample("deviation", dist.Delta(deviation, event_dim=1))

    for _ in range(3):
        got = elbo.loss_and_grads(partial(label_and_deviation, flow), guide, clouds, MASK)
        estimate = pyro.param("deviation_map")
        deviation = estimate.detach().clone().requires_grad_()
        scores = sum_of_kinds(flow, clouds, deviation)
        expected = -(dist.Normal(ZERO, 1).log_prob(deviation).sum() + scores.sum())
        assert got == pytest.approx(expected.item(), rel=1e-10)
        torch.testing.assert_close(estimate.grad, torch.autograd.grad(expected, deviation)[0])
        estimate.grad = None
        with torch.no_grad():
            estimate += 0.5


@pytest.mark.slow
def test_nuts_with_the_label_summed_out(deviating):
    """The potential against the mixture by hand, the samples against its grid, which an empty cloud has too."""
    flow, clouds, _, _, _ = deviating
    model = config_enumerate(partial(label_and_deviation, flow))
    _, potential_fn, _, _ = initialize_model(model, (clouds, MASK))
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64).reshape(-1, 1, 1)
    log_joint = dist.Normal(ZERO, 1).log_prob(grid).squeeze(-1) + sum_of_kinds(flow, clouds, grid)  # (801, 3)
    for i in (350, 400, 450, 350):
        torch.testing.assert_close(potential_fn({"deviation": grid[i].expand(3, 1)}), -log_joint[i].sum())

    grid = grid.squeeze(-1)
    weights = log_joint.softmax(0)
    mean = (weights * grid).sum(0)
    variance = (weights * (grid - mean).square()).sum(0)
    torch.testing.assert_close(mean[0], ZERO[0])
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(model, jit_compile=True, ignore_jit_warnings=True), 300, 100, disable_progbar=True)
    mcmc.run(clouds, MASK)
    samples = mcmc.get_samples()["deviation"].squeeze(-1)
    for values, expected in ((samples, mean), ((samples - mean).square(), variance)):
        effective = effective_sample_size(values.unsqueeze(0)).clamp(max=300)
        assert (effective > 50).all(), effective
        assert ((values.mean(0) - expected).abs() < 4 * values.std(0) / effective.sqrt()).all()


@pytest.mark.parametrize("outliers", ["context", "other distribution"])
def test_kind_of_a_cloud_and_outliers_among_its_points(flow, table, clouds, outliers):
    """Two enumerated labels, one in each plate, against every joint assignment."""
    share = torch.tensor(0.3, dtype=torch.float64)
    far = torch.full((NUM_KINDS,), 2.0, dtype=torch.float64)
    broad = dist.Normal(torch.zeros(3, dtype=torch.float64), 5.0).to_event(1)

    def model(clouds):
        with pyro.plate("clouds", 3, dim=-2):
            kind = pyro.sample("kind", dist.Categorical(WEIGHTS))
            with pyro.plate("points", 3, dim=-1):
                outlier = pyro.sample("outlier", dist.Bernoulli(share)).bool()
                if outliers == "context":
                    point = flow.condition(torch.where(outlier.unsqueeze(-1), far, table[kind]))
                else:
                    point = dist.MaskedMixture(outlier, flow.condition(table[kind]), broad)
                with pyro.poutine.mask(mask=MASK):
                    pyro.sample("x", point, obs=clouds)
        return kind, outlier

    inlying = scores_of_points(flow, table, clouds, MASK)[
        MASK
    ]  # (4, 3): a point of the second cloud, three of the last
    outlying = flow.log_prob(clouds[MASK], far) if outliers == "context" else broad.log_prob(clouds[MASK])
    cloud_of = MASK.nonzero()[:, 0]
    log_joint, kinds_of, outlying_of = [], [], []
    for kinds in itertools.product(range(NUM_KINDS), repeat=3):
        for flags in itertools.product([False, True], repeat=4):
            total = sum(WEIGHTS[k].log() for k in kinds)
            for n, flag in enumerate(flags):
                total += share.log() + outlying[n] if flag else (1 - share).log() + inlying[n, kinds[cloud_of[n]]]
            log_joint.append(total)
            kinds_of.append(kinds)
            outlying_of.append(flags)
    log_joint, kinds_of, outlying_of = torch.stack(log_joint), torch.tensor(kinds_of), torch.tensor(outlying_of)
    shares = log_joint.softmax(0)

    model = config_enumerate(model)
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    assert elbo.loss(model, no_guide, clouds) == pytest.approx(-log_joint.logsumexp(0).item(), rel=1e-10)
    marginals = elbo.compute_marginals(model, no_guide, clouds)
    expected = (shares.reshape(-1, 1, 1) * one_hot(kinds_of)).sum(0)
    torch.testing.assert_close(marginals["kind"].probs.squeeze(1), expected)
    torch.testing.assert_close(expected[0], WEIGHTS)
    chances = marginals["outlier"].probs
    torch.testing.assert_close(chances[MASK], shares @ outlying_of.double())
    torch.testing.assert_close(chances[~MASK], share.expand(5))

    kind, outlier = infer_discrete(model, first_available_dim=-3, temperature=0)(clouds)
    best = log_joint.argmax()
    assert torch.equal(kind.squeeze(1), kinds_of[best])
    assert torch.equal(outlier[MASK], outlying_of[best])

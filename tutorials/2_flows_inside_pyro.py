# %% [markdown]
# # Flows inside Pyro
#
# A flow under a context is an ordinary Pyro distribution with an exact log-density. We train one on clouds with two
# known factors, infer the factors of new clouds by SVI and by NUTS, and compare both with the exact posterior, which
# for two factors can be integrated on a grid. Claim: both agree with it. At the end we look at what Pyro's own
# conditional flows do in the same situations.

# %%
import math
import os

import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt
from pyro import poutine
from pyro.distributions.transforms import conditional_affine_coupling
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_median
from torch.distributions import MultivariateNormal

import pyro_pcflow as pcf

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)

# %% [markdown]
# ## Clouds with two factors
#
# Points lie around a parabola in the plane; a cloud has a tilt $c_1$ and a bend $c_2$, both standard normal:
#
# $$ u \sim N(0, 1), \qquad v = \tfrac12 \left( c_1 u + c_2 (u^2 - 1) \right) + 0.2\, \varepsilon, \quad
# \varepsilon \sim N(0, 1). $$
#
# We chose this family because everything about it is known.


# %%
def features(u):
    return 0.5 * torch.stack([u, u.square() - 1], -1)  # what the factors are the coefficients of


def make_clouds(factors, num_points):  # (*batch, 2) -> (*batch, num_points, 2)
    u = torch.randn(*factors.shape[:-1], num_points)
    v = (features(u) * factors.unsqueeze(-2)).sum(-1) + 0.2 * torch.randn_like(u)
    return torch.stack([u, v], -1)


def true_log_prob(clouds, factors):
    u, v = clouds.unbind(-1)
    mean = (features(u) * factors.unsqueeze(-2)).sum(-1)
    return dist.Normal(0, 1).log_prob(u) + dist.Normal(mean, 0.2).log_prob(v)


# %% [markdown]
# ## Shapes
#
# A context of shape `(*batch, C)` gives a distribution with `batch_shape (*batch,)`: its event is a point of `(D,)`
# from `flow.condition`, or a cloud of `(N, D)` from `flow.cloud`. Samplers need smooth densities, hence `tanh` and no
# Fourier features.

# %%
flow = pcf.PointCloudFlow(
    point_dim=2, context_dim=2, num_couplings=6, hidden_dims=[32, 32], activation="tanh", num_frequencies=0
)
flow.normalize(make_clouds(torch.randn(1000, 2), 10))
contexts = torch.randn(5, 2)
for name, d in {"point": flow.condition(contexts), "cloud": flow.cloud(contexts, num_points=100)}.items():
    print(f"{name}: batch_shape {tuple(d.batch_shape)}, event_shape {tuple(d.event_shape)}, ", end="")
    print(f"sample {tuple(d.sample((7,)).shape)}, log_prob {tuple(d.log_prob(d.sample((7,))).shape)}")


# %% [markdown]
# ## Two spellings
#
# So a model has two spellings. In the first, a cloud is one event under a plate of clouds. In the second, a point is
# the event under a plate of points, and the context gets a dimension of size 1 where the points are. They are the same
# density, $\log p(x_1, \dots, x_N \mid c) = \sum_n \log p(x_n \mid c)$.


# %%
def prior():
    return dist.Normal(torch.zeros(2), 1).to_event(1)


def model(clouds):  # (B, N, 2)
    with pyro.plate("clouds", len(clouds)):
        c = pyro.sample("c", prior())
        pyro.sample("x", flow.cloud(c, num_points=clouds.shape[-2]), obs=clouds)


def model_of_points(clouds):
    with pyro.plate("clouds", len(clouds), dim=-2):
        c = pyro.sample("c", prior())  # (B, 1, 2)
        with pyro.plate("points", clouds.shape[-2], dim=-1):
            pyro.sample("x", flow.condition(c), obs=clouds)


clouds = make_clouds(contexts, 100)
as_events = poutine.trace(poutine.condition(model, {"c": contexts})).get_trace(clouds).log_prob_sum()
as_points = poutine.trace(poutine.condition(model_of_points, {"c": contexts.unsqueeze(1)})).get_trace(clouds)
print(f"joint log-density as events {as_events:.3f}, as a plate of points {as_points.log_prob_sum():.3f}")
torch.testing.assert_close(as_events, as_points.log_prob_sum(), rtol=1e-5, atol=0)

# %% [markdown]
# The first is shorter; the second lets a plate subsample points, and lets a point have latents of its own.
#
# ## Training by SVI
#
# The factors of the training clouds are known. A model whose latents are all observed needs an empty guide, and its
# evidence lower bound is the log-likelihood itself: SVI is maximum likelihood. Fresh clouds in each step leave nothing
# to overfit.


# %%
def supervised(clouds, factors):
    pyro.module("flow", flow)
    poutine.condition(model, {"c": factors})(clouds)


def train(model, guide, elbo, num_steps, lr, make_data):
    schedule = {"optimizer": torch.optim.Adam, "optim_args": {"lr": lr}, "T_max": num_steps}
    optimizer = pyro.optim.CosineAnnealingLR(schedule)
    svi = SVI(model, guide, optimizer, elbo)
    for _ in range(num_steps):
        svi.step(*make_data())
        optimizer.step()


def fresh_clouds():
    factors = torch.randn(64, 2)
    return make_clouds(factors, 32), factors


train(supervised, lambda clouds, factors: None, Trace_ELBO(), 150 if smoke else 4000, 5e-3, fresh_clouds)

# %%
flow.requires_grad_(False)
factors = torch.randn(2000, 2)
test = make_clouds(factors, 50)
gap = (true_log_prob(test, factors).sum(-1) - flow.cloud(factors, num_points=50).log_prob(test)) / 50
print(f"short of the true density by {gap.mean():.4f} nats a point")

# %% [markdown]
# ## The posterior on a grid
#
# Four new clouds of 20 points each. With a flat grid of contexts $c_g$ and cells of area $a$,
#
# $$ p(x) \approx \sum_g a\, p(c_g)\, p(x \mid c_g), \qquad
# P(g \mid x) \approx \frac{a\, p(c_g)\, p(x \mid c_g)}{p(x)}. $$
#
# `batch_shape` does the work: contexts of `(G, 1, 2)` against clouds of `(4, 20, 2)` are log-densities of `(G, 4)`.

# %%
true_factors = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 0.5], [0.5, -1.5]])
scans = make_clouds(true_factors, 20)
line = torch.linspace(-3, 3, 61 if smoke else 121)
grid = torch.cartesian_prod(line, line)  # (G, 2)
log_joint = prior().log_prob(grid).unsqueeze(-1) + flow.cloud(grid.unsqueeze(1), num_points=20).log_prob(scans)
log_cell = 2 * (line[1] - line[0]).log()
log_evidence = log_joint.logsumexp(0) + log_cell
weights = (log_joint + log_cell - log_evidence).exp()  # (G, 4), sums to 1 over the grid
grid_mean = weights.T @ grid
grid_std = (weights.T @ grid.square() - grid_mean.square()).sqrt()

# %% [markdown]
# The true density has a posterior in closed form: given $u$, the family is a linear regression of $v$ on the features
# $\phi$, so $p(c \mid x) = N(m, S)$ with $S^{-1} = I + \sum_n \phi_n \phi_n^\top / 0.2^2$ and
# $m = S \sum_n \phi_n v_n / 0.2^2$. How far the grid is from it is the error of the *flow*; how far a sampler is from
# the grid is the error of the *inference*.

# %%
phi = features(scans[..., 0])  # (4, 20, 2)
precision = torch.eye(2) + phi.mT @ phi / 0.2**2
exact = MultivariateNormal(
    torch.linalg.solve(precision, (phi.mT @ scans[..., 1:]).squeeze(-1) / 0.2**2), precision_matrix=precision
)

# %% [markdown]
# ## NUTS and SVI
#
# The contexts of the four clouds are sampled in one chain, and fitted by one guide.

# %%
num_draws = 200 if smoke else 1000
chain = MCMC(NUTS(model, init_strategy=init_to_median), num_draws, warmup_steps=num_draws // 2, disable_progbar=True)
chain.run(scans)
draws = chain.get_samples()["c"]  # (num_draws, 4, 2)

guide = AutoMultivariateNormal(model, init_loc_fn=init_to_median)
elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
train(model, guide, elbo, 300 if smoke else 2000, 0.03, lambda: (scans,))

# %% [markdown]
# The guide is normal, and so nearly is the posterior. The evidence lower bound is below the log-evidence by the
# divergence of the guide from the posterior,
#
# $$ \log p(x) - \mathrm{ELBO} = \mathrm{KL}\left( q(c) \,\Vert\, p(c \mid x) \right) \ge 0, $$
#
# and as the grid knows $\log p(x)$, we can see the divergence itself. The bound is a mean over particles, each of which
# is one more batch dimension of the contexts.

# %%
posterior = guide.get_posterior()
svi_mean, svi_std = (value.reshape(4, 2).detach() for value in (posterior.mean, posterior.variance.sqrt()))
bound = -Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, scans)
divergence = log_evidence.sum().item() - bound
print(f"log-evidence {log_evidence.sum():.3f}, bound {bound:.3f}, divergence {divergence:.3f} nats for four clouds")

print("largest difference from the grid over four clouds and two factors:")
deviations, ratios = {}, {}
for name, mean, std in (
    ("NUTS", draws.mean(0), draws.std(0)),
    ("SVI", svi_mean, svi_std),
    ("closed form of the true density", exact.mean, exact.variance.sqrt()),
):
    deviations[name] = ((mean - grid_mean) / grid_std).abs().max().item()
    ratios[name] = (std / grid_std).log().abs().max().exp().item()
    print(f"  {name}: mean {deviations[name]:.2f} standard deviations, deviation by a factor of {ratios[name]:.2f}")

# %%
assert max(deviations["NUTS"], deviations["SVI"]) < (0.4 if smoke else 0.15)
assert max(ratios["NUTS"], ratios["SVI"]) < (1.4 if smoke else 1.15)
assert deviations["closed form of the true density"] < (1.5 if smoke else 0.4)
assert -0.02 < divergence < (0.3 if smoke else 0.1)

# %% [markdown]
# Each scan stands above its posterior. The contours hold 50% and 90% of it on the grid, the dots are draws of NUTS, the
# dashed ellipse holds 90% of SVI's guide, and the cross is the truth.

# %% alt="Four scans, and below each its posterior over tilt and bend by grid, NUTS and SVI"
figure, axes = plt.subplots(2, 4, figsize=(9, 5), layout="constrained")
window = torch.tensor([-0.6, 0.6])
angle = torch.linspace(0, 2 * math.pi, 100)
circle = math.sqrt(-2 * math.log(0.1)) * torch.stack([angle.cos(), angle.sin()], -1)
for i, (top, bottom) in enumerate(axes.T):
    top.scatter(*scans[i].T, s=8)
    bottom.scatter(*draws[::5, i].T, s=3, color="tab:gray")
    ordered = weights[:, i].sort().values
    levels = ordered[torch.searchsorted(ordered.cumsum(0), torch.tensor([0.1, 0.5]))]
    bottom.contour(line, line, weights[:, i].reshape(len(line), -1).T, levels, colors="tab:blue")
    block = posterior.covariance_matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2].detach()
    bottom.plot(*(svi_mean[i] + circle @ torch.linalg.cholesky(block).T).T, "--", color="tab:orange")
    bottom.plot(*true_factors[i], "x", color="tab:red", markersize=9)
    top.set(aspect="equal", xlabel="u", ylabel="v" if i == 0 else None, xlim=(-4.5, 3), ylim=(-6, 1.5))
    bottom.set(aspect="equal", xlabel="tilt", ylabel="bend" if i == 0 else None)
    bottom.set(xlim=grid_mean[i, 0] + window, ylim=grid_mean[i, 1] + window)
plt.show()

# %% [markdown]
# ## Pyro's own couplings at the same places
#
# Pyro's `conditional_affine_coupling` and ours fit into the same `ConditionalTransformedDistribution`. Pyro's ignores
# the context when it says what its batch shape is, and so cannot draw one point for each context.

# %%
noise = dist.Normal(torch.zeros(2), 1).to_event(1)
layers = {
    "Pyro's": conditional_affine_coupling(2, 2, hidden_dims=[32, 32]),
    "ours": pcf.transforms.conditional_affine_point_coupling(2, 2, hidden_dims=[32, 32]),
}
points = {name: dist.ConditionalTransformedDistribution(noise, [layer]) for name, layer in layers.items()}
for name, point in points.items():
    d = point.condition(contexts)
    try:
        outcome = f"a sample of shape {tuple(d.sample().shape)}"
    except RuntimeError as error:
        outcome = f"RuntimeError: {error}"
    print(f"{name}: batch_shape {tuple(d.batch_shape)}, {outcome}")
assert points["ours"].condition(contexts).batch_shape == (5,)
assert points["Pyro's"].condition(contexts).batch_shape == ()  # where this fails, Pyro has changed: so must the text

# %% [markdown]
# The remedy is to state it explicitly, `noise.expand([5])`. A plate does the same, as it expands what is sampled in it:
# inside plates, Pyro's couplings draw the right number of points.
#
# The second difference shows when parameters change. Both remember the noise that a sample came from, since scoring the
# sample needs it. Pyro's memory outlives the parameters: after a change of the weights it returns the old density. The
# same points in a new tensor, which no memory knows, show the right one.

# %%
errors = {}
for name, point in points.items():
    d = point.condition(contexts[0])
    sample = d.sample()
    before = d.log_prob(sample)
    with torch.no_grad():
        for parameter in layers[name].parameters():
            parameter.add_(0.1)
    after, right = d.log_prob(sample), d.log_prob(sample.clone())
    errors[name] = (after - right).abs().item()
    print(f"{name}: before {before:.3f}, after the change {after:.3f}, right {right:.3f}")
assert errors["ours"] < 1e-4
assert errors["Pyro's"] > 0.1  # where this fails, Pyro has changed: so must the text

# %% [markdown]
# Pyro knows this ([issue 2564](https://github.com/pyro-ppl/pyro/issues/2564)). Its remedies are `clear_cache()` after
# each change of the weights, and to condition anew, as a model does in every step. Ours believes its memory only while
# every parameter has the identity, version and value that it had ([concepts](../concepts.md)): you never have to clear
# it.
#
# ## What we learned
#
# A context's `batch_shape` is that of the distribution, from which plates, particles and grids follow. Both spellings
# are one density. NUTS and SVI found the posterior that a grid integrates, and the gap of the bound is the divergence
# of the guide.
#
# [Inference](../inference.md) lists what else is tested to work, and what to know about samplers; [Where is it and what
# is it?](5_where_and_what.md) adds a pose and clutter. If the factors are unknown, contexts become latents that are
# learned: [Many shapes](3_many_shapes.md). What the two kinds of couplings cost is in the
# [benchmarks](../benchmarks.md).

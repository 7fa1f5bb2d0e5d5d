# %% [markdown]
# # Flows inside Pyro
#
# A flow under a context is an ordinary Pyro distribution with an exact log-density. We train one on clouds with two
# known factors, infer the factors of new clouds by SVI and by NUTS, and compare both with the posterior itself, which
# two factors allow us to integrate on a grid. Claim: both agree with it. At the end we look at what Pyro's own
# conditional flows do at the same places.

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
# We chose this family because everything about it is known. Nothing below depends on that, nor on two coordinates.


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
# from `flow.condition`, or a cloud of `(N, D)` from `flow.cloud`. Samplers want smooth densities, hence `tanh` and no
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
num_steps = 150 if smoke else 4000


def supervised(clouds, factors):
    pyro.module("flow", flow)
    poutine.condition(model, {"c": factors})(clouds)


schedule = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 5e-3}, "T_max": num_steps}
optimizer = pyro.optim.CosineAnnealingLR(schedule)
svi = SVI(supervised, lambda clouds, factors: None, optimizer, Trace_ELBO())
for _ in range(num_steps):
    factors = torch.randn(64, 2)
    svi.step(make_clouds(factors, 32), factors)
    optimizer.step()
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
# $$ p(x) \approx \sum_g a\, p(c_g)\, p(x \mid c_g), \qquad p(c_g \mid x) \approx \frac{a\, p(c_g)\, p(x \mid c_g)}{p(x)}. $$
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


def moments(weights):
    mean = weights.T @ grid
    return mean, (weights.T @ grid.square() - mean.square()).sqrt()


grid_mean, grid_std = moments(weights)

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
fit_steps = 300 if smoke else 2000
schedule = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.03}, "T_max": fit_steps}
optimizer = pyro.optim.CosineAnnealingLR(schedule)
elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
svi = SVI(model, guide, optimizer, elbo)
for _ in range(fit_steps):
    svi.step(scans)
    optimizer.step()

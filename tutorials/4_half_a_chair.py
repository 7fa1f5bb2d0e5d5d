# %% [markdown]
# # Half a chair
#
# A scanner sees a chair from below, and we infer what is above. A model of chairs gives not one answer but a density of
# answers. The claim: the sensor belongs in the model. If the model does not know that the sensor saw one side only, the
# missing side counts as evidence that nothing is there, and the hidden points become less probable. A limit is measured
# as well: about a kind of chair that it was not trained on, the model is certain and wrong.

# %%
import math
import os

import pyro
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions import one_sided

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)

# %% [markdown]
# ## Few chairs, stretched
#
# The package has 17 chairs to train on, and three to test on. Seventeen shapes are too few for a model of chairs, so we
# stretch each of them at random along its axes, mirror it left to right, and scale it to half extent 1 again. This
# teaches only proportions: the model will know 17 kinds of chair in many sizes.


# %%
def stretch(clouds, copies, num_points=2048):
    """Stretched copies of clouds, with other points of the surface in each."""
    clouds = clouds.repeat(copies, 1, 1)
    chosen = torch.rand(clouds.shape[:2]).topk(num_points, 1).indices
    clouds = clouds.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 3))
    factors = (0.2 * torch.randn(len(clouds), 1, 3)).exp()
    factors[..., 0] *= torch.randint(2, (len(clouds), 1)) * 2 - 1
    clouds = clouds * factors
    return clouds / clouds.abs().amax((1, 2), keepdim=True)


chairs = pcf.data.load_example("chair", num_points=None, split="train")  # (17, 8192, 3), y up
train = stretch(chairs, 4 if smoke else 16)
unknown = torch.cat([pcf.data.load_example("chair", split=split) for split in ["val", "test"]])
known = stretch(chairs, 1)  # of known kinds, in new proportions
test = torch.cat([unknown, known])
test = test + 0.01 * torch.randn_like(test)  # the noise of the training

# %% [markdown]
# An `AutoDecoder` has an embedding $z$ for each training chair, a flow as their prior, and no encoder, which half of a
# chair would mislead.

# %%
model = pcf.models.AutoDecoder(len(train), point_dim=3, latent_dim=16)
result = pcf.fit(model, train, max_steps=60 if smoke else 1500, lr=8e-3, noise=0.01, held_out=0)
model.requires_grad_(False)
print(f"{result.steps} steps on {len(train)} clouds")
learned = model.decode(model.embedding_loc[:6], 2048).sample()
pcf.plotting.plot_clouds({"training": train[:6], "learned": learned, "new": model.sample(6, 2048)}, size=1.5)

# %% [markdown]
# ## A sensor that sees one side
#
# A point is recorded with a probability that falls softly across a plane, with $d$ the direction of the sensor,
#
# $$\text{keep}(x) = \Phi(x \cdot d / s), \qquad
#   p(x \mid \text{recorded}, z) = \frac{p(x \mid z)\, \text{keep}(x)}{Z(z)}, \qquad
#   Z(z) = \int p(x \mid z)\, \text{keep}(x)\, dx.$$
#
# $Z(z)$ is the share of the chair that is seen, and differs between chairs. Without it, chairs with little on the other
# side are preferred, by $-\log Z(z)$ for every point. We take 50 recorded points of each test chair, and keep 300
# hidden ones for the score.

# %%
below, softness = torch.tensor([0.0, -1.0, 0.0]), 0.05
recorded = torch.rand(test.shape[:2]) < torch.special.ndtr(test @ below / softness)


def draw(clouds, mask, num_points):
    """Points of each cloud, of those where the mask is true."""
    chosen = torch.where(mask, torch.rand(mask.shape), -1.0).topk(num_points, 1).indices
    return clouds.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 3))


def sensor(thing):
    return one_sided(thing, below, softness=softness, num_samples=128 if smoke else 512)


seen, hidden = draw(test, recorded, 50), draw(test, ~recorded, 300)

# %% [markdown]
# ## Four points
#
# What can be inferred from four points? With latents $z_k$ from the prior, the posterior given $n$ points gives $z_k$
# the weight
#
# $$w_k \propto \prod_{i=1}^n p(x_i \mid \text{recorded}, z_k).$$
#
# We draw completions by these weights. The effective number of draws, $1 / \sum_k w_k^2$, shows how uncertain the
# result is. So does the distance from a point of one completion to the nearest point of another, less the same between
# two samples of one latent, which is the effect of drawing points at random.


# %%
def disagreement(z):
    """How far completions (K, B, 16) are apart at points of the first one, and these points (B, N, 3)."""
    clouds, twin = model.decode(z, 1000).sample(), model.decode(z[0], 1000).sample()
    others = torch.stack([torch.cdist(clouds[0], other).amin(-1) for other in clouds[1:]])
    return others.mean(0) - torch.cdist(clouds[0], twin).amin(-1), clouds[0]


draws = model.latent_prior().expand((128 if smoke else 4096,)).sample()
log_prob = torch.stack([sensor(model.decoder.condition(z)).log_prob(seen[:, :16]) for z in draws])  # (K, B, 16)
apart = {}
for count in [16, 4]:
    weights = log_prob[..., :count].sum(-1).softmax(0)  # (K, B)
    few = draws[torch.multinomial(weights.T, 16, replacement=True).T]  # (16, B, 16)
    distance, points = disagreement(few)
    above = points @ below < 0
    apart[count] = {"seen side": distance[~above].mean().item(), "hidden side": distance[above].mean().item()}
    effective = (1 / weights.square().sum(0)).median()
    sides = ", ".join(f"{value:.4f} half extents apart on the {side}" for side, value in apart[count].items())
    print(f"{count} points: {effective:.1f} draws share the weight; {sides}")

# %% [markdown]
# Over all test chairs, four points leave completions as far apart below as above, and sixteen leave them further apart
# above, where none were seen. Here are two chairs, with the four points that were seen and what these may belong to.

# %%
rows = [[test[b], seen[b, :4], *model.decode(few[:4, b], 1000).sample()] for b in [3, 7]]
pcf.plotting.plot_clouds(rows, titles=["armchair", "bar stool"], size=1.5)

# %% [markdown]
# ## Fifty points
#
# With more points hardly one draw of the prior has any weight. `complete` walks from the best of many draws instead, by
# Hamiltonian Monte Carlo in the noise under the prior, sixteen chains for each chair, all at once.


# %%
def complete(observe, fill):
    """Completions of all test chairs at once, by a sensor or without one."""
    pyro.set_rng_seed(0)
    return pcf.complete(
        model,
        seen,
        num_points=200 if smoke else 1000,
        observe=observe,
        fill=fill,
        num_samples=16,
        num_steps=4 if smoke else 8,
        warmup_steps=2 if smoke else 16,
    )


right = complete(sensor, lambda thing: sensor(thing).complement())
wrong = complete(lambda thing: thing, None)

# %% [markdown]
# Five chairs, the first of a kind that the model does not know. Completions keep the seen points and add others above
# the plane. The last row is without the sensor, and so without a plane.

# %%
picked = [0, 3, 7, 11, 19]
rows = {"truth": test[picked], "seen": list(seen[picked])}
rows |= {f"completion {k + 1}": right.clouds[k, picked] for k in range(2)}
pcf.plotting.plot_clouds({**rows, "no sensor": wrong.clouds[0, picked]}, size=1.5)

# %% [markdown]
# ## The score
#
# A hidden point has the predictive density
#
# $$\hat p(x) = \frac1K \sum_{k=1}^K p(x \mid z_k)$$
#
# with $z_k$ from a posterior, or from the prior, which is the answer without an observation.


# %%
def predictive(z, points):
    """Mean log-density of the points of each chair in nats, (B,), from latents (K, B, 16)."""
    log_prob = model.decoder.condition(z.unsqueeze(2)).log_prob(points)  # (K, B, N)
    return (log_prob.logsumexp(0) - math.log(len(z))).mean(-1)


share = recorded.float().mean(1)
latents = {
    "prior": model.latent_prior().expand((64, 1)).sample().expand(-1, len(test), -1),
    "no sensor": wrong.latents["z"],
    "sensor": right.latents["z"],
}
scores, errors = {}, {}
for name, z in latents.items():
    scores[name] = predictive(z, hidden)
    shares = torch.special.ndtr(model.decode(z, 500).sample() @ below / softness).mean((0, 2))
    errors[name] = shares - share
    print(
        f"{name:>9}: {scores[name][3:].mean():.2f} nats per hidden point of known kinds, "
        f"{scores[name][:3].mean():.2f} of unknown ones; share of the chair on the seen side too large by "
        f"{errors[name].mean():+.3f}, off by {errors[name].abs().mean():.3f}"
    )

# %%
better, gained = scores["sensor"] > scores["no sensor"], scores["sensor"] > scores["prior"]
print(f"better with the sensor than without: {int(better[3:].sum())} of 17 known kinds, {int(better[:3].sum())} of 3")
print(f"better than the prior: {int(gained[3:].sum())} of 17 known kinds, {int(gained[:3].sum())} of 3 unknown ones")
gain = (scores["sensor"] - scores["no sensor"])[3:].mean().item()
print(f"the sensor is worth {gain:.2f} nats per hidden point of known kinds")
assert gain > (0.05 if smoke else 0.3)
if not smoke:
    assert better[3:].sum() >= 13
    assert (scores["sensor"] - scores["prior"])[3:].mean() > 1
    assert errors["no sensor"].mean() > errors["sensor"].mean() + 0.03
    assert apart[16]["hidden side"] > 1.2 * apart[16]["seen side"]
    assert apart[4]["hidden side"] > 2 * apart[16]["hidden side"]
    assert scores["sensor"][:3].mean() < scores["prior"][:3].mean()  # sure, and wrong

# %% [markdown]
# For known kinds, the posterior gives the hidden points a higher density than the prior does, and the sensor adds to
# it: without one, too much of the chair is put on the seen side. For unknown kinds, the posterior is worse than the
# prior: it has chosen the nearest of its kinds, with certainty. No inference can repair a prior that excludes the
# truth.
#
# ## What was learned
#
# - What a sensor does not see is not empty: say so by `observe=`, and fill what is missing by `fill=`.
# - Held-out points on the hidden side score a completion, and the prior is the score to beat.
# - Disagreement between completions is the uncertainty of the model, and of the family that fits its posterior. It does
#   not cover kinds that the model was not trained on; for these, train on more kinds, or look at the evidence first.
#
# [Inference](../inference.md) has other sensors and more on `complete`, which can sample by NUTS as well;
# [Where is it and what is it?](5_where_and_what.md) has a pose that is unknown too.

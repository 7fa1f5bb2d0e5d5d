# %% [markdown]
# # Half a body
#
# A scanner sees a person down to the hip, in a hundred points, and we infer the legs. A model of bodies gives not one
# answer but a density of answers. The claim: the answers are right as often as they say. Their 90% regions hold about
# 90% of the points that were hidden, and these have a higher density than before anything was seen. Where the scan is
# not what the model thinks, `complete` says so.

# %%
import math
import os
import warnings

import pyro
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions import one_sided

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)

# %% [markdown]
# ## A model, and what it learned of partial views
#
# The package has a model of bodies: a latent $z$ of 64 numbers, a flow as its prior $p(z)$, and a decoder that makes a
# mixture of Gaussians of it. With it comes a `Completer`, a network that has learned the posterior of the latent given
# any partial view, from views of real bodies and of bodies of the model.

# %%
vae = pcf.load_pretrained("body").requires_grad_(False)
test = pcf.data.load_example("body", split="test")[: 6 if smoke else 30]  # (30, 2048, 3), half extent 1, z up
test = test + 0.01 * torch.randn_like(test)  # the noise of the training

# %% [markdown]
# ## A sensor that sees one side
#
# A point is recorded with a probability that falls softly across a plane, with $d$ the direction of the sensor,
#
# $$\text{keep}(x) = \Phi(x \cdot d / s), \qquad
#   p(x \mid \text{recorded}, z) = \frac{p(x \mid z)\, \text{keep}(x)}{Z(z)},$$
#
# $$Z(z) = \int p(x \mid z)\, \text{keep}(x)\, dx.$$
#
# $Z(z)$ is the share of the body that is seen. Without it, the missing legs would count as evidence that there are
# none: bodies with little below the hip are preferred, by $-\log Z(z)$ for every point. For a mixture of Gaussians it
# is exact. We take 100 recorded points of each body, and keep 250 hidden ones for the score.

# %%
up, softness = torch.tensor([0.0, 0.0, 1.0]), 0.05
recorded = torch.rand(test.shape[:2]) < torch.special.ndtr(test @ up / softness)


def draw(clouds, mask, num_points):
    """Points of each cloud, of those where the mask is true."""
    chosen = torch.where(mask, torch.rand(mask.shape), -1.0).topk(num_points, 1).indices
    return clouds.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 3))


def sensor(shape):
    return one_sided(shape, up, softness=softness)


def unseen(shape):
    return sensor(shape).complement()


seen, hidden = draw(test, recorded, 100), draw(test, ~recorded, 250)

# %% [markdown]
# ## Completions
#
# One call completes all bodies. Sixty-four short chains of Hamiltonian Monte Carlo for each of them start from draws of
# the completer and walk in the noise under the prior. `fill` says where added points may lie.

# %%
num_draws = 16 if smoke else 64
result = pcf.complete(vae, seen, num_points=1000, observe=sensor, fill=unseen, num_samples=num_draws)
r_hat = result.diagnostics["r_hat_log_likelihood"]
print(f"{len(test)} bodies, median r_hat of the log-likelihood {r_hat.median():.2f}")
print("nothing speaks against", int(result.check().passed.sum()), "of them")

# %% [markdown]
# The same without the sensor, and without the completer, which knows that views are partial: a hundred points of a
# whole body, and none of them below the hip.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    blind = pcf.complete(vae, seen, num_points=1000, proposal=None, num_samples=num_draws)
print(next(str(warning.message) for warning in caught if "may be wrong" in str(warning.message)))

# %% [markdown]
# It warns: such a sample of a body is not to be believed, and neither is what was found. Its bodies have legs all the
# same, as the prior knows no others; the score below says what they are worth. Of four bodies, the seen points are
# dark, and added ones orange.

# %% alt="Bodies, their seen points, three completions each with legs, and bodies that were found without the sensor"
picked = [0, 1, 2, 3]
parts = (~result.observed[picked]).long()
rows = {"truth": test[picked], "seen": seen[picked]}
colors = {"truth": test[picked, :, 2] < 0, "seen": torch.zeros(4, 100)}
for k in range(3):
    rows[f"completion {k + 1}"], colors[f"completion {k + 1}"] = result.clouds[k * (num_draws // 3), picked], parts
rows["no sensor"], colors["no sensor"] = blind.clouds[0, picked], parts
palette = torch.tensor([[0.17, 0.24, 0.31], [0.90, 0.49, 0.13]])
shades = {name: [palette[part.long()] for part in row] for name, row in colors.items()}
pcf.plotting.plot_clouds(
    {name: list(row) for name, row in rows.items()}, colors=shades, up="z", azim=60.0, elev=8.0, size=1.7
)

# %% [markdown]
# ## The score
#
# A hidden point has the predictive density
#
# $$\hat p(x) = \frac1K \sum_{k=1}^K p(x \mid \text{hidden}, z_k)$$
#
# with $z_k$ from the posterior, or from the prior, which is the answer without an observation.


# %%
def heights(latents, points):
    """Log-densities of hidden points (B, N, 3) under each of some draws (K, B, 64): (K, B, N)."""
    rows = [unseen(vae.decoder.condition(vae.decoder_context(z))).log_prob(points.movedim(1, 0)) for z in latents]
    return torch.stack(rows).movedim(1, 2)


prior = vae.latent_prior().expand((len(test),)).sample((num_draws,))
scores = {}
for name, latents in {"prior": prior, "no sensor": blind.latents["z"], "complete": result.latents["z"]}.items():
    scores[name] = (heights(latents, hidden).logsumexp(0) - math.log(num_draws)).mean(-1)
for name in ["no sensor", "complete"]:
    gain = scores[name] - scores["prior"]
    error = gain.std() / len(gain) ** 0.5
    print(f"{name:>9}: {gain.mean():+.2f} +- {error:.2f} nats per hidden point over the prior, worst {gain.min():+.2f}")

# %% [markdown]
# ## The regions
#
# Does the region of the highest density, of a level, hold as many of the hidden points as it says? Its bound is a
# quantile of the heights of points that are drawn themselves. A draw's own points are compared with all other draws,
# from which it is as independent as the truth is.

# %%
each = 8
points = torch.cat([unseen(vae.decoder.condition(vae.decoder_context(z))).sample((each,)) for z in result.latents["z"]])
own = torch.arange(num_draws).repeat_interleave(each)
of_drawn = heights(result.latents["z"], points.movedim(0, 1))  # (K, B, K * each)
of_drawn[own, :, torch.arange(len(own))] = -math.inf
of_drawn = of_drawn.logsumexp(0) - math.log(num_draws - 1)
of_hidden = heights(result.latents["z"], hidden).logsumexp(0) - math.log(num_draws)
covered = {}
for level in [0.5, 0.9]:
    inside = of_hidden >= of_drawn.quantile(1 - level, dim=1, keepdim=True)
    covered[level] = inside.float().mean(1)
    error = covered[level].std() / len(test) ** 0.5
    print(f"{level:.0%} regions hold {covered[level].mean():.1%} +- {error:.1%} of the hidden points")

# %% [markdown]
# No model is quite right. By Bayes' rule its error would be multiplied by the number of points, and regions would be
# too small; the completer keeps the exponent of the likelihood by which those of held-out bodies hold what they say.

# %%
print("exponents for 30, 100, 300 and 1000 points:", [round(value, 3) for value in vae.completer.temper.tolist()])

# %% [markdown]
# ## When it is wrong
#
# Scans in centimetres, scans with outliers, and bodies that lie: `check` has the reason, and `complete` warns by
# itself. Outliers are mended by a background whose share is a latent.

# %%
few = seen[:10]
centimetres = 100 * few
lying = torch.stack([test[:10, :100, 0], -test[:10, :100, 2], test[:10, :100, 1]], -1)
spoilt = torch.where(torch.rand(len(few), 100, 1) < 0.1, 2.4 * torch.rand_like(few) - 1.2, few)
background = pcf.infer.UnknownBackground.around(spoilt)
cases = {
    "in centimetres": (centimetres, sensor),
    "lying": (lying, None),
    "10% outliers": (spoilt, sensor),
    "the same, with a background": (spoilt, lambda shape: background(sensor(shape))),
}
doubts = {}
for name, (points, observe) in cases.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = pcf.complete(vae, points, points.shape[1], observe=observe).check()
    doubts[name] = (~report.passed).float().mean().item()
    reason = report.messages[0].split("likely ")[1] if report.messages else "nothing"
    print(f"{name:>27}: doubted {doubts[name]:.0%}, first of all for {reason}")

# %%
gain = scores["complete"] - scores["prior"]
assert gain.mean() > 0.3
if not smoke:
    assert gain.mean() > 0.4
    assert gain.min() > -1.5
    assert 0.86 < covered[0.9].mean() < 0.94
    assert scores["complete"].mean() > scores["no sensor"].mean()
    assert sum(doubts[name] for name in ["in centimetres", "lying", "10% outliers"]) / 3 > 0.8

# %% [markdown]
# ## What was learned
#
# - What a sensor does not see is not empty: say so by `observe=`, and fill what is missing by `fill=`.
# - Held-out points on the hidden side score a completion, and the prior is the score to beat.
# - A region is worth what it holds: measure it on shapes that the model has not seen, and temper the likelihood if need
#   be. `pcf.infer.calibrate_temper` does both for a completer of your own.
# - A result has a `check`. Read it before the result.
#
# [Is my posterior right?](../is-my-posterior-right.md) has the other questions to ask, and [inference](../inference.md)
# other sensors; [Where is it and what is it?](5_where_and_what.md) has a pose that is unknown too.

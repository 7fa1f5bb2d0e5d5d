# %% [markdown]
# # Half a chair
#
# A scanner sees a chair from below, and we ask what is above. A model of chairs gives not one answer but many, which
# agree where points were seen. The claim: the sensor belongs in the model. If one forgets to say that it saw one
# side only, the missing side counts as evidence that nothing is there, and the hidden points become less probable.

# %%
import math
import os
from functools import partial

import pyro
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_pcflow as pcf
from pyro_pcflow.distributions import one_sided

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)

# %% [markdown]
# ## Few chairs, stretched
#
# The package has 17 chairs to train on, and three to test on. Seventeen shapes are too few for a model of chairs, so we
# stretch each of them at random along its axes, mirror it left to right, and scale it to half-side 1 again. That
# teaches proportions and nothing else: the model will know 17 kinds of chair in many sizes.


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
known = stretch(chairs[::2], 1)  # of known kinds, in new proportions
test = torch.cat([unknown, known])
test = test + 0.01 * torch.randn_like(test)  # the noise of the training

# %% [markdown]
# An `AutoDecoder` has an embedding for each training chair and no encoder, which half a chair would mislead anyway.
# Its prior is standard normal here, $z \sim N(0, I)$, so that inference can start from it.

# %%
model = pcf.models.AutoDecoder(len(train), point_dim=3, latent_dim=16, prior="normal")
result = pcf.fit(model, train, max_steps=60 if smoke else 1200, lr=8e-3, noise=0.01, held_out=0)
model.requires_grad_(False)
print(result)
shown = model.decode(model.embedding_loc[:6], 2048).sample()
pcf.plotting.plot_clouds({"training": train[:6], "learned": shown, "new": model.sample(6, 2048)}, size=1.5)

# %% [markdown]
# ## A sensor that sees one side
#
# A point is recorded with a probability that falls softly across a plane, with direction $d$ towards the sensor,
#
# $$\text{keep}(x) = \Phi(x \cdot d / s), \qquad
#   p(x \mid \text{recorded}, z) = \frac{p(x \mid z)\, \text{keep}(x)}{Z(z)}, \qquad
#   Z(z) = \int p(x \mid z)\, \text{keep}(x)\, dx.$$
#
# $Z(z)$ is the share of the chair that is seen. It depends on the chair, and that is the point: without it, chairs with
# little on the other side are preferred. We give the model 50 recorded points, and keep the hidden ones to score.

# %%
below = torch.tensor([0.0, -1.0, 0.0])
softness = 0.05
keep = torch.special.ndtr(test @ below / softness)
recorded = torch.rand_like(keep) < keep


def draw(clouds, mask, num_points):
    chosen = torch.where(mask, torch.rand(mask.shape), -1.0).topk(num_points, 1).indices
    return clouds.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 3))


seen = draw(test, recorded, 50)
hidden = draw(test, ~recorded, 300)
print("share seen of each chair:", [round(share, 2) for share in recorded.float().mean(1).tolist()])

# %% [markdown]
# ## Completion
#
# `complete` fits a guide to the posterior $p(z \mid \text{seen})$, draws latents from it and fills in what is missing.
# The guide starts as the prior, so that what the points don't tell stays as wide as it was.

# %%
options = {
    "num_samples": 32,
    "num_steps": 40 if smoke else 300,
    "lr": 0.05,
    "guide": partial(AutoNormal, init_scale=1.0),
}


def sensor(thing):
    return one_sided(thing, below, softness=softness, num_draws=128 if smoke else 512)


pyro.set_rng_seed(0)
shape = partial(model.shape, len(test))
right = pcf.complete(shape, seen, 1000, observe=sensor, fill=lambda thing: sensor(thing).complement(), **options)
pyro.set_rng_seed(0)
naive = pcf.complete(shape, seen, 1000, **options)

# %%
picked = [0, 1, 3, 5, 8]
rows = {"truth": test[picked], "seen": list(seen[picked])}
rows |= {f"completion {k + 1}": right.clouds[k, picked] for k in range(3)}
pcf.plotting.plot_clouds({**rows, "no sensor": naive.clouds[0, picked]}, size=1.5)


# %% [markdown]
# ## The score
#
# A hidden point has under $K$ draws of a latent the predictive density
#
# $$\hat p(x) = \frac1K \sum_k p(x \mid z_k),$$
#
# with $z_k$ from the posterior, or from the prior, which is what we would say without having looked.


# %%
def predictive(z, points):
    """Log-density of points in nats, (B, N), of latents (K, B, 16)."""
    log_prob = model.decoder.condition(z.unsqueeze(2)).log_prob(points)  # (K, B, N)
    return log_prob.logsumexp(0) - math.log(len(z))


prior_z = torch.randn(32, len(test), 16)
latents = {"prior": prior_z, "no sensor": naive.latents["z"], "sensor": right.latents["z"]}
scores = {name: predictive(z, hidden).mean(1) for name, z in latents.items()}
shares = {}
for name, z in latents.items():
    points = model.decode(z, 500).sample()
    shares[name] = torch.special.ndtr(points @ below / softness).mean((0, 2))
    error = shares[name] - recorded.float().mean(1)
    print(
        f"{name:>9}: hidden points {scores[name].mean():.2f} nats each, unknown chairs {scores[name][:3].mean():.2f}, "
        f"known {scores[name][3:].mean():.2f}; share seen too large by {error.mean():+.3f}, off by {error.abs().mean():.3f}"
    )
better = (scores["sensor"] > scores["no sensor"]).float()
gained = (scores["sensor"] > scores["prior"]).float()
print(f"better with the sensor: {int(better.sum())} of {len(test)}, better than the prior: {int(gained.sum())}")
print("per chair", {n: [round(v, 2) for v in s.tolist()] for n, s in scores.items()})

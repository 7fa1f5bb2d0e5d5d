# %% [markdown]
# # Many shapes
#
# One conditional flow draws every shape of a kind, given a latent for each; a second flow is the prior over latents. We
# train such a model on human bodies, sample, reconstruct and interpolate with a trained one, and estimate its evidence.
# The claim: a flow as prior raises the bound, for clouds and in a variational autoencoder (VAE) that has nothing to do
# with points, where it makes most of the samples correct.

# %%
import math
import os

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_pcflow as pcf

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)

# %% [markdown]
# ## Training
#
# A cloud $x_1, \dots, x_N$ has a latent $z$. The decoder is a flow with context $z$, the encoder is a normal
# distribution $q(z \mid x)$, and training raises the evidence lower bound (Kingma and Welling, ICLR 2014)
#
# $$\log p(x) \ge \underbrace{\mathbb{E}_q \textstyle\sum_n \log p(x_n \mid z)}_{\text{log-likelihood}}
#   - \underbrace{\mathbb{E}_q \left[\log q(z \mid x) - \log p(z)\right]}_{\text{KL}}.$$
#
# Here is the same model with two priors: a standard normal, and a coupling stack that is trained with the rest. Both
# have the same number of steps, the same batches and the same start, and encoders that nothing corrects, of which more
# below. `fit` prints the bound of held-out bodies.

# %%
bodies = pcf.data.load_example("body", split="train")  # (240, 2048, 3), half extent 1, z up
test = pcf.data.load_example("body", split="test")  # (60, 2048, 3)
held = test[:16] if smoke else test
num_steps = 30 if smoke else 600
scores, drawn = {}, {}
for prior in ["normal", "flow"]:
    pyro.set_rng_seed(0)
    model = pcf.PointCloudVAE(point_dim=3, latent_dim=32, prior=prior, num_corrections=0)
    once = pcf.training.Logging(eval_every=num_steps)
    result = pcf.fit(model, bodies, max_steps=num_steps, lr=8e-3, noise=0.01, held_out=held, logging=once)
    scores[prior] = result.scores
    drawn[prior] = model.sample(20 if smoke else 60, 256)
    print(f"{prior:>6}: " + ", ".join(f"{name} {value:.2f}" for name, value in result.scores.items()))

# %% [markdown]
# The KL is the cost of the latents. The flow lowers it, since it learns where the latents are, and the bound rises. The
# gain is small beside the log-likelihood of 2048 points. Do samples gain too? 1-NNA with the Chamfer distance is the
# share of clouds whose nearest neighbour is of their own set; 0.5 is best, and its two halves belong beside it.

# %%
for prior, samples in drawn.items():
    report = pcf.metrics.evaluate(samples, test[: len(samples), :256])
    print(
        f"{prior:>6}: " + ", ".join(f"{key} {report[key]:.2f}" for key in ["1-nna-cd", "1-nna-cd-ref", "1-nna-cd-smp"])
    )

# %% [markdown]
# This is one seed and a short training: it shows the order of the bounds, and small differences between samples mean
# nothing. [The benchmarks](../benchmarks.md) have the same ablation on another kind, with three seeds.

# %%
gain = scores["flow"]["nats_per_cloud"] - scores["normal"]["nats_per_cloud"]
saving = scores["normal"]["kl"] - scores["flow"]["kl"]
print(f"the flow prior gains {gain:.1f} nats per cloud, and its KL is {saving:.1f} nats lower")
assert saving > (0 if smoke else 20)
assert smoke or gain > 20

# %% [markdown]
# ## Sampling and reconstruction
#
# The package has a model that was trained for longer, on more bodies, with a latent of 64. The first row is new points
# of held-out bodies, decoded from what the encoder made of each; the second is new bodies.

# %%
vae = pcf.load_pretrained("body")
pyro.set_rng_seed(0)
again = vae.reconstruct(test, num_points=2048)
new = vae.sample(num_clouds=6, num_points=2048)
pcf.plotting.plot_clouds({"again": again[:6], "new": new}, up="z", size=1.6)

# %% [markdown]
# A reconstruction should be nearer to its own cloud than to that of any other held-out body.

# %%
count = 12 if smoke else 60
distances = pcf.metrics.chamfer(again[:count, None, :512], test[None, :count, :512])  # (count, count)
own = distances.argmin(1) == torch.arange(count)
print(f"{int(own.sum())} of {count} reconstructions are nearest to their own cloud")
assert own.float().mean() > 0.9

# %% [markdown]
# ## A walk
#
# `interpolate` walks on a straight line in the space where the prior is standard normal, $z = T(u)$ with $T$ the flow
# of the prior, and decodes each latent from the same noise, so that a point of one cloud becomes a point of the next.
# Move the slider: limbs move and hardly fade. [Many shapes](../many-shapes.md) has numbers for this, against blends.

# %%
walk = vae.interpolate(test[5], test[3], steps=13, num_points=2048)
pcf.plotting.view_clouds({"from one body to another": walk}, up="z")

# %% [markdown]
# ## Evidence
#
# The bound is loose where $q$ isn't the posterior. With $K$ latents $z_k$ from $q$, the importance-weighted bound
#
# $$\log p(x) \ge \mathbb{E} \log \frac1K \sum_k w_k, \qquad w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}$$
#
# is tighter (Burda, Grosse and Salakhutdinov, ICLR 2016). For $K = 1$ it is the evidence lower bound. The mean of the
# weights is an unbiased estimate of $p(x)$ for every $K$; its logarithm is too low on average (Jensen), by less the
# less the mean varies, and that falls with $K$.

# %%
clouds = test[:6] + 0.01 * torch.randn_like(test[:6])  # the noise that the model was trained with
num_particles = 16 if smoke else 256
with torch.no_grad():
    corrected, p = vae.encode(clouds), vae.latent_prior()
    vae.num_corrections = 0
    q = vae.encode(clouds)  # the encoder alone
    z = q.sample((num_particles,))  # (K, 6, 64)
    log_likelihood = torch.stack([vae.decode(part, 2048).log_prob(clouds) for part in z])
    kl = q.log_prob(z) - p.log_prob(z)
    log_w = log_likelihood - kl
print(f"log-likelihood {log_likelihood.mean():.1f}, KL {kl.mean():.1f}, bound {log_w.mean():.1f} nats per cloud")
print("deviation of log w, for each cloud:", [round(value, 1) for value in log_w.std(0).tolist()])

# %%
bounds = {}
for k in [2**power for power in range(int(math.log2(num_particles)) + 1)]:
    groups = log_w.unflatten(0, (-1, k))  # all particles, k at a time
    bounds[k] = float((groups.logsumexp(1) - math.log(k)).mean())
print({k: round(bound, 1) for k, bound in bounds.items()})

figure, axes = plt.subplots(figsize=(5, 3), facecolor="white")
axes.plot(list(bounds), list(bounds.values()), "o-")
axes.set(xscale="log", xlabel="particles K", ylabel="bound, nats per cloud")
figure.tight_layout()
plt.show()

# %% [markdown]
# It still rises at the right end: the weights vary by many nats, so that a few of them make up the mean. Most of the
# gap is due to the encoder, which guesses a posterior for every cloud in one pass (the amortisation gap). A $q$ of the
# same family, fitted to these clouds alone and started at the encoder's, shows how much. What `vae.encode` returns by
# itself is the guess after a second network has corrected it, from how the decoder's Gaussians fit the cloud there.

# %%
loc, log_scale = q.mean.clone().requires_grad_(), q.stddev.log().requires_grad_()
optimizer = torch.optim.Adam([loc, log_scale], lr=0.01)
for _ in range(10 if smoke else 150):
    own_q = dist.Normal(loc, log_scale.exp()).to_event(1)
    z = own_q.rsample()
    bound = vae.decode(z, 2048).log_prob(clouds) + p.log_prob(z) - own_q.log_prob(z)
    loc.grad, log_scale.grad = torch.autograd.grad(-bound.sum(), [loc, log_scale])
    optimizer.step()

with torch.no_grad():
    z = own_q.sample((16,))
    log_likelihood = torch.stack([vae.decode(part, 2048).log_prob(clouds) for part in z])
    own_kl = own_q.log_prob(z) - p.log_prob(z)
    own_bound = (log_likelihood - own_kl).mean().item()
print(f"with the encoder's q: bound {bounds[1]:.1f}, with {num_particles} particles {bounds[num_particles]:.1f}")
print(f"with q of its own: bound {own_bound:.1f}, log-likelihood {log_likelihood.mean():.1f}, KL {own_kl.mean():.1f}")
with torch.no_grad():
    corrected_bound = vae.log_prob(clouds, num_particles=1, posterior=corrected).mean().item()
print(f"with the encoder's q, corrected: bound {corrected_bound:.1f}")
assert bounds[num_particles] > bounds[1] + 10
assert corrected_bound > bounds[num_particles] + 50
assert smoke or own_bound > bounds[num_particles] + 100

# %% [markdown]
# The corrections find two thirds of it in one pass. What is left is small to see, the corrected encoder's in the second
# row: the raised arm of the first body, and the hands of the second. `complete`, in the
# [next tutorial](4_half_a_body.md), fits a posterior in this way, and an
# [`AutoDecoder`](../reference/models.md) has no other one.

# %%
with torch.no_grad():
    own_again = vae.decode(loc, 2048).sample()
pcf.plotting.plot_clouds({"held out": test[:6], "encoder": again[:6], "own q": own_again}, up="z", size=1.6)

# %% [markdown]
# ## The same prior without points
#
# `pcf.models.latent_flow(latent_dim)` is a module whose `condition()` is a Pyro distribution. Here it is the prior of a
# VAE of images: 12 by 12 pixels with noise, and a hand that points up or down, within 60 degrees, never sideways. The
# truth has one angle, so that its log-density is an integral along two arcs, and we know the highest score that a model
# can have.

# %%
side, sigma = 12, 0.1
axis = torch.linspace(-1, 1, side)
pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)  # (144, 2)


def draw_hand(angle):
    """Images without noise, from angles of shape (n,) to (n, 144)."""
    direction = torch.stack([angle.cos(), angle.sin()], -1).unsqueeze(-2)
    along = (pixels * direction).sum(-1, keepdim=True).clamp(0, 0.8)
    return (-(pixels - along * direction).square().sum(-1) / 0.03).exp()


def on_arcs(share):
    """Angles, from shares in [0, 1] of the two arcs together."""
    up, down = math.pi / 6 + 4 / 3 * math.pi * share, math.pi / 2 + 4 / 3 * math.pi * share
    return torch.where(share < 0.5, up, down)


pyro.set_rng_seed(0)
angles = on_arcs(torch.rand(5500))
images = draw_hand(angles) + sigma * torch.randn(5500, side**2)
images, held_out = images[:5000], images[5000:]
hands = draw_hand(on_arcs((torch.arange(720) + 0.5) / 720))
truth = dist.Normal(hands, sigma).to_event(1).log_prob(held_out.unsqueeze(1)).logsumexp(1) - math.log(720)

# %% [markdown]
# The model and the guide are plain Pyro; only the prior is ours. The latent has two dimensions.


# %%
class ImageVAE(nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(side**2, 128), nn.SiLU(), nn.Linear(128, 4))
        self.decoder = nn.Sequential(
            nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, side**2)
        )
        self.flow = pcf.models.latent_flow(2) if prior == "flow" else None

    def prior(self):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1) if self.flow is None else self.flow.condition()

    def encode(self, images):
        loc, log_scale = self.encoder(images).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def model(self, images):
        pyro.module("vae", self)
        with pyro.plate("images", len(images)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.decoder(z), sigma).to_event(1), obs=images)

    def guide(self, images):
        with pyro.plate("images", len(images)):
            pyro.sample("z", self.encode(images))


def train(prior, num_steps):
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    vae = ImageVAE(prior)
    svi = SVI(vae.model, vae.guide, pyro.optim.ClippedAdam({"lr": 2e-3, "lrd": 0.05 ** (1 / num_steps)}), Trace_ELBO())
    for _ in range(num_steps):
        svi.step(images[torch.randint(len(images), (128,))])
    return vae


# %% [markdown]
# We compare the importance-weighted bound of held-out images, and count the samples that are hands: those whose
# decoded image is within a root mean square of 0.05, half of the noise, of some image of the truth.

# %%
image_vaes = {prior: train(prior, 500 if smoke else 3000) for prior in ["normal", "flow"]}
image_bounds, good, samples = {}, {}, {}
for prior, image_vae in image_vaes.items():
    with torch.no_grad():
        q = image_vae.encode(held_out)
        z = q.sample((100,))
        log_likelihood = dist.Normal(image_vae.decoder(z), sigma).to_event(1).log_prob(held_out)
        log_w = log_likelihood + image_vae.prior().log_prob(z) - q.log_prob(z)
        image_bounds[prior] = log_w.logsumexp(0) - math.log(100)
        samples[prior] = image_vae.decoder(image_vae.prior().sample((500,)))
        good[prior] = (torch.cdist(samples[prior], hands).amin(1) / side < 0.05).float().mean().item()
    print(f"{prior:>6}: bound {image_bounds[prior].mean():.2f} nats per image, hands among samples {good[prior]:.2f}")
print(f" truth: {truth.mean():.2f} nats per image")
ahead = image_bounds["flow"] - image_bounds["normal"]
print(f"the flow is ahead by {ahead.mean():.2f}, standard error {ahead.std() / math.sqrt(len(ahead)):.2f}")

# %% [markdown]
# The codes lie on two curves, and a normal prior has much of its mass beside them, however the encoder bends them: many
# of its samples point in two directions at once. The flow has its mass where the codes are. In grey the log-density of
# each prior, from 8 nats below its highest on; the dots are codes of held-out images, coloured by the angle of the
# hand. Below them are images decoded from draws of the priors.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 4), facecolor="white")
for axis, (prior, image_vae) in zip(axes, image_vaes.items(), strict=True):
    with torch.no_grad():
        codes = image_vae.encode(held_out).mean
        radius = 1.15 * codes.abs().max().item()
        ticks = torch.linspace(-radius, radius, 200)
        grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
        density = image_vae.prior().log_prob(grid)
    lowest = density.max() - 8  # nats
    axis.imshow(density, extent=[-radius, radius, -radius, radius], origin="lower", cmap="Greys", vmin=lowest)
    axis.scatter(*codes.T, c=angles[5000:], s=6, cmap="coolwarm")
    axis.set(title=f"{prior} prior", xlabel="first latent", ylabel="second latent", aspect="equal")
figure.tight_layout()
plt.show()

# %%
figure, axes = plt.subplots(2, 10, figsize=(8, 2), facecolor="white")
for row, (prior, decoded) in zip(axes, samples.items(), strict=True):
    for axis, image in zip(row, decoded, strict=False):
        axis.imshow(image.unflatten(0, (side, side)), origin="lower", cmap="Greys", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(prior)
figure.tight_layout()
plt.show()

# %%
assert ahead.mean() > (0.0 if smoke else 1.0)
assert good["flow"] > good["normal"] + (0.1 if smoke else 0.2)
assert image_bounds["flow"].mean() < truth.mean()

# %% [markdown]
# ## What was learned
#
# The bound has two parts, and the prior acts on the second, the KL. For clouds of thousands of points
# that is little per point; for an image, and for what samples look like, it is more. More particles
# tighten the bound, and a posterior of the cloud's own tightens it more.
#
# [Half a body](4_half_a_body.md) infers a latent from a part of a cloud; [Trust the numbers](7_trust_the_numbers.md)
# says what 1-NNA hides; [models](../reference/models.md) has every option.

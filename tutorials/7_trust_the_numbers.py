# %% [markdown]
# # Trust the numbers
#
# Sets of generated clouds are judged by a few numbers, and each of them can be bought without a better model. We take a
# trained model of human bodies and turn one knob, the temperature of its latent noise. The claim: one setting has the
# better MMD, another the better coverage, a mean of 1-NNA can look ideal while both of its halves are far off, and
# copies of the training set look best of all. Both halves, several draws and a row for the training set show it.

# %%
import math
import os
from functools import partial

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import pyro_pcflow as pcf
from pyro_pcflow import metrics

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)
num_clouds, num_points, draws = (30, 128, 2) if smoke else (60, 256, 5)

# %%
load = partial(pcf.data.load_example, "body")
held_out, train = load(num_points, split="test")[:num_clouds], load(num_points, split="train")
vae = pcf.load_pretrained("body")


def sample(count, points, temperature=1.0):
    """Clouds of the trained model, its latent noise scaled by a temperature."""
    noise = dist.Normal(0.0, temperature).expand([vae.latent_dim]).to_event(1)
    latents = dist.TransformedDistribution(noise, vae.prior.condition().transforms)
    with torch.no_grad():
        return vae.decode(latents.sample((count,)), points).sample()


# %% [markdown]
# A cool model draws bodies that are alike, a hot one draws more varied and stranger ones.

# %%
rows = {f"temperature {t}": sample(6, 1024, t) for t in (0.6, 1.0, 1.5)}
pcf.plotting.plot_clouds({"held out": load(1024, split="test")[:6], **rows}, up="z", size=1.4)

# %% [markdown]
# ## Which Chamfer, which EMD?
#
# With $d(p, Y) = \min_{q \in Y} \lVert p - q \rVert$, papers write "CD" for sums, means and maxima of distances or of
# their squares; the [table of conventions](../reference/metrics.md) says who means which. The default is
#
# $$\mathrm{CD}(X, Y) = \frac1N \sum_n d(x_n, Y)^2 + \frac1N \sum_n d(y_n, X)^2.$$

# %%
x, y = held_out[0], held_out[1]
distances = torch.linalg.vector_norm(x.unsqueeze(1) - y, dim=-1)  # (N, N)
by_hand = distances.amin(1).square().mean() + distances.amin(0).square().mean()
print(f"{'by hand':>14}: {by_hand:9.5f}")
powers = ("squared_sum", "squared_mean", "squared_max", "squared_total", "distance_sum", "distance_mean", "distance_max")
for name in powers:
    value = metrics.chamfer(x, y, name)
    print(f"{name:>14}: {value:9.5f}, {value / by_hand:7.3f} times the default")
assert torch.allclose(metrics.chamfer(x, y), by_hand, rtol=1e-4)

# %% [markdown]
# "EMD" has the same fault. The earth mover's distance is $\min_s \frac1N \sum_n \lVert x_n - y_{s(n)} \rVert$ over all
# matchings $s$. What PointFlow and LION report comes from an approximate matching, of distances in one and of squares in
# the other; Sinkhorn's smooth transport depends on its entropy. The last column has both clouds in units ten times
# as small: a distance must become ten times as large.

# %%
kinds = {
    "exact": metrics.emd,
    "approximate, PointFlow": partial(metrics.approximate_emd, variant="pointflow"),
    "approximate, LION": partial(metrics.approximate_emd, variant="lion"),
    "Sinkhorn, epsilon 0.1": partial(metrics.sinkhorn, epsilon=0.1),
    "Sinkhorn, epsilon 0.01": partial(metrics.sinkhorn, epsilon=0.01),
}
for name, distance in kinds.items():
    a, b, c = distance(x, y), distance(x, x), distance(10 * x, 10 * y) / distance(x, y)
    print(f"{name:>22}: {a:.4f}, of a cloud to itself {b:.4f}, ten times as large {c:6.2f} times")
assert metrics.approximate_emd(x, y) > 1.05 * metrics.emd(x, y)
assert abs(metrics.emd(10 * x, 10 * y) / metrics.emd(x, y) - 10) < 0.01

# %% [markdown]
# ## Three questions about two sets
#
# Let $D_{sr}$ be the distance from sample $s$ to reference $r$, here the default Chamfer distance.
# MMD, $\frac1R \sum_r \min_s D_{sr}$, asks whether each reference has a likeness. Coverage is the share of references that are
# the nearest, $\arg\min_r D_{sr}$, of some sample. 1-NNA pools both sets and asks how often the nearest neighbour of a cloud
# is of its own set: 0.5 is ideal, more says that the sets can be told apart, less that samples copy references.

# %%
samples = sample(num_clouds, num_points)
of_references, of_samples = metrics.pairwise(held_out), metrics.pairwise(samples)
between = metrics.pairwise(samples, held_out)  # (S, R)

mmd = between.amin(0).mean()
coverage = len(between.argmin(1).unique()) / num_clouds
alone = torch.diag(torch.full((num_clouds,), torch.inf))  # nobody is a neighbour of itself
reference_half = ((of_references + alone).amin(1) < between.amin(0)).double().mean()
sample_half = ((of_samples + alone).amin(1) < between.amin(1)).double().mean()

found = metrics.one_nearest_neighbour(of_samples, of_references, between)
print(f"MMD {mmd:.4f}, coverage {coverage:.2f}; 1-NNA {found.accuracy:.2f}: {found.references:.2f}, {found.samples:.2f}")
assert math.isclose(mmd, metrics.minimum_matching_distance(between), rel_tol=1e-6)
assert coverage == metrics.coverage(between)
assert abs(reference_half - found.references) + abs(sample_half - found.samples) < 1e-9

# %% [markdown]
# Both MMD and coverage are asymmetric. A transposed matrix raises no error and answers another question: how
# near samples are to references, and how many samples are the nearest one of a reference.

# %%
swapped_mmd, swapped_coverage = metrics.minimum_matching_distance(between.T), metrics.coverage(between.T)
print(f"swapped: MMD {swapped_mmd:.4f} for {mmd:.4f}, coverage {swapped_coverage:.2f} for {coverage:.2f}")
assert abs(swapped_coverage - coverage) > 0.05

# %% [markdown]
# ## One knob buys what you like
#
# `evaluate` asks all of this, with a new set of samples for each draw. The last row has clouds of the training set in place
# of the samples: a model that is as good as more data would score like it.

# %%
temperatures = [0.6, 0.8, 1.0, 1.2, 1.5]
keys = {"1-nna-cd": "1-NNA", "1-nna-cd-ref": "of references", "1-nna-cd-smp": "of samples", "cov-cd": "coverage"}
keys["mmd-cd"] = "MMD"
compare = partial(metrics.evaluate, references=held_out, draws=draws)
reports = {t: compare(partial(sample, temperature=t), train=train if t == 1 else None) for t in temperatures}
scores = {f"temperature {t}": report.draws for t, report in reports.items()} | {"training set": reports[1.0].train}
print(f"{'':>16}" + "".join(f"{name:>18}" for name in keys.values()))
for name, values in scores.items():
    columns = [torch.tensor(values[key], dtype=torch.float64) for key in keys]
    print(f"{name:>16}" + "".join(f"{v.mean():10.4f} ± {v.std():.3f}" for v in columns))

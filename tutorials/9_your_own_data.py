# %% [markdown]
# # Your own data
#
# From a folder of scans to a model that scores new ones, by code and by command line; then points that have more than a
# position: with normals, with colour, and in two dimensions. The claims: of several new scans, the one that contains
# outliers is found by its score; the command line and the code give the same number; the normals and colours of samples
# are those of the surface where they lie.

# %%
import io
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
import trimesh

import pyro_pcflow as pcf

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
num_steps, batch_size = (150, 512) if smoke else (2500, 2048)
pyro.set_rng_seed(0)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# %% [markdown]
# ## A folder
#
# The scans of this page are made here: points on a cow, in the units of its file, with the noise of a sensor. They come
# in several formats; meshes (`.obj`, `.ply`, `.stl`, ...) could lie between them. The last file was cut off while it
# was copied.

# %%
half_extent = pcf.data.half_extent(pcf.data.load_example("spot"))
sensor = 0.01 * half_extent


def scan(seed):
    surface = pcf.data.load_example("spot", num_points=4096, seed=seed)
    return surface + sensor * torch.randn(surface.shape)


for seed, ending in enumerate(["ply", "xyz", "npy", "npz", "ply", "xyz"]):
    pcf.data.save_clouds(scan(seed), folder / "scans" / f"monday_{seed}.{ending}")
whole = (folder / "scans" / "monday_2.npy").read_bytes()
(folder / "scans" / "monday_6.npy").write_bytes(whole[: len(whole) // 2])

# %% [markdown]
# `load_clouds` reads the folder, in sorted order, and names the file that it can't use. Nothing is skipped silently.

# %%
try:
    pcf.data.load_clouds(folder / "scans", num_points=4096)
except pcf.data.CloudError as error:
    message = str(error)
print(message.replace(str(folder), ""))
assert "monday_6.npy" in message

(folder / "scans" / "monday_6.npy").unlink()
scans = pcf.data.load_clouds(folder / "scans", num_points=4096)
print(f"clouds, points, coordinates: {tuple(scans.shape)}")

# %% [markdown]
# ## A model of them
#
# All scans are of one object, so that their points are draws from one density: `fit` pools them. Their points already
# have the thickness that the sensor gave them, and need no `noise`. (Scans of many different objects need [another
# model](3_many_shapes.md).) A saved model is weights and configuration, without pickle.

# %%
pyro.set_rng_seed(0)  # the first weights
flow = pcf.PointCloudFlow(point_dim=3, num_couplings=12, hidden_dims=[64, 64])
result = pcf.fit(flow, scans, max_steps=num_steps, batch_size=batch_size, lr=1e-2)
print(f"{result.nats_per_point:.3f} nats per held-out point")

pcf.save(flow, folder / "cow.pt")
loaded = pcf.load(folder / "cow.pt")
assert torch.equal(loaded.log_prob(scans[0]), flow.log_prob(scans[0]))

# %% [markdown]
# ## New scans
#
# In one of the new scans, one point in fifty is a stray. The score of a scan is its mean log-density,
#
# $$ s = \frac{1}{N} \sum_{n=1}^N \log p(x_n), $$
#
# and $s$ of scans of the same object has the standard deviation $\sigma / \sqrt N$, where $\sigma$ is the standard
# deviation of $\log p(x)$. Twenty more scans, which were not trained on, give $\sigma$ and the mean to compare with.

# %%
new = {f"tuesday_{seed}": scan(100 + seed)[0] for seed in range(5)}
is_stray = torch.arange(4096) % 50 == 0
low, high = scans.amin((0, 1)), scans.amax((0, 1))
new["tuesday_3"][is_stray] = low + (high - low) * torch.rand(int(is_stray.sum()), 3)
for name, cloud in new.items():
    pcf.data.save_clouds(cloud.unsqueeze(0), folder / "new" / f"{name}.xyz")

with torch.no_grad():
    reference = flow.log_prob(torch.cat([scan(200 + seed) for seed in range(20)]))
    scores = {name: flow.log_prob(cloud) for name, cloud in new.items()}
scatter = reference.std().item() / math.sqrt(4096)
deviations = {name: (s.mean() - reference.mean()).item() / scatter for name, s in scores.items()}
for name, deviation in deviations.items():
    print(f"{name}: {scores[name].mean().item():.3f} nats per point, {deviation:+.1f} standard errors")
odd = deviations.pop("tuesday_3")
assert odd < -8
assert all(abs(deviation) < 4 for deviation in deviations.values())

# %% [markdown]
# The strays themselves have the lowest log-densities. Their AUROC is the probability that one of them scores below
# another point of the scan.

# %% alt="A scan of the cow; strays around it are dark"
auroc = pcf.metrics.outlier_auroc(scores["tuesday_3"], is_stray)
print(f"AUROC of the strays: {auroc:.4f}")
assert auroc > (0.8 if smoke else 0.95)
bottom = reference.quantile(0.001).item()
pcf.plotting.plot_clouds(
    new["tuesday_3"],
    colors=scores["tuesday_3"],
    color_label="log-density, nats",
    color_limits=(bottom - 4, reference.max().item()),
    size=4,
    azim=120,
)

# %% [markdown]
# ## The same by command line
#
# `pcflow` is installed with the package; `python -m pyro_pcflow` is the same. `train` writes a run folder, `score` a
# table with a row for each point and one with a row for each scan.


# %%
def pcflow(*arguments):
    command = [sys.executable, "-m", "pyro_pcflow", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    print("pcflow", *arguments)
    print(done.stdout)


pcflow(
    "train",
    "scans",
    "--out",
    "run",
    "--base",
    "normal",
    "--max-steps",
    num_steps,
    "--batch-size",
    batch_size,
    "--noise",
    0,
    "--num-points",
    4096,
)
pcflow("score", "run", "new", "--out", "scores.csv", "--num-points", 4096)

# %% [markdown]
# The command has the same points, settings and seed, and so it makes the same model. Its scores are those of the code
# above, up to the digits of the table.

# %%
table = (folder / "scores.clouds.csv").read_text().splitlines()
by_command = [float(line.split(",")[-1]) for line in table[1:]]
by_code = [s.mean().item() for s in scores.values()]
difference = max(abs(a - b) for a, b in zip(by_command, by_code, strict=True))
print(f"largest difference between command line and code: {difference:.1e} nats per point")
print(f"lowest row of the table, counted from 0: {by_command.index(min(by_command))}")
assert difference < 1e-3
assert by_command.index(min(by_command)) == 3

# %% [markdown]
# `sample` draws clouds, and `evaluate` compares samples with scans that were held out. Twelve small clouds are few, as
# the last column shows: it has the range of the metric if both sets are of one distribution. [Trust the
# numbers](7_trust_the_numbers.md) explains the table.

# %%
held_out = torch.cat([scan(300 + seed)[:, :256] for seed in range(12)])
pcf.data.save_clouds(held_out, folder / "held_out.npz")
pcflow("sample", "run", "--out", "samples.npz", "--num-clouds", 12, "--num-points", 256)
pcflow("evaluate", "samples.npz", "--reference", "held_out.npz", "--num-points", 256)

# %% [markdown]
# ## Normals and colour
#
# A point may have any number of coordinates from two on. With its normal or its colour it has six, and the flow is
# their joint density. All columns share one `noise`, so that each should be of the order of one: here lengths are in
# half extents, and normals and colours have the length or the range one. The mesh of the cow has normals. Its colour is
# invented: it wears a white belt.


# %%
mesh = trimesh.load(pcf.data.example_path("spot"), process=False)
points, faces = trimesh.sample.sample_surface(mesh, 50_000, seed=0)
points = torch.as_tensor(points, dtype=torch.float32) / half_extent
normals = torch.as_tensor(mesh.face_normals[faces], dtype=torch.float32)


def has_belt(points):
    return (points[..., 2] - 0.45).abs() < 0.25


black, white = torch.tensor([0.2, 0.15, 0.1]), torch.tensor([0.95, 0.93, 0.9])
colours = torch.where(has_belt(points).unsqueeze(-1), white, black)


def draw(features):
    data = torch.cat([points, features], dim=-1)  # (50000, 6)
    flow = pcf.PointCloudFlow(point_dim=6, num_couplings=12, hidden_dims=[64, 64])
    pcf.fit(flow, data, max_steps=num_steps // 2, batch_size=batch_size, lr=1e-2, noise=0.02, held_out=0)
    return flow.cloud(num_points=2048).sample().split(3, dim=-1)


# %% [markdown]
# A sample $(x, m)$ agrees with the surface if $m$ points as the normal $n$ of the nearest point of the mesh,
#
# $$ \cos \angle(m, n) = \frac{m \cdot n}{\lVert m \rVert \lVert n \rVert}, $$
#
# and if it is white where the belt is. Shuffled features show the level of chance.

# %%
places, drawn = draw(normals)
near = torch.cdist(places, points).argmin(-1)
cosine = torch.cosine_similarity(drawn, normals[near], dim=-1)
shuffled = torch.cosine_similarity(drawn[torch.randperm(2048)], normals[near], dim=-1)
print(f"cosine of normals: mean {cosine.mean().item():.3f}, shuffled {shuffled.mean().item():.3f}")
assert cosine.mean() - shuffled.mean() > (0.15 if smoke else 0.85)

painted, paint = draw(colours)
is_white = paint.mean(-1) > (black.mean() + white.mean()) / 2
right = (is_white == has_belt(painted)).float().mean().item()
by_chance = (is_white[torch.randperm(2048)] == has_belt(painted)).float().mean().item()
print(f"share with the right colour: {right:.3f}, shuffled {by_chance:.3f}")
assert right > (by_chance + 0.02 if smoke else 0.9)

# %% alt="Two sampled cows: one coloured by its normals, one black with a white belt"
pcf.plotting.plot_clouds(
    {"coloured by normals": places, "coloured by colour": painted},
    colors=[((drawn + 1) / 2).clamp(0, 1), paint.clamp(0, 1)],
    background="#8fa3b5",
    size=3.2,
    azim=120,
)

# %% [markdown]
# ## A picture is a density too
#
# In two dimensions, let the darkness $w_k$ of pixel $k$ be the share of points that fall into it, evenly within the
# pixel, of area $a$. The true density is then known, and with it the best mean log-density that any model can have:
#
# $$ p(x) = \frac{w_k}{a \sum_j w_j} \text{ in pixel } k. $$

# %%
sheet = pcf.plotting.plot_clouds(points[:20_000], size=1.0, azim=120)
buffer = io.BytesIO()
sheet.savefig(buffer, format="png", dpi=100)
buffer.seek(0)
darkness = 1 - torch.as_tensor(plt.imread(buffer)[..., :3]).mean(-1).flip(0)  # row 0 at the bottom
height, width = darkness.shape
share = darkness.flatten() / darkness.sum()
pixel = share.multinomial(60_000, replacement=True)
dots = (torch.stack([pixel % width, pixel // width], dim=-1) + torch.rand(60_000, 2)) / height
truth = (share * height**2).log()[pixel]  # a pixel has the area 1 / height^2

# %% [markdown]
# The only difference for the flow is `point_dim=2`. It is scored on dots that it has not seen, between a Gaussian and
# the truth. Its density has the outline and the shades of the picture, and not its grain.

# %% alt="The picture, the density of the flow, and dots drawn from it"
seen, unseen, truth = dots[:50_000], dots[50_000:], truth[50_000:]
flow = pcf.PointCloudFlow(point_dim=2, num_couplings=12, hidden_dims=[64, 64])
result = pcf.fit(flow, seen, held_out=unseen, max_steps=num_steps // 2, batch_size=batch_size, lr=1e-2)
gaussian = torch.distributions.MultivariateNormal(seen.mean(0), torch.cov(seen.T)).log_prob(unseen).mean().item()
gained = (result.nats_per_point - gaussian) / (truth.mean().item() - gaussian)
print(f"nats per dot: Gaussian {gaussian:.3f}, flow {result.nats_per_point:.3f}, truth {truth.mean().item():.3f}")
print(f"share of the gain: {gained:.3f}")
assert (0.3 if smoke else 0.85) < gained < 1

ticks = (torch.arange(2 * height) + 0.5) / (2 * height), (torch.arange(2 * width) + 0.5) / (2 * height)
y, x = torch.meshgrid(*ticks, indexing="ij")
with torch.no_grad():
    density = flow.log_prob(torch.stack([x, y], dim=-1)).exp()
drawn = flow.cloud(num_points=6000).sample()
extent = (0, width / height, 0, 1)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
axes[0].imshow(darkness, origin="lower", extent=extent, cmap="Greys")
axes[1].imshow(density, origin="lower", extent=extent, cmap="Greys", vmax=density.quantile(0.995))
axes[2].scatter(*drawn.T, s=0.5, color="black")
for axis, title in zip(axes, ["picture", "density of the flow", "dots drawn from it"], strict=True):
    axis.set(title=title, aspect="equal", xlim=extent[:2], ylim=extent[2:], xlabel="x, heights of the picture")
axes[0].set_ylabel("y, heights of the picture")
plt.show()

# %%
temporary.cleanup()

# %% [markdown]
# ## What was learned
#
# - A folder becomes a tensor by one call, and a bad file is named.
# - The mean log-density finds the unusual scan, and the log-density of points the outliers in it.
# - The commands call the functions: their numbers agree.
# - One more column is one more coordinate.
#
# All options are under [command line](../command-line.md), all formats under [data](../reference/data.md). Models of
# many different objects are in [many shapes](3_many_shapes.md), and what a GPU changes is in [bigger](8_bigger.md).

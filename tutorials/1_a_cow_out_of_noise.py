# %% [markdown]
# # A cow out of noise
#
# This page builds a normalizing flow from its formulas: one coupling by hand, the same coupling from the library, a
# stack of them, and a fit to the surface of a cow. The claim: the result is an exact density. Its log-determinant is
# the one that automatic differentiation finds, it integrates to one, and it describes points that it has not seen
# better than a Gaussian with a full covariance.

# %%
import math
import os

import matplotlib.pyplot as plt
import pyro
import torch
from torch import nn

import pyro_pcflow as pcf

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
num_steps = 150 if smoke else 10_000
pyro.set_rng_seed(0)

# %% [markdown]
# ## One coupling by hand
#
# A mask $b$ splits the coordinates of a point into kept ones, $b_i = 1$, and moved ones, $b_i = 0$. A network reads the
# kept ones, and returns a shift $A$ and a log-scale $M$. From data to noise,
#
# $$ z = b \odot x + (1 - b) \odot \bigl(x \odot e^{M(b \odot x)} + A(b \odot x)\bigr). $$
#
# With $M = 0$ this is the coupling of NICE, otherwise that of RealNVP.

# %%
b = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)  # keep x and y, move z
network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 6)).double()


def shift_and_log_scale(point):
    shift, log_scale = network(b * point).chunk(2, dim=-1)
    return shift, log_scale.tanh()  # bounded, so that no scale overflows


def data_to_noise(x):
    shift, log_scale = shift_and_log_scale(x)
    return b * x + (1 - b) * (x * log_scale.exp() + shift)


# %% [markdown]
# The kept coordinates come out as they went in. So the inverse reads the same $A$ and $M$ off $z$, and the network is
# never inverted:
#
# $$ x = b \odot z + (1 - b) \odot (z - A(b \odot z)) \odot e^{-M(b \odot z)}. $$


# %%
def noise_to_data(z):
    shift, log_scale = shift_and_log_scale(z)
    return b * z + (1 - b) * (z - shift) * (-log_scale).exp()


x = torch.randn(500, 3, dtype=torch.float64)
round_trip = (noise_to_data(data_to_noise(x)) - x).abs().max().item()
print(f"largest error of the round trip: {round_trip:.1e}")
assert round_trip < 1e-12

# %% [markdown]
# ## Its log-determinant
#
# With the kept coordinates first, the Jacobian is a triangle: ones for what is kept, $e^{M_i}$ for what is moved.
#
# $$ \frac{\partial z}{\partial x} = \begin{pmatrix} 1 & 0 \\ * & \mathrm{diag}(e^{M}) \end{pmatrix}
# \qquad \log \left| \det \frac{\partial z}{\partial x} \right| = \sum_i (1 - b_i) M_i $$
#
# The sum runs over the *moved* coordinates. A common misprint sums $b_i M_i$, over the kept ones. Automatic
# differentiation shows which one is correct:

# %%
jacobian = torch.func.vmap(torch.func.jacrev(data_to_noise))(x)  # (500, 3, 3)
truth = torch.linalg.slogdet(jacobian).logabsdet
log_scale = shift_and_log_scale(x)[1]
over_moved, over_kept = ((1 - b) * log_scale).sum(-1), (b * log_scale).sum(-1)
print(f"largest error, sum over the moved: {(over_moved - truth).abs().max().item():.1e}")
print(f"largest error, sum over the kept:  {(over_kept - truth).abs().max().item():.1e}")
assert (over_moved - truth).abs().max() < 1e-12
assert (over_kept - truth).abs().max() > 0.1

# %% [markdown]
# The difference matters, because the log-density of a point is that of its noise plus this term,
#
# $$ \log p(x) = \log \mathcal N(z; 0, I) + \log \left| \det \frac{\partial z}{\partial x} \right|, $$
#
# and with another term it is not a density: its integral, which is the mean of $e^{\text{wrong} - \text{right}}$ over
# draws of the correct one, is not 1.

# %%
draws = noise_to_data(torch.randn(20_000, 3, dtype=torch.float64))
log_scale = shift_and_log_scale(draws)[1]
ratio = ((b * log_scale).sum(-1) - ((1 - b) * log_scale).sum(-1)).exp()
error = ratio.std().item() / math.sqrt(len(draws))
print(f"with the slip the 'density' integrates to {ratio.mean().item():.3f} ± {error:.3f}")
assert abs(ratio.mean().item() - 1) > 10 * error

# %% [markdown]
# ## The same from the library
#
# `affine_point_coupling` makes such a coupling with a network of its own. It is a Pyro transform and points from noise
# to data, so that `.inv` is what was written above; like ours it bounds $M$ by a hyperbolic tangent. Given our network
# it must return our numbers.


# %%
class OurNetwork(nn.Module):
    def forward(self, kept, context):
        shift, log_scale = network(nn.functional.pad(kept, (0, 1))).chunk(2, dim=-1)
        return shift[..., 2:], log_scale[..., 2:]  # of the moved coordinate


coupling = pcf.transforms.affine_point_coupling(3, mask=[True, True, False]).double()
coupling.conditioner = OurNetwork()
z = coupling.inv(x)
print(f"largest difference of z: {(z - data_to_noise(x)).abs().max().item():.1e}")
assert torch.allclose(z, data_to_noise(x), rtol=0, atol=1e-12)
assert torch.allclose(coupling.inv.log_abs_det_jacobian(x, z), over_moved, rtol=0, atol=1e-12)

# %% [markdown]
# ## A stack, and a surface
#
# One coupling leaves two coordinates as they are. In a stack the masks take turns, and the log-determinants add up. A
# `PointCloudFlow` is a stack with a change of units at its end.
#
# A surface has no volume. A density that shrinks onto it grows without bound, so that its likelihood has no maximum.
# Hence the surface is thickened: each point gets Gaussian noise, afresh in every batch, with a standard deviation of
# 0.01 of the half extent of the bounding box. Here the half extent is the unit of length.

# %%
cow = pcf.data.load_example("spot", num_points=100_000)[0]
half_extent = pcf.data.half_extent(cow)
cow, noise = cow / half_extent, 0.01
seen, unseen = cow[:90_000], cow[90_000:] + noise * torch.randn(10_000, 3)

flow = pcf.PointCloudFlow(point_dim=3, num_couplings=12, hidden_dims=[64, 64])
print(
    "kept = and moved >:", " ".join("".join("=" if k else ">" for k in part.mask) for part in flow.transform.parts[:-1])
)
result = pcf.fit(flow, seen, held_out=0, max_steps=num_steps, lr=1e-2, noise=noise)
print(f"{result.steps} steps: {flow.log_prob(unseen).mean().item():.3f} nats per held-out point")

# %% [markdown]
# ## Beside a Gaussian
#
# The best Gaussian has the mean and the covariance of the data; noise adds its variance to the diagonal. Both densities
# score the same held-out points, which carry the same noise.

# %%
covariance = torch.cov(seen.T) + noise**2 * torch.eye(3)
gaussian = torch.distributions.MultivariateNormal(seen.mean(0), covariance)
with torch.no_grad():
    by_flow, by_gaussian = flow.log_prob(unseen), gaussian.log_prob(unseen)
gain = by_flow - by_gaussian
print(f"Gaussian: {by_gaussian.mean().item():.3f} nats per point")
print(f"flow:     {by_flow.mean().item():.3f} nats per point")
print(f"gain:     {gain.mean().item():.3f} ± {gain.std().item() / 100:.3f}")
assert gain.mean() > (1.0 if smoke else 2.5)

# %% [markdown]
# How high a score can be is in [a table of the benchmarks](../benchmarks.md#density-on-single-meshes), which has the
# score of the true density of the thickened cow.
#
# ## The film
#
# `trajectory` carries noise to data and keeps every state on the way: noise, then one frame per coupling. Each coupling
# moves points along one axis. Drag to turn, and move the slider.

# %%
film = flow.trajectory(num_points=2048)  # (13, 2048, 3)
pcf.plotting.view_clouds(film, azim=120, title="Noise becomes a cow")

# %% [markdown]
# ## The density on a slice
#
# A density has a value everywhere, not only at points of the data. Here is $\log p$ on the plane of symmetry of the
# cow, and on one that cuts a front leg and a hind leg. Colours end 12 nats below the maximum. The thin threads inside
# the body, and the wisps under the chest, are errors: a smooth map stretches the ball of noise into a hollow shape, and
# cannot tear it.

# %% alt="Log-density on two upright planes through the cow: bright outlines of its body, and faint threads"
side = torch.linspace(-1.3, 1.3, 131 if smoke else 261)
y, z = torch.meshgrid(side, side, indexing="ij")
cuts = (0.0, 0.25)
with torch.no_grad():
    planes = [flow.log_prob(torch.stack([torch.full_like(y, x), y, z], dim=-1)) for x in cuts]
top = max(plane.max().item() for plane in planes)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for axis, cut, plane in zip(axes, cuts, planes, strict=True):
    image = axis.pcolormesh(z, y, plane, vmin=top - 12, vmax=top, cmap="magma", shading="nearest")
    axis.set(title=f"x = {cut} half extents", xlabel="z, half extents", aspect="equal")
axes[0].set_ylabel("y, half extents")
figure.colorbar(image, ax=axes, label="log-density, nats")
plt.show()

# %% [markdown]
# ## It integrates to one
#
# With $n$ points $u_i$ drawn uniformly from a box of volume $V$,
#
# $$ \int_{\text{box}} p(x) \, dx \approx \frac{V}{n} \sum_{i=1}^n p(u_i), $$
#
# with a standard error of $V / \sqrt n$ times the standard deviation of $p(u)$. Over all of space the integral is 1.
# Over a box it is the probability that a sample falls into it, so that density and sampling check each other: once in a
# box around the cow, once in the half of it without the head.


# %%
def integral(low, high, count):
    u = low + (high - low) * torch.rand(count, 3)
    with torch.no_grad():
        density = torch.cat([flow.log_prob(part).exp() for part in u.split(50_000)])
    volume = (high - low).prod().item()
    return volume * density.mean().item(), volume * density.std().item() / math.sqrt(count)


low, high = cow.amin(0) - 0.2, cow.amax(0) + 0.2
samples = flow.cloud(num_points=100_000).sample()
for name, corner in {
    "the whole box": low,
    "its rear half": torch.tensor([low[0], low[1], (low + high)[2] / 2]),
}.items():
    value, error = integral(corner, high, 200_000 if smoke else 3_000_000)
    share = ((samples > corner) & (samples < high)).all(-1).double().mean().item()
    error = math.hypot(error, math.sqrt(share * (1 - share) / len(samples)))
    print(f"{name}: density {value:.4f}, share of samples {share:.4f}, standard error of their difference {error:.4f}")
    assert abs(value - share) < 4 * error

# %% [markdown]
# ## Outliers
#
# A point off the surface has a low log-density. The area under the receiver operating characteristic (AUROC) is the
# probability that a stray point, uniform in the box, scores below a held-out point of the cow; 0.5 is guessing. A stray
# point on the surface cannot be detected, so that no score reaches 1.

# %% alt="The cow in yellow and green, stray points around it in dark blue"
strays = low + (high - low) * torch.rand(10_000, 3)
with torch.no_grad():
    by_flow, of_strays = flow.log_prob(unseen), flow.log_prob(strays)
scores = {"flow": pcf.metrics.auroc(-of_strays, -by_flow)}
scores["Gaussian"] = pcf.metrics.auroc(-gaussian.log_prob(strays), -gaussian.log_prob(unseen))
print(", ".join(f"{name}: {score:.4f}" for name, score in scores.items()))
assert scores["flow"] > (0.9 if smoke else 0.98)
shown = torch.cat([unseen[:4000], strays[:200]])
shown_scores = torch.cat([by_flow[:4000], of_strays[:200]])
pcf.plotting.plot_clouds(
    shown, colors=shown_scores, color_label="log-density, nats", color_limits=(-10, 3), size=4.5, azim=120
)

# %% [markdown]
# ## What was learned
#
# - A coupling is a shift and a scale that the kept coordinates decide; its log-determinant is the sum of the log-scales
#   of the moved ones.
# - The likelihood of a surface has a meaning only after thickening, and two scores are comparable only under the same
#   noise.
# - The density of a fit is exact: it agrees with its own samples in any box.
#
# The flow is a Pyro distribution: [flows inside Pyro](2_flows_inside_pyro.md) continues from here. The layers are in
# the [reference of transforms](../reference/transforms.md), and a folder of your own scans is the subject of [your own
# data](9_your_own_data.md).

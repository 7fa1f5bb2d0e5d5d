# %% [markdown]
# # Where is it and what is it?
#
# A scan shows a hammer among clutter. Which hammer, in which pose, and which points are clutter? One Pyro model asks
# for all of it at once, and NUTS answers with draws. Claim: the truth lies within the spread of the draws, up to the
# symmetry of a hammer, and they tell the clutter from the hammer.

# %%
import math
import os

import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value
from pyro.ops.stats import effective_sample_size, split_gelman_rubin

import pyro_pcflow as pcf
from pyro_pcflow.distributions import with_background
from pyro_pcflow.models import sample_pose
from pyro_pcflow.transforms import similarity

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)

# %% [markdown]
# ## A family of hammers
#
# A hammer is two tubes, seen with a little noise. Two standard normal factors say how long its handle is and how wide
# its head: $1.2\, e^{c_1 / 4}$ and $1.0\, e^{c_2 / 4}$ units.


# %%
def make_hammers(factors, num_points):  # (*batch, 2) -> (*batch, num_points, 3)
    length, width = ((factors / 4).exp() * torch.tensor([1.2, 1.0])).unsqueeze(-2).unbind(-1)
    along, turn = torch.rand(2, *factors.shape[:-1], num_points)
    angle = 2 * math.pi * turn
    head_area, handle_area = 0.15 * width, 0.07 * length
    on_head = torch.rand_like(along) < head_area / (head_area + handle_area)
    across, up = torch.where(on_head, 0.15, 0.07) * torch.stack([angle.cos(), angle.sin()])
    head = torch.stack([width * (along - 0.5), across, up], -1)
    handle = torch.stack([across, -length * along, up], -1)
    surface = torch.where(on_head.unsqueeze(-1), head, handle)
    return surface + 0.02 * torch.randn_like(surface)


# %% [markdown]
# A conditional flow learns their density by maximum likelihood, $\max_\theta \sum \log p_\theta(x \mid c)$, from fresh
# hammers in each step. `tanh` and no Fourier features keep the density smooth, which samplers want.

# %%
num_steps, num_couplings, width = (300, 4, 32) if smoke else (4000, 8, 48)
flow = pcf.PointCloudFlow(
    point_dim=3,
    context_dim=2,
    num_couplings=num_couplings,
    hidden_dims=[width, width],
    activation="tanh",
    num_frequencies=0,
)
flow.normalize(make_hammers(torch.randn(1000, 2), 10))
adam = torch.optim.Adam(flow.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, num_steps)
for _ in range(num_steps):
    factors = torch.randn(32, 1, 2)
    loss = -flow.log_prob(make_hammers(factors.squeeze(1), 64), factors).mean()
    adam.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
    adam.step()
    schedule.step()
flow.requires_grad_(False)
print(f"log-density of the last batch: {-loss:.3f} nats per point")

# %% [markdown]
# ## A scan
#
# A hammer of known factors in a known pose, and a known share of clutter in a box around it.

# %%
true_context = torch.tensor([0.8, -0.6])
true_pose = similarity(
    torch.tensor([0.4, 0.7, -0.3, 0.5]), torch.tensor([0.5, -0.3, 0.8])
)  # a quaternion, a translation
num_thing, num_clutter = (90, 30) if smoke else (240, 80)
thing = true_pose(make_hammers(true_context, num_thing))
clutter = true_pose.translation + 3 * torch.rand(num_clutter, 3) - 1.5
scan = torch.cat([thing, clutter])
is_clutter = torch.arange(len(scan)) >= num_thing
true_share = num_clutter / len(scan)

# %% [markdown]
# ## The model
#
# With $R$ and $t$ the pose, $c$ the context and $\pi$ the share of clutter, the density of a point of the scan is
#
# $$ p(x \mid c, R, t, \pi) = (1 - \pi)\, p_{\mathrm{flow}}\left( R^\top (x - t) \mid c \right) + \pi\, U(x). $$
#
# Any rotation is as likely as any other. The plate holds independent copies of all unknowns, each explaining the same
# scan: as many starts of an optimiser or chains of a sampler, for the price of one batched flow. `around` is
# where the rotation of each copy starts.


# %%
def model(scan, around):  # (N, 3), (K, 4)
    with pyro.plate("copies", len(around)):
        context = pyro.sample("context", dist.Normal(torch.zeros(2), 1).to_event(1))
        pose = sample_pose(around=around, translation=dist.Normal(torch.zeros(3), 1).to_event(1))
        share = pyro.sample("share", dist.Beta(1.0, 3.0))
        thing = dist.TransformedDistribution(flow.condition(context), [pose])
        point = with_background(thing, share, scan.amin(0), scan.amax(0))
        pyro.sample("scan", pcf.PointCloud(point, num_points=len(scan)), obs=scan)
    return point


# %% [markdown]
# ## Search first
#
# The posterior over poses has many bad local modes, such as a hammer upside down with its handle taken for clutter, and
# a chain does not leave them. So we optimise copies from random rotations, a point estimate each, and keep the best.

# %%
num_starts, search_steps = (24, 100) if smoke else (64, 300)
around = torch.randn(num_starts, 4)
pyro.clear_param_store()
start = {
    "context": torch.zeros(num_starts, 2),
    "pose_turn": torch.zeros(num_starts, 4),
    "pose_translation": scan.median(0).values.expand(num_starts, 3),
    "share": torch.full((num_starts,), 0.5),
}
guide = AutoDelta(model, init_loc_fn=init_to_value(values=start))
optimizer = pyro.optim.CosineAnnealingLR(
    {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "T_max": search_steps}
)
svi = SVI(model, guide, optimizer, Trace_ELBO())
for _ in range(search_steps):
    svi.step(scan, around)
    optimizer.step()

with torch.no_grad():
    found = guide(scan, around)
    trace = poutine.trace(poutine.condition(model, found)).get_trace(scan, around)
    trace.compute_log_prob()
    log_joint = sum(trace.nodes[name]["log_prob"] for name in [*start, "scan"])
best = log_joint.argsort(descending=True)
print("log joint density of the best starts:", [f"{value:.0f}" for value in log_joint[best[:12]]])

# %% [markdown]
# Most starts end in a local mode, far below the best. A handful of starts would not have been enough.
#
# ## Then sample
#
# Four chains start from the four best.

# %%
num_chains, num_draws, num_warmup = (2, 40, 50) if smoke else (4, 500, 300)
best = best[:num_chains]
kept = {name: found[name][best] for name in start}
around = (around / around.norm(dim=-1, keepdim=True))[best] + kept["pose_turn"]
kept["pose_turn"] = torch.zeros(num_chains, 4)
kernel = NUTS(
    model,
    init_strategy=init_to_value(values=kept),
    full_mass=[("pose_turn",)],  # its four numbers are correlated
    max_tree_depth=5,
    jit_compile=True,
    ignore_jit_warnings=True,
)
mcmc = MCMC(kernel, num_draws, warmup_steps=num_warmup, disable_progbar=True)
mcmc.run(scan, around)
draws = mcmc.get_samples()  # each (num_draws, num_chains, ...)

# %% [markdown]
# # Sorting a box of parts
#
# A box holds scans of small parts, and nobody says which is which or how many kinds there are. A mixture over whole
# clouds, its label summed out by Pyro, sorts them; the same label for each point instead cuts one object into its
# pieces. The claim: labels of scans that were held out agree with the truth, and evidence rises up to the true
# number of kinds.

# %%
import os
from functools import partial

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import trimesh
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete

import pyro_pcflow as pcf

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)
num_clouds, num_points = (100, 64) if smoke else (300, 96)
num_steps, num_starts, kinds = (150, 1, (2, 4)) if smoke else (500, 3, (1, 2, 3, 4, 5, 6))

# %% [markdown]
# ## The box
#
# Four kinds, two of which differ in length alone, in unequal numbers. Each scan has few points, drawn uniformly from
# the surface, and noise of 0.3 mm. All parts lie the same way; [another tutorial](5_where_and_what.md) finds poses.

# %%
create, lift = trimesh.creation, trimesh.transformations.translation_matrix


def bolt(length):
    head = create.cylinder(6, 4, sections=6, transform=lift([0, 0, -2]))
    return [create.cylinder(3, length, transform=lift([0, 0, length / 2])), head]


bracket = [create.box([16, 9, 2], lift([5, 0, 0])), create.box([2, 9, 14], lift([-2, 0, 6]))]
parts = {"bolt": bolt(12), "long bolt": bolt(24), "nut": [create.annulus(3, 6, 4.5, sections=6)], "bracket": bracket}


def scan(pieces, count, seed):
    """Noisy points of an object in millimetres, (N, 3), and the pieces that they come from, (N,)."""
    whole = trimesh.util.concatenate(pieces)
    points, faces = trimesh.sample.sample_surface(whole, count, seed=seed)
    piece = torch.arange(len(pieces)).repeat_interleave(torch.tensor([len(piece.faces) for piece in pieces]))
    return torch.from_numpy(points).float() + 0.3 * torch.randn(count, 3), piece[torch.from_numpy(faces)]


def box(seed):
    truth = dist.Categorical(torch.tensor([0.35, 0.25, 0.25, 0.15])).sample((num_clouds,))
    pieces = list(parts.values())
    clouds = [scan(pieces[k], num_points, seed * num_clouds + i)[0] for i, k in enumerate(truth)]
    return torch.stack(clouds), truth


(clouds, truth), (held_out, held_out_truth) = box(0), box(1)
pcf.plotting.plot_clouds(clouds[:10], up="z", size=1.5, columns=5)

# %% [markdown]
# ## A label for each cloud
#
# One conditional flow is the density of a point of any kind; the label chooses its context, here one of $K$ unit
# vectors. With weights $w_k$,
#
# $$p(x_1, \ldots, x_N) = \sum_{k=1}^K w_k \prod_{n=1}^N p(x_n \mid k).$$
#
# `config_enumerate` gives the label a dimension of its own on the left, the flow broadcasts, and `TraceEnum_ELBO`
# takes the sum inside the logarithm. There is no guide, since nothing is left to guess: the "bound" is the evidence.


# %%
def make_model(flow, num_kinds):
    contexts = torch.eye(num_kinds)

    def model(clouds, size=None):
        pyro.module("flow", flow)
        weights = pyro.param("weights", torch.full((num_kinds,), 1 / num_kinds), constraint=dist.constraints.simplex)
        # A batch stands for all clouds.
        with pyro.plate("clouds", size or len(clouds), subsample=torch.arange(len(clouds))):
            label = pyro.sample("label", dist.Categorical(weights))
            pyro.sample("x", flow.cloud(contexts[label], num_points=clouds.shape[1]), obs=clouds)
        return label

    return model


def guide(clouds, size=None):
    pass


def log_joint(flow, weights, clouds):
    """$\log w_k + \sum_n \log p(x_n | k)$ of each cloud and kind, (B, K)."""
    contexts = torch.eye(len(weights)).unsqueeze(1)  # (K, 1, K): beside the clouds
    with torch.no_grad():
        return (flow.cloud(contexts, num_points=clouds.shape[1]).log_prob(clouds) + weights.log().unsqueeze(1)).T


# %% [markdown]
# A mixture needs a start in which its kinds differ. We take $K$ scans that are far apart by the Chamfer distance,
# and for the first steps condition the same model on the label of the nearest one. Then the labels are let go. A
# start can be a bad one, so there are several, and the evidence of the training clouds chooses.

# %%
distances = pcf.metrics.pairwise(clouds)


def first_guess(num_kinds):
    chosen = [int(torch.randint(len(clouds), ()))]
    for _ in range(num_kinds - 1):
        chosen.append(int(torch.multinomial(distances[chosen].amin(0), 1)))
    return distances[chosen].argmin(0)


def fit_once(num_kinds, seed):
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    flow = pcf.PointCloudFlow(point_dim=3, context_dim=num_kinds, num_couplings=6, hidden_dims=[32, 32])
    flow.normalize(clouds)
    model, guess = make_model(flow, num_kinds), first_guess(num_kinds)
    optim = pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.03 ** (1 / num_steps), "clip_norm": 1e6})
    hidden = SVI(config_enumerate(model), guide, optim, TraceEnum_ELBO(max_plate_nesting=1))
    for step in range(num_steps):
        some = torch.randint(len(clouds), (32,))
        guessed = SVI(pyro.condition(model, {"label": guess[some]}), guide, optim, Trace_ELBO())
        (guessed if step < num_steps // 5 else hidden).step(clouds[some], len(clouds))
    return flow, pyro.param("weights").detach().clone(), guess


def evidence(fitted, clouds):
    return log_joint(*fitted[:2], clouds).logsumexp(-1)


def fit(num_kinds):
    return max((fit_once(num_kinds, seed) for seed in range(num_starts)), key=lambda f: evidence(f, clouds).mean())


# %% [markdown]
# Agreement is measured by the adjusted Rand index: of all pairs of clouds, those that both labellings put together,
# with what chance would give subtracted. It is 1 for the same partition, whatever the names, and 0 for chance.


# %%
def agreement(a, b):
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)
    together, rows, columns, all_pairs = ((n * (n - 1) / 2).sum() for n in (table, table.sum(1), table.sum(0), table.sum()))
    chance = rows * columns / all_pairs
    return float((together - chance) / ((rows + columns) / 2 - chance))


fits = {}
for k in kinds:
    fits[k] = flow, weights, guess = fit(k)
    label = log_joint(flow, weights, held_out).argmax(-1)
    print(f"{k} kinds: held-out evidence {evidence(fits[k], held_out).mean():7.2f} nats a cloud, agreement "
          f"{agreement(held_out_truth, label):.3f}, weights {[round(w, 2) for w in weights.tolist()]}")  # fmt: skip

# %% [markdown]
# # Sorting a box of parts
#
# A box holds scans of small parts, without labels and of an unknown number of kinds. A mixture over whole clouds, its
# label summed out by Pyro, sorts them; the same label for each point instead cuts one object into its pieces. The
# claim: labels of scans that were held out agree with the truth, and evidence rises up to the true number of kinds.

# %%
import os
from itertools import pairwise

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
num_steps, num_starts, kinds = (60, 1, (2, 4)) if smoke else (500, 2, (1, 2, 3, 4, 5))

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
# `config_enumerate` gives the label a dimension of its own on the left, the flow broadcasts, and `TraceEnum_ELBO` takes
# the sum inside the logarithm. The guide is empty, since no latent is left: the "bound" is the evidence.


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
    """log p(x, k) = log w_k + sum of log p(x_n | k), of each cloud and kind, (B, K)."""
    contexts = torch.eye(len(weights)).unsqueeze(1)  # (K, 1, K): beside the clouds
    with torch.no_grad():
        return (flow.cloud(contexts, num_points=clouds.shape[1]).log_prob(clouds) + weights.log().unsqueeze(1)).T


# %% [markdown]
# A mixture needs a start in which its kinds differ. We group the scans around $K$ of them by the Chamfer distance
# (medoids), and for the first steps condition the same model on these groups as labels. Then the labels are latent
# again. Trainings still end differently, so we run several and choose by the evidence of the training clouds.

# %%
distances = pcf.metrics.pairwise(clouds)


def around_medoids(num_kinds):
    """A label for each cloud, and the sum of distances to the scans in the middle of the groups."""
    chosen = [int(torch.randint(len(clouds), ()))]
    for _ in range(num_kinds - 1):
        chosen.append(int(torch.multinomial(distances[chosen].amin(0), 1)))
    for _ in range(10):
        guess = distances[chosen].argmin(0)
        apart = [torch.where(guess == k, distances[:, guess == k].sum(1), torch.inf) for k in range(num_kinds)]
        chosen = [int(total.argmin()) for total in apart]
    return distances[chosen].amin(0).sum(), distances[chosen].argmin(0)


def fit_once(num_kinds, seed):
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    flow = pcf.PointCloudFlow(point_dim=3, context_dim=num_kinds, num_couplings=6, hidden_dims=[32, 32])
    flow.normalize(clouds)
    model = make_model(flow, num_kinds)
    guess = min((around_medoids(num_kinds) for _ in range(20)), key=lambda g: g[0])[1]
    optim = pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.03 ** (1 / num_steps), "clip_norm": 1e6})
    hidden = SVI(config_enumerate(model), guide, optim, TraceEnum_ELBO(max_plate_nesting=1))
    for step in range(num_steps):
        some = torch.randint(len(clouds), (32,))
        guessed = SVI(pyro.condition(model, {"label": guess[some]}), guide, optim, Trace_ELBO())
        (guessed if step < num_steps // 5 else hidden).step(clouds[some], len(clouds))
    return flow, pyro.param("weights").detach().clone(), guess


def evidence(fitted, clouds):
    return log_joint(*fitted[:2], clouds).logsumexp(-1)


def fit_best(num_kinds):
    return max((fit_once(num_kinds, seed) for seed in range(num_starts)), key=lambda f: evidence(f, clouds).mean())


# %% [markdown]
# Agreement is measured by the adjusted Rand index: of all pairs of clouds, those that both labellings put together,
# with what chance would give subtracted. It is 1 for the same partition, whatever the names, and 0 for chance.


# %%
def agreement(a, b):
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)
    together, rows, columns, all_pairs = (
        (n * (n - 1) / 2).sum() for n in (table, table.sum(1), table.sum(0), table.sum())
    )
    chance = rows * columns / all_pairs
    return float((together - chance) / ((rows + columns) / 2 - chance))


fits = {}
for k in kinds:
    fits[k] = flow, weights, guess = fit_best(k)
    found = log_joint(flow, weights, held_out).argmax(-1)
    print(f"{k} kinds: agreement of the start {agreement(truth, guess):.3f}, of held-out clouds "
          f"{agreement(held_out_truth, found):.3f}, weights {[round(w, 2) for w in weights.tolist()]}")  # fmt: skip

# %% [markdown]
# ## How many kinds?
#
# The evidence of clouds that were held out is the sum above, exactly. All models are scored on the same clouds, so the
# standard error is that of the difference, cloud by cloud.

# %%
held_out_evidence = {k: evidence(fitted, held_out) for k, fitted in fits.items()}
for few, many in pairwise(kinds):
    gain = held_out_evidence[many] - held_out_evidence[few]
    error = gain.std() / num_clouds**0.5
    print(f"from {few} to {many} kinds: {gain.mean():6.2f} ± {error:.2f} nats a cloud")
    if many == 4:
        assert gain.mean() > 5 * error
    if many == 5:
        assert gain.mean() < 0.5 * (held_out_evidence[4] - held_out_evidence[3]).mean()

figure, axis = plt.subplots(figsize=(4.5, 2.8), layout="constrained", facecolor="white")
errors = [values.std() / num_clouds**0.5 for values in held_out_evidence.values()]
axis.errorbar(kinds, [values.mean() for values in held_out_evidence.values()], errors, marker="o", capsize=3)
axis.set(xlabel="kinds", ylabel="held-out nats a cloud", xticks=kinds)
plt.show()

# %% [markdown]
# It rises up to four and then no more: the fifth flow has to share the scans of one kind with another, and both learn
# from fewer. The error is that between clouds; trainings from other starts differ too, so a difference of a nat or two
# is no evidence for another kind. And if scans of one kind differed in more than noise, their differences would become
# kinds: then a cloud needs a latent of its own beside its label.
#
# ## Which is which?
#
# `infer_discrete` returns the likeliest labels, as the model returns them. The sum over kinds by Pyro is the one by
# hand.

# %%
flow, weights, guess = fits[4]
pyro.clear_param_store()
pyro.param("weights", weights, constraint=dist.constraints.simplex)
model = config_enumerate(make_model(flow, 4))
loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, held_out)
by_hand = evidence(fits[4], held_out).sum().item()
label = infer_discrete(model, first_available_dim=-2, temperature=0)(held_out)
print(f"evidence by Pyro {-loss:.2f}, by hand {by_hand:.2f}; agreement {agreement(held_out_truth, label):.3f}")
assert abs(loss + by_hand) < 1e-3 * abs(by_hand)
assert agreement(held_out_truth, label) > (0.6 if smoke else 0.95)

# %%
inks = torch.tensor([[0.28, 0.47, 0.66], [0.82, 0.48, 0.29], [0.31, 0.6, 0.49], [0.6, 0.44, 0.69]])
colors = [inks[k].expand(num_points, 3) for k in label[:14]]
pcf.plotting.plot_clouds(list(held_out[:14]), colors=colors, up="z", size=1.3, columns=7)

# %% [markdown]
# One colour per label: labels agree with the shapes. Each label has a probability, $p(k \mid x) \propto w_k \prod_n
# p(x_n \mid k)$. How many points does it need, and is it calibrated? If it is, the mean probability of the chosen label
# is the share of correct ones.

# %%
for count in (1, 2, 4, 8, 16, 32):
    probability, chosen = log_joint(flow, weights, held_out[:, :count]).softmax(-1).max(-1)
    names = torch.stack([torch.bincount(held_out_truth[label == k], minlength=4).argmax() for k in range(4)])
    right = (names[chosen] == held_out_truth).double().mean()
    print(f"{count:2} points: right {right:.3f}, mean probability {probability.mean():.3f}")

# %% [markdown]
# ## A label for each point
#
# With the label inside the plate of points, $p(x) = \prod_n \sum_k w_k\, p_k(x_n)$, and an object falls into pieces.
# `MixtureOfFlows` has this density. Its flows start in regions found by k-means, and maximum likelihood moves the
# borders. The flows are small on purpose: one that could model the whole object would not share it.

# %%
points, piece = scan(bracket, 2048, seed=5)
mixture = pcf.MixtureOfFlows(2, point_dim=3, num_couplings=4, hidden_dims=[16])
mixture.normalize(points)
centres = torch.stack([member.units.loc for member in mixture.flows])
start = torch.cdist(points, centres).argmin(-1)  # the regions, which set the units of the flows
pcf.fit(mixture, points, max_steps=100 if smoke else 300, batch_size=1024, lr=1e-2)
responsibility = mixture.condition().responsibilities(points).detach()  # p(k | x_n), (N, 2)
found = responsibility.argmax(-1)
print(f"agreement of the start {agreement(piece, start):.3f}, of the mixture {agreement(piece, found):.3f}")
assert agreement(piece, found) > agreement(piece, start) + (0.0 if smoke else 0.1)

# %%
same = int((found == piece).double().mean() > 0.5)  # names of pieces are arbitrary
colors = {"truth": piece.double(), "start": (start == same).double(), "mixture": responsibility[:, same].double()}
pcf.plotting.view_clouds(dict.fromkeys(colors, points), colors=colors, up="z", color_label="piece", color_limits=(0, 1))

# %% [markdown]
# The start cuts a slice off the plate and gives it to the wall; the mixture moves the border to the corner. There it
# stays soft, since the two boxes overlap. The density is the sum over labels, and a label inside
# `pyro.plate("points", ...)` that is enumerated gives the same, see [inference](../inference.md).

# %%
with torch.no_grad():
    log_weights = mixture.weight_logits.log_softmax(-1)
    each = torch.stack([log_weights[k] + member.log_prob(points) for k, member in enumerate(mixture.flows)])  # (K, N)
    assert torch.allclose(each.logsumexp(0), mixture.log_prob(points), atol=1e-4)

# %% [markdown]
# ## What was learned
#
# - A label is one `pyro.sample` of a `Categorical`; enumerated, it costs a factor $K$ and no variance.
# - Evidence of held-out clouds estimates how many kinds a box has, up to kinds that are split; its error is that of
#   differences on the same clouds, and trainings differ by more.
# - The result of a mixture depends on its start: try several, and choose by the evidence of the training clouds.
# - Pieces are where simple densities fit. They need not be pieces that have a name.
#
# Scans that lie in any pose: [where is it and what is it](5_where_and_what.md). A latent beside the label: [many
# shapes](3_many_shapes.md). More on enumeration: [inference](../inference.md).

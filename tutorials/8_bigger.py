# %% [markdown]
# # Bigger
# The same training in several ways: by a compiled kernel, with less memory, in fewer bits, from a file that does not
# fit into memory, in two processes, and after a kill. The claim: none of them changes what is computed, except for
# rounding, whose size is measured. Speeds are printed and not asserted, as they depend on your machine.

# %%
import copy
import importlib.util
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch

import pyro_pcflow as pcf

smoke = "CI" in os.environ  # a short form for tests, as in Pyro's own examples
pyro.set_rng_seed(0)
temporary = tempfile.TemporaryDirectory()  # deleted when the process ends
folder = Path(temporary.name)

# %% [markdown]
# ## Which kernel
# A stack of couplings can be run in several ways. `"auto"` takes the fastest that works here, and this prints why
# another does not:

# %%
for name, entry in pcf.kernels.available().items():
    print(f"{name:7} {entry.ok!s:6} {entry.detail}")

# %% [markdown]
# They have to agree. For a point $x$ and its noise $z = f(x)$, all of them compute
#
# $$\log p(x) = \log \mathcal N(z; 0, I) + \sum_l \sum_{i \text{ moved}} M_{l,i}$$
#
# in another order of operations, so the difference is the rounding of float32, about $10^{-7}$ of the numbers that are
# added. The weights get some noise, since a new flow is the identity, on which all ways agree.

# %%
cow = pcf.data.load_example("spot", num_points=20_000)
flow = pcf.PointCloudFlow(point_dim=3, num_couplings=12, hidden_dims=[64, 64])
flow.normalize(cow)
pcf.testing.randomize_parameters(flow, scale=0.03)
batch = cow[0, :8192]


def loss_and_gradient(backend):
    pcf.kernels.set_backend(flow, backend)
    loss = -flow.log_prob(batch).mean()
    return loss.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(flow.parameters()))])


plain_loss, plain_gradient = loss_and_gradient("plain")
fast_loss, fast_gradient = loss_and_gradient("auto")
gradient_error = (fast_gradient - plain_gradient).norm() / plain_gradient.norm()
print(f"losses {plain_loss:.6f} and {fast_loss:.6f}, relative error of the gradient {gradient_error:.1e}")
assert abs(fast_loss - plain_loss) < 1e-5
assert gradient_error < 1e-4

# %% [markdown]
# Both are timed alternately, so that the load of the machine is the same for both, and compared by the ratio of
# medians. On a busy machine such a ratio is still informative; a single time is not.

# %%
times = {"plain": [], "auto": []}
for _ in range(3 if smoke else 15):
    for backend, taken in times.items():
        start = time.perf_counter()
        loss_and_gradient(backend)
        taken.append(time.perf_counter() - start)
ratio = median(times["plain"]) / median(times["auto"])
print(f"a step in the plain way takes {ratio:.1f} times as long as in the way that 'auto' takes here")

# %% [markdown]
# ## Memory of a step
# The backward pass of a coupling needs what its forward pass computed. Layer by layer that is at least the hidden
# layers: for $N$ points and $L$ couplings with widths $H_1, H_2$ in four bytes each, $4 N L (H_1 + H_2)$ bytes. A
# kernel, or `Optimization(recompute=True)`, keeps the coordinates alone and computes the hidden layers again. What
# autograd keeps can be counted. The peak of a process is higher than that: it also has the layers that are computed
# again, one after the other.


# %%
def kept_megabytes(num_couplings, backend, recompute=False):
    stack = pcf.transforms.coupling_stack(3, num_couplings=num_couplings, hidden_dims=[64, 64], backend=backend)
    stack.recompute = recompute
    own = {weight.untyped_storage().data_ptr() for weight in stack.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()  # a tensor that is kept twice is there once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        noise, log_det = stack.inverse_and_log_det(batch)
        (noise.square().sum() - log_det.sum()).backward()
    return sum(kept.values()) / 1e6


depths = [4, 8] if smoke else [4, 8, 16, 32, 64]
hidden_layers = [4e-6 * len(batch) * depth * (64 + 64) for depth in depths]
kept = {
    "plain": [kept_megabytes(depth, "plain") for depth in depths],
    "plain, recompute=True": [kept_megabytes(depth, "plain", recompute=True) for depth in depths],
    "auto": [kept_megabytes(depth, "auto") for depth in depths],
}
assert kept["plain"][-1] > hidden_layers[-1]
assert max(kept["auto"][-1], kept["plain, recompute=True"][-1]) < hidden_layers[-1] / 5

# %% alt="Megabytes against couplings: the plain way above the dotted line of the hidden layers, the others far below"
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
for name, megabytes in kept.items():
    axis.loglog(depths, megabytes, "o-", label=name)
    print(f"{name}: {megabytes[-1]:.1f} MB for {depths[-1]} couplings")
axis.loglog(depths, hidden_layers, "k:", label="hidden layers alone")
axis.set(xlabel="couplings", ylabel="kept for the backward pass, MB", xticks=depths, xticklabels=depths)
axis.minorticks_off()
axis.legend(loc=(0.03, 0.26), fontsize="small")
plt.show()

# %% [markdown]
# The plain way lies a little above the dotted line. The other two keep coordinates: three numbers per point and layer
# instead of 128. Both pay for it by evaluating each coupling once more in the backward pass.
#
# ## Fewer bits
# `Optimization(precision="bfloat16")` rounds hidden layers of the networks to 8 significant bits, which GPUs multiply
# faster. Shifts, log-scales and coordinates, and so the sum of the log-determinant, keep the bits of the parameters,
# and scores are always computed in full. The compiled kernels work in float32 and are not used meanwhile, so that it
# can be slower on a CPU.

# %%
noise = 0.01 * pcf.data.half_extent(cow)
flows, scores = {}, {}
for precision in ("full", "bfloat16"):
    torch.manual_seed(0)
    flows[precision] = pcf.PointCloudFlow(point_dim=3, num_couplings=12, hidden_dims=[64, 64])
    options = {"max_steps": 40 if smoke else 1000, "lr": 1e-2, "noise": noise, "device": "cpu"}
    options["optimization"] = pcf.training.Optimization(precision=precision)
    scores[precision] = pcf.fit(flows[precision], cow, **options).nats_per_point
    print(f"{precision:8} {scores[precision]:.3f} nats per held-out point")
assert scores["bfloat16"] != scores["full"]
assert abs(scores["bfloat16"] - scores["full"]) < 0.03

# %% [markdown]
# Two trainings also differ by chance. What the rounding alone does to $\log p(x)$ shows on one set of weights, beside
# the same flow with everything in bfloat16, coordinates and log-determinants included:

# %%
rounded, everything = copy.deepcopy(flows["full"]), copy.deepcopy(flows["full"]).bfloat16()
for layer in rounded.modules():
    if hasattr(layer, "hidden_dtype"):
        layer.hidden_dtype = torch.bfloat16  # what `fit` does for as long as it trains
with torch.no_grad():
    full = flows["full"].log_prob(batch)
    shift = rounded.log_prob(batch) - full
    shift_of_all = everything.log_prob(batch.bfloat16()).float() - full
print(f"hidden layers: mean {shift.mean():+.4f}, mean size {shift.abs().mean():.4f} nats per point")
print(f"everything:    mean {shift_of_all.mean():+.4f}, mean size {shift_of_all.abs().mean():.4f} nats per point")
assert 0 < shift.abs().mean() < 0.02
assert shift.abs().mean() < shift_of_all.abs().mean() / 3

# %% [markdown]
# ## More data than memory
# `convert_clouds` gathers a folder of meshes or scans in one file, cloud by cloud, as `pcflow convert` does, and
# `MappedClouds` reads from it what is asked for. Nothing is lost, and a training from the file is the training from
# memory, to the last bit:

# %%
bodies = pcf.data.load_example("body", num_points=512, split="train")[:48]
(folder / "scans").mkdir()
for number, body in enumerate(bodies):
    np.save(folder / "scans" / f"{number:03}.npy", body.numpy())
mapped = pcf.data.MappedClouds(pcf.data.convert_clouds(folder / "scans", folder / "scans.npy", num_points=512))
in_memory = pcf.data.load_clouds(folder / "scans", num_points=512)
assert torch.equal(mapped.read(torch.arange(48)), in_memory)

weights = []
for data in (mapped, in_memory):
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(latent_dim=8, decoder={"num_couplings": 4}, encoder={"hidden_dims": [64]})
    print(pcf.fit(vae, data, max_steps=10 if smoke else 200, batch_size=8, noise=0.02, device="cpu"))
    weights.append(torch.cat([weight.detach().flatten() for weight in vae.parameters()]))
assert torch.equal(*weights)

# %% [markdown]
# Now a file that few machines could hold in memory. Its head and one cloud are written; the rest is a hole, which
# takes no space on a disk and is read as zeros. A batch of points, as a training asks for it, must cost the memory of
# a batch, not that of the file:


# %%
def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6  # as Linux counts


shape, place = (2_000_000, 2048, 3), 1_234_567
body = pcf.data.load_example("body", split="test")[0]
with open(folder / "huge.npy", "wb") as file:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    start = file.tell()
    file.truncate(start + shape[0] * body.nbytes)
    file.seek(start + place * body.nbytes)
    file.write(body.numpy().tobytes())

huge = pcf.data.MappedClouds(folder / "huge.npy")
chosen = torch.cat([torch.tensor([place]), torch.randint(len(huge), (31,))])
before = resident_megabytes()
points = huge.read(chosen, torch.randint(shape[1], (32, 512)))
grown = resident_megabytes() - before
print(f"a file of {huge.path.stat().st_size / 1e9:.0f} GB, a batch of {points.nbytes / 1e6:.1f} MB")
print(f"reading the batch, the process grew by {grown:.1f} MB")
assert torch.equal(huge[place], body)
assert grown < 50

# %% alt="A human body of 2048 points, and the same of 512 of them"
pcf.plotting.plot_clouds([huge[place], points[0]], titles=["in the file", "in the batch"], up="z")

# %% [markdown]
# On the left the cloud that was written, on the right the points of it that the batch drew.
#
# ## Killed, and gone on
# A long training will be interrupted. With a folder `out`, `fit` writes checkpoints, and the same line with
# `resume=True` goes on. Here the training is a script, as it would be on a large machine. Its process is killed at an
# arbitrary moment, and the training is resumed in this one; it is compared with a run that was never stopped. The
# weights end equal to the last bit.

# %%
script = folder / "train.py"
script.write_text("""
import os
import sys

import torch

import pyro_pcflow as pcf


def train(out, max_steps):
    torch.manual_seed(1)
    cow = pcf.data.load_example("spot", num_points=20_000)
    flow = pcf.PointCloudFlow(point_dim=3, num_couplings=4, hidden_dims=[32]).double()
    logging = pcf.training.Logging(log_every=20, checkpoint_every=25, pictures=False)
    settings = {"batch_size": 512, "logging": logging, "device": "cpu"}
    pcf.fit(flow, cow, max_steps=max_steps, out=out, resume=True, **settings)
    return torch.cat([weight.detach().flatten() for weight in flow.parameters()])


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
    rank, size = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    sys.stdout.write(f"process {rank} of {size}\\n")  # in one piece, so that two processes do not mix their letters
""")
train = runpy.run_path(str(script))["train"]
environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

# %%
max_steps, metrics = 300 if smoke else 5000, folder / "killed" / "metrics.jsonl"
process = subprocess.Popen([sys.executable, script, folder / "killed", str(max_steps)], env=environment)
while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
    time.sleep(0.01)
process.kill()
assert process.wait() == -signal.SIGKILL
reached = torch.load(folder / "killed" / "checkpoint.pt", weights_only=True)["step"]
print(f"killed; its last checkpoint is that of step {reached} of {max_steps}")
assert 0 < reached < max_steps
assert torch.equal(train(folder / "killed", max_steps), train(folder / "whole", max_steps))

# %% [markdown]
# ## Two processes
# `torchrun --nproc-per-node 2 train.py` runs the very same script in two processes, with the extra `distributed`. Each
# takes its half of a batch of $B$ points, and the mean of both gradients is that of the whole batch:
#
# $$\frac{1}{2} \left( \nabla \frac{2}{B} \sum_{n \le B/2} \ell_n + \nabla \frac{2}{B} \sum_{n > B/2} \ell_n \right)
# = \nabla \frac{1}{B} \sum_n \ell_n$$
#
# The sums are taken in another order, so the weights agree to rounding, here of float64, and not to the last bit. With
# `noise`, each process would draw its own, and only the distribution of the batches would be the same.

# %%
if importlib.util.find_spec("lightning_fabric") is None:
    print("skipped: torchrun needs lightning-fabric, pip install 'pyro-pcflow[distributed]'")
else:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, script, folder / "two", "50"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(*sorted(done.stdout.splitlines()), sep="\n")
    assert "process 1 of 2" in done.stdout
    state = pcf.load(folder / "two" / "model.pt").parameters()
    difference = torch.cat([weight.detach().flatten() for weight in state]) - train(folder / "one", 50)
    print(f"largest difference of a weight: {difference.abs().max():.1e}")
    assert difference.abs().max() < 1e-8

# %% [markdown]
# ## On a GPU
# `pcf.fit` takes a GPU where torch sees one: see [move to a GPU](../how-to/move-to-gpu.md). **What it gains has not
# been measured.** The kernel in Triton has never run on a GPU, and neither has a training in several processes.
#
# ## What it costs
# Measured on CPUs, on two cores where no other number is given, by the commands in [benchmarks](../benchmarks.md):
#
# | what | cost |
# | --- | --- |
# | a step, 16 clouds of 2048 points, 12 couplings of width 128 that keep two coordinates, plain | 403 ms, 934 MB |
# | the same tiled, in torch | 317 ms, 26 MB |
# | the same by the fused kernel | 164 ms, 12 MB |
# | the same with Pyro's own couplings | 539 ms, 1105 MB |
# | one shape, 12 couplings of width 64, 2048 points a step, eight meshes | 2234 to 2536 steps in 20 s |
# | the [model of bodies](../many-shapes.md#a-trained-model) of the package, on one core | 104,127 steps in 10,500 s |
# | the first step of the preset `cif`, on one core | 52 to 112 s |
# | three Chamfer matrices of 405 and 405 clouds of 512 points | 15 s |
# | nearest neighbours of the same by exact optimal matching | 55 s |
#
# ## What was learned
# Kernels, recomputation, files, processes and interruptions do not change the result, as the assertions on this page
# check. bfloat16 changes it a little if only hidden layers are rounded, and several times as much if everything is.
# Next: [choose a preset](../how-to/choose-a-preset.md) before a long run, [read its loss](../how-to/read-a-loss.md),
# and train on [your own data](9_your_own_data.md).

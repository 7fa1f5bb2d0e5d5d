"""Write files of the version of commit 9dad2bf, for later ones to read: `python make.py FOLDER` in its checkout."""

import contextlib
import copy
import itertools
import signal
import sys
from pathlib import Path

import numpy as np
import torch

import pyro_pcflow as pcf

torch.set_num_threads(1)
OUT = Path(sys.argv[1])
OUT.mkdir(parents=True)
values = {}
ENCODER = {"point_dims": [8, 8], "hidden_dims": [8]}


def scramble(module, seed=0):
    """Weights that are not those of the start, so that every part has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return module


def points(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


torch.manual_seed(0)
plain = pcf.PointCloudFlow(
    3,
    num_couplings=3,
    hidden_dims=[8, 8, 8],
    residual=True,
    act_norm_between=True,
    mixing=True,
    total_log_scale=6.0,
    activation="gelu",
).double()
plain.normalize(5 + 2 * points(500, 3))
conditional = pcf.PointCloudFlow(
    2,
    4,
    num_couplings=4,
    hidden_dims=[8, 8],
    conditioning="film",
    context_dims=[6],
    separate_networks=True,
    masks="alternate",
    num_frequencies=2,
).double()
additive = pcf.PointCloudFlow(3, 4, num_couplings=2, hidden_dims=[8], affine=False, conditioning="concat_squash")
mixture = pcf.MixtureOfFlows(2, 3, 4, num_couplings=2, hidden_dims=[8]).double()
vae = pcf.PointCloudVAE(
    3,
    4,
    prior="flow",
    num_classes=2,
    noise_input=True,
    decoder={"num_couplings": 2, "hidden_dims": [8]},
    prior_options={"num_couplings": 2, "hidden_dims": [8]},
    encoder=ENCODER,
).double()
decoder = pcf.models.AutoDecoder(6, 3, 4, decoder={"num_couplings": 2, "hidden_dims": [8]}).double()
context = points(5, 4, seed=1)
x3, x2 = points(5, 7, 3, seed=2), points(5, 7, 2, seed=2)
values |= {"context": context, "x3": x3, "x2": x2}
for name, module in {
    "plain": plain,
    "conditional": conditional,
    "additive": additive,
    "mixture": mixture,
    "vae": vae,
    "auto_decoder": decoder,
}.items():
    pcf.save(scramble(module), OUT / f"{name}.pt")
with torch.no_grad():
    values["plain"] = plain.log_prob(x3)
    values["conditional"] = conditional.log_prob(x2, context.unsqueeze(1))
    values["additive"] = additive.log_prob(x3.float(), context.float().unsqueeze(1))
    values["mixture"] = mixture.log_prob(x3, context.unsqueeze(1))
    labels = torch.tensor([0, 1, 0, 1, 1])
    latents = vae.encode(x3, labels=labels).mean
    values["vae_latents"] = latents
    values["vae"] = vae.decode(latents, 7, labels=labels, noise_level=0.3).log_prob(x3)
    values["vae_prior"] = vae.prior_of(labels).log_prob(latents)
    values["auto_decoder"] = decoder.decode(context, 7).log_prob(x3)


@contextlib.contextmanager
def stopping(kind, name, at):
    """Interrupt at the `at`-th call of a method of a class."""
    method, calls = getattr(kind, name), itertools.count(1)

    def counted(*arguments, **options):
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return method(*arguments, **options)

    setattr(kind, name, counted)
    try:
        yield
    finally:
        setattr(kind, name, method)


def run(make, method, data, name, **options):
    torch.manual_seed(1)
    stopped = make()
    whole = copy.deepcopy(stopped)
    options = {
        "max_steps": 40,
        "checkpoint_every": 10,
        "eval_every": 15,
        "log_every": 5,
        "pictures": False,
        "progress": False,
        "device": "cpu",
        "warmup_steps": 5,
        "ema_decay": 0.9,
        **options,
    }
    with contextlib.suppress(KeyboardInterrupt), stopping(type(stopped), method, 25):
        pcf.fit(stopped, data, out=OUT / name, **options)
    (OUT / name / ".lock").unlink()
    result = pcf.fit(whole, data, **options)
    for key, value in whole.named_parameters():
        values[f"{name}/{key}"] = value
    values[f"{name}.nats_per_point"] = torch.tensor(result.nats_per_point)


cloud = points(400, 3, seed=3)
clouds = points(20, 80, 3, seed=4)
values |= {"cloud": cloud, "clouds": clouds}
run(
    lambda: pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).double(),
    "log_prob",
    cloud,
    "run_of_points",
    batch_size=50,
    noise=0.05,
)
run(
    lambda: pcf.PointCloudVAE(3, 3, encoder=ENCODER, decoder={"num_couplings": 2, "hidden_dims": [8]}).double(),
    "joint",
    clouds,
    "run_of_clouds",
    batch_size=5,
    points_per_cloud=16,
    seen_points=32,
    noise=0.05,
)
np.savez_compressed(OUT / "values.npz", **{key: value.detach().numpy() for key, value in values.items()})

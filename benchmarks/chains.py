"""Draws per second of three ways to run chains: Pyro's NUTS, the same on TorchScript, and many chains at once.

    python -m benchmarks.chains spot.obj                                    # the table of docs/benchmarks.md
    python -m benchmarks.chains spot.obj --scans 1 --train-steps 20 --steps 20 --warmup 20

A smooth flow is fitted to the surface of a mesh, and the pose of a scan of 100 points of it is inferred: a rotation
with a spread of 0.2 radians about each axis, and a translation. Contenders take turns. A chain of NUTS has as many
steps as each of the 16 chains that `sample_posterior` runs at once. What counts is the least effective number of draws
of the entries of the rotation matrix and of the translation, per CPU second, warm-up and start included.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.meshes import load_shape

NUM_POINTS, NUM_CHAINS = 100, 16


def pose_model(flow: pcf.PointCloudFlow, scan: Tensor | None) -> None:
    """A scan of the object in an unknown pose."""
    pose = pcf.infer.sample_pose(spread=0.2, translation=dist.Normal(torch.zeros(3), 0.5).to_event(1))
    posed = dist.TransformedDistribution(flow.condition(), [pose])
    pyro.sample("scan", pcf.PointCloud(posed, num_points=NUM_POINTS), obs=scan)


def by_nuts(flow: pcf.PointCloudFlow, scan: Tensor, steps: int, warmup: int, *, jit: bool) -> dict[str, Tensor]:
    """Draws of one chain, shape `(1, steps, ...)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is deprecated, and each trace that it is one
        kernel = NUTS(lambda: pose_model(flow, scan), jit_compile=jit, ignore_jit_warnings=jit)
        chain = MCMC(kernel, num_samples=steps, warmup_steps=warmup, disable_progbar=True)
        chain.run()
    return {name: value.unsqueeze(0) for name, value in chain.get_samples().items()}


def at_once(flow: pcf.PointCloudFlow, scan: Tensor, steps: int, warmup: int) -> dict[str, Tensor]:
    """Draws of many chains, shape `(chains, steps, ...)`."""
    found = pcf.infer.sample_posterior(
        lambda: pose_model(flow, scan), num_chains=NUM_CHAINS, num_steps=steps, warmup_steps=warmup
    )
    return found.samples


def effective_draws(samples: dict[str, Tensor]) -> float:
    """The least effective number of draws of a pose."""
    pose = pcf.infer.pose_of(samples)
    rotation = effective_sample_size(pose.rotation, chain_dim=0, sample_dim=1)
    translation = effective_sample_size(samples["pose_translation"], chain_dim=0, sample_dim=1)
    return min(rotation.min().item(), translation.min().item())


def main() -> None:
    """Fit, scan, sample in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mesh", type=Path)
    parser.add_argument("--scans", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--train-steps", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of each chain (%(default)s)")
    parser.add_argument("--warmup", type=int, default=200, help="of each chain (%(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shape = load_shape(arguments.mesh)
    flow = pcf.PointCloudFlow(3, activation="tanh", num_frequencies=0, base="normal")
    pcf.fit(flow, shape.train, max_steps=arguments.train_steps, noise=shape.noise)
    flow.requires_grad_(False)
    contenders: dict[str, Callable[..., dict[str, Tensor]]] = {
        "NUTS": lambda *of: by_nuts(flow, *of, jit=False),
        "NUTS, TorchScript": lambda *of: by_nuts(flow, *of, jit=True),
        "sample_posterior": lambda *of: at_once(flow, *of),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(arguments.scans):
        scan = pyro.poutine.trace(pose_model).get_trace(flow, None).nodes["scan"]["value"]
        for name, sample in contenders.items():
            begin = time.process_time()
            samples = sample(scan, arguments.steps, arguments.warmup)
            seconds = time.process_time() - begin
            rates[name].append((effective_draws(samples), seconds))
    print("| chains | effective draws | CPU s | draws per CPU s |\n| --- | --- | --- | --- |")
    for name, found in rates.items():
        draws, seconds = (statistics.median(column) for column in zip(*found, strict=True))
        rate = statistics.median(draws / seconds for draws, seconds in found)
        print(f"| {name} | {draws:.0f} | {seconds:.1f} | {rate:.1f} |")


if __name__ == "__main__":
    main()

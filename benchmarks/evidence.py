r"""How tight bounds of the evidence are: of clouds that a model drew, and of held-out ones.

    python -m benchmarks.evidence body body.npz                            # the shipped model, 8 clouds of each kind
    python -m benchmarks.evidence body body.npz --clouds 0                 # intervals alone

Of the model's own clouds the latents are known, and annealed importance sampling bounds the evidence from both sides:
the gap says how loose either can be. `log_prob` is compared with the lower bound, which a gap near 0 shows to be tight.
Then, how many of the true latents of other clouds of the model lie in the central 90% intervals of `encode`, and of
`refine`, in the noise under the prior.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import ComposeTransform

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT

# Of a central 90% interval of a normal, in standard deviations.
HALF_WIDTH = 1.645


def row(kind: str, model: Any, clouds: Tensor, latents: Tensor | None, temperatures: int) -> str:
    """A line about some clouds, in nats per cloud."""
    begin = time.process_time()
    found = pcf.infer.evidence(model, clouds, latents=latents, num_temperatures=temperatures)
    seconds = (time.process_time() - begin) / len(clouds)
    gap = "" if found.upper is None else f"{(found.upper - found.lower).max():.1f}"
    with torch.no_grad():
        loose = [found.lower - model.log_prob(clouds, num_particles=64, refine_steps=steps) for steps in (0, 3)]
    loss = " | ".join(f"{value.min():.1f} to {value.max():.1f}" for value in loose)
    return (
        f"| {kind} | {len(clouds)} | {found.lower.mean():.1f} | {gap} | {found.effective_sample_size.median():.1f} | "
        f"{seconds:.1f} | {loss} |"
    )


def coverage(model: Any, clouds: Tensor, latents: Tensor) -> str:
    """A line about how often 90% intervals hold the latents that made clouds."""
    with torch.no_grad():
        encoded = model.encode(clouds, check=False).base_dist
        refined = model.refine(clouds)
    noise = ComposeTransform(refined.transforms).inv(latents)
    normal = refined.base_dist
    shares = [
        ((latents - encoded.mean).abs() < HALF_WIDTH * encoded.stddev).double().mean(),
        ((noise - normal.mean).abs() < HALF_WIDTH * normal.stddev).double().mean(),
    ]
    return f"| {clouds.shape[1]} | {len(clouds)} | {' | '.join(f'{share:.0%}' for share in shares)} |"


def bounds(model: Any, path: Path, count: int, points: int, temperatures: int) -> None:
    """Print a table of bounds."""
    train, _, test = load_splits(path)
    held_out = test[:count, :points]
    held_out = held_out + NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0]) * torch.randn_like(held_out)
    latents, own = drawn(model, count, points)
    print(
        "| clouds | number | lower bound, mean | largest gap | effective particles | CPU s a cloud | log_prob, 64 | "
        "log_prob, 64, refine_steps=3 |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    print(row("the model's own", model, own, latents, temperatures), flush=True)
    print(row("held out", model, held_out, None, temperatures), flush=True)


def drawn(model: Any, count: int, points: int) -> tuple[Tensor, Tensor]:
    """Latents and clouds of the model."""
    with torch.no_grad():
        latents = model.latent_prior().expand((count,)).sample()
        return latents, model.decode(latents, points).sample()


def main() -> None:
    """Bound, cover, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a pretrained model, or a file")
    parser.add_argument("data", type=Path, help="category file")
    parser.add_argument("--clouds", type=int, default=8, help="of each kind, for bounds; 0 for none (%(default)s)")
    parser.add_argument("--points", type=int, default=2048, help="of a cloud, for bounds (%(default)s)")
    parser.add_argument("--temperatures", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--covered", type=int, default=50, help="clouds, for intervals (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 512, 2048], help="points (%(default)s)")
    arguments = parser.parse_args()
    name = arguments.model
    model: Any = pcf.load_pretrained(name) if name in pcf.models.PRETRAINED else pcf.load(name)
    torch.manual_seed(0)
    if arguments.clouds:
        bounds(model, arguments.data, arguments.clouds, arguments.points, arguments.temperatures)
    print("| points | clouds | encode | refine |\n| --- | --- | --- | --- |")
    for count in arguments.sizes:
        latents, own = drawn(model, arguments.covered, count)
        print(coverage(model, own, latents), flush=True)


if __name__ == "__main__":
    main()

r"""How tight bounds of the evidence are: of clouds that a model drew, and of held-out ones.

    python -m benchmarks.evidence body body.npz                            # the shipped model, 8 clouds of each kind

Of the model's own clouds the latents are known, and annealed importance sampling bounds the evidence from both sides:
the gap says how loose either can be. `log_prob` is compared with the lower bound, which a gap near 0 shows to be tight.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT


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


def main() -> None:
    """Bound, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a pretrained model, or a file")
    parser.add_argument("data", type=Path, help="category file")
    parser.add_argument("--clouds", type=int, default=8, help="of each kind (%(default)s)")
    parser.add_argument("--points", type=int, default=2048, help="of a cloud (%(default)s)")
    parser.add_argument("--temperatures", type=int, default=16, help="(%(default)s)")
    arguments = parser.parse_args()
    name = arguments.model
    model: Any = pcf.load_pretrained(name) if name in pcf.models.PRETRAINED else pcf.load(name)
    torch.manual_seed(0)
    train, _, test = load_splits(arguments.data)
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0])
    held_out = test[: arguments.clouds, : arguments.points]
    held_out = held_out + noise * torch.randn_like(held_out)
    with torch.no_grad():
        latents = model.latent_prior().expand((arguments.clouds,)).sample()
        own = model.decode(latents, arguments.points).sample()
    print(
        "| clouds | number | lower bound, mean | largest gap | effective particles | CPU s a cloud | log_prob, 64 | ",
        end="",
    )
    print("log_prob, 64, refine_steps=3 |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(row("the model's own", model, own, latents, arguments.temperatures), flush=True)
    print(row("held out", model, held_out, None, arguments.temperatures), flush=True)


if __name__ == "__main__":
    main()

"""What a trained model of many clouds scores on a split, and how much its encoder leaves to be found.

    python -m benchmarks.tools.score_model body.npz                               # the model that is shipped
    python -m benchmarks.tools.score_model body.npz --model runs/body/shipped.pt --split val

The evidence lower bound of whole clouds, as ``pcf.fit`` scores held-out ones: half of the points for the encoder, the
other half scored, for all of them. Then the importance-weighted bound of all points, with posteriors by the encoder and
after steps on each cloud's own posterior; and the same bound where the encoder reads some of the points alone.
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
from benchmarks.common.scores import evidence_lower_bound

PARTICLES = 8
REFINE_STEPS = (0, 1, 3, 6)
ENCODED = (128, 256, 512, 1024, 2048)


def scores_of(vae: Any, clouds: Tensor, noise: float) -> list[str]:
    """Lines of text about the bounds of clouds, shape `(S, N, D)`, that are thickened by noise."""
    bound = evidence_lower_bound(vae, clouds, noise)
    lines = [
        f"{len(clouds)} clouds, evidence lower bound: {bound['nats_per_point']:.3f} nats per point, "
        f"{bound['nats_per_cloud']:.0f} nats per cloud, KL {bound['kl']:.1f}"
    ]
    noisy = clouds + noise * torch.randn(clouds.shape, generator=torch.Generator().manual_seed(0))
    for steps in REFINE_STEPS:
        torch.manual_seed(0)
        start = time.perf_counter()
        found = pcf.metrics.importance_weighted_bound(vae, noisy, num_particles=PARTICLES, refine_steps=steps)
        seconds = (time.perf_counter() - start) / len(clouds)
        lines.append(f"{found.kind}: {found.nats_per_point:.3f} nats per point, {seconds:.3f} s per cloud")
    for count in ENCODED:
        if count <= noisy.shape[-2]:
            torch.manual_seed(0)
            with torch.no_grad():
                posterior = vae.encode(noisy[:, :count])
                nats = vae.log_prob(noisy, num_particles=PARTICLES, posterior=posterior).mean() / noisy.shape[-2]
            lines.append(f"the same of the encoder that reads {count} of the points: {nats:.3f}")
    return lines


def main() -> None:
    """Load, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a category file with points and split")
    parser.add_argument("--model", type=Path, help="a file of `pcf.save`; the shipped model of bodies by default")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="what is scored (%(default)s)")
    arguments = parser.parse_args()
    train, validation, test = load_splits(arguments.data)
    vae = pcf.load(arguments.model).float() if arguments.model else pcf.load_pretrained("body")
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train)
    print(*scores_of(vae, test if arguments.split == "test" else validation, noise), sep="\n")


if __name__ == "__main__":
    main()

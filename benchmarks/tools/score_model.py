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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.scores import evidence_lower_bound

PARTICLES = 8
REFINE_STEPS = (0, 1, 3, 6)
ENCODED = (128, 256, 512, 1024, 2048)

# Clouds, shape (S, N, D), and their class numbers, (S,), or None where there is one class.
Labelled: TypeAlias = tuple[Tensor, Tensor | None]


def load_classes(paths: Sequence[Path]) -> list[Labelled]:
    """The clouds of the splits `train`, `val` and `test`, and which file each is of, if there are several.

    Args:
        paths: category files, or names of embedded examples, whose clouds have as many points.
    """
    splits = [load_splits(path) for path in paths]
    joined = [torch.cat(parts) for parts in zip(*splits, strict=True)]
    if len(paths) == 1:
        return [(clouds, None) for clouds in joined]
    sizes = [torch.tensor([len(part) for part in parts]) for parts in zip(*splits, strict=True)]
    numbers = torch.arange(len(paths))
    return [(clouds, numbers.repeat_interleave(counts)) for clouds, counts in zip(joined, sizes, strict=True)]


def in_form(data: Labelled) -> Any:
    """Clouds, with labels if they have some, in the form that `pcf.fit` takes."""
    clouds, labels = data
    return clouds if labels is None else (clouds, labels)


def scores_of(vae: Any, clouds: Tensor, labels: Tensor | None, noise: float) -> list[str]:
    """Lines of text about the bounds of clouds, shape `(S, N, D)`, that are thickened by noise."""
    bound = evidence_lower_bound(vae, in_form((clouds, labels)), noise)
    options = {} if labels is None else {"labels": labels}
    lines = [
        f"{len(clouds)} clouds, evidence lower bound: {bound['nats_per_point']:.3f} nats per point, "
        f"{bound['nats_per_cloud']:.0f} nats per cloud, KL {bound['kl']:.1f}"
    ]
    noisy = clouds + noise * torch.randn(clouds.shape, generator=torch.Generator().manual_seed(0))
    for steps in REFINE_STEPS:
        torch.manual_seed(0)
        start = time.perf_counter()
        with torch.no_grad():
            nats = vae.log_prob(noisy, num_particles=PARTICLES, refine_steps=steps, **options).mean() / noisy.shape[-2]
        seconds = (time.perf_counter() - start) / len(clouds)
        lines.append(
            f"{PARTICLES} particles, refined by {steps} steps: {nats:.3f} nats per point, {seconds:.3f} s per cloud"
        )
    for count in ENCODED:
        if count <= noisy.shape[-2]:
            torch.manual_seed(0)
            with torch.no_grad():
                posterior = vae.encode(noisy[:, :count], **options)
                found = vae.log_prob(noisy, num_particles=PARTICLES, posterior=posterior, **options)
            lines.append(f"{PARTICLES} particles, encoded from {count} points: {found.mean() / noisy.shape[-2]:.3f}")
    return lines


def main() -> None:
    """Load, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="category files with points and split, one for each class")
    parser.add_argument("--model", type=Path, help="a file of `pcf.save`; the shipped model of bodies by default")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="what is scored (%(default)s)")
    arguments = parser.parse_args()
    train, validation, test = load_classes(arguments.data)
    vae = pcf.load(arguments.model).float() if arguments.model else pcf.load_pretrained("body")
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0])
    print(*scores_of(vae, *(test if arguments.split == "test" else validation), noise), sep="\n")


if __name__ == "__main__":
    main()

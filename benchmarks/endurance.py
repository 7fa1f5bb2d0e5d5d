"""A long training of the default model of many clouds: no loss that is not finite, and memory that does not grow.

    python -m benchmarks.endurance face.npz                 # 20,000 steps or two hours, whichever ends first
    python -m benchmarks.endurance face.npz --steps 1000

The loop itself stops at the first loss that is not finite. Resident memory is read every hundred steps, where Linux
keeps it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT, VAE_LEARNING_RATE

EVERY = 100
MEBIBYTE = 2**20


class Watched(pcf.PointCloudVAE):
    """The default model, which notes the resident memory in bytes every hundred training steps."""

    def __init__(self) -> None:
        super().__init__(3)
        self.steps = 0
        self.resident: list[int] = []

    def decode(self, *arguments: Any, **options: Any) -> pcf.PointCloud:
        """As of the model, once per step."""
        if self.training:
            self.steps += 1
            if self.steps % EVERY == 0:
                self.resident.append(resident_bytes())
        return super().decode(*arguments, **options)


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Train, and print what memory did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a category file with points and split")
    parser.add_argument("--steps", type=int, default=20_000, help="most steps (%(default)s)")
    parser.add_argument("--seconds", type=float, default=7200.0, help="most seconds (%(default)s)")
    parser.add_argument("--lr", type=float, default=VAE_LEARNING_RATE, help="highest learning rate (%(default)s)")
    arguments = parser.parse_args()
    train, validation, _ = load_splits(arguments.data)
    torch.manual_seed(0)
    model = Watched()
    result = pcf.fit(
        model,
        train,
        held_out=validation,
        noise=NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train),
        lr=arguments.lr,
        max_steps=arguments.steps,
        max_seconds=arguments.seconds,
    )
    losses = [line["loss"] for line in result.history]
    print(f"{result}; {len(losses)} logged losses, {'all finite' if np.isfinite(losses).all() else 'NOT ALL FINITE'}")
    resident = [value / MEBIBYTE for value in model.resident]
    for step in sorted({1, 5, 10, 50, 100, 150, len(resident)}):
        if step <= len(resident):
            print(f"  resident memory at step {EVERY * step}: {resident[step - 1]:.1f} MiB")
    print(f"  from the lowest to the highest from step {EVERY} on: {min(resident):.1f} to {max(resident):.1f} MiB")


if __name__ == "__main__":
    main()

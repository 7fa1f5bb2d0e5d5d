"""A long training of the default model of many clouds: no loss that is not finite, and memory that does not grow.

    python -m benchmarks.endurance face.npz                 # 20,000 steps or two hours, whichever ends first
    python -m benchmarks.endurance face.npz --steps 1000

The loop itself stops at the first loss that is not finite. Resident memory is read every hundred steps, where Linux
keeps it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT, VAE_LEARNING_RATE

EVERY = 100
MEBIBYTE = 2**20


class MemoryLog(pcf.training.Callback):
    """Notes the resident memory, in bytes, with each line of the metrics."""

    def __init__(self) -> None:
        self.resident: dict[int, int] = {}

    def on_log(self, progress: pcf.training.Progress, line: Mapping[str, Any]) -> None:
        """See the base class."""
        self.resident[progress.step] = resident_bytes()


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
    memory = MemoryLog()
    result = pcf.fit(
        pcf.PointCloudVAE(3),
        train,
        held_out=validation,
        noise=NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train),
        lr=arguments.lr,
        max_steps=arguments.steps,
        max_seconds=arguments.seconds,
        callbacks=[memory],
        logging=pcf.training.Logging(log_every=EVERY),
    )
    losses = [line["loss"] for line in result.history]
    print(f"{result}; {len(losses)} logged losses, {'all finite' if np.isfinite(losses).all() else 'NOT ALL FINITE'}")
    resident = {step: value / MEBIBYTE for step, value in memory.resident.items()}
    for step in sorted({1, 5, 10, 50, 100, 150, arguments.steps // EVERY}):
        if step * EVERY in resident:
            print(f"  resident memory at step {step * EVERY}: {resident[step * EVERY]:.1f} MiB")
    lowest, highest = min(resident.values()), max(resident.values())
    print(f"  from the lowest to the highest from step {min(resident)} on: {lowest:.1f} to {highest:.1f} MiB")


if __name__ == "__main__":
    main()

"""How the context of a cloud should act on a coupling: held-out nats per point on many clouds, at equal seconds.

    python -m benchmarks.conditioning body.npz                 # the table of docs/benchmarks.md
    python -m benchmarks.conditioning body.npz --seconds 5 --seeds 1 --shapes 20

An auto-decoder: every cloud has an embedding that is learned with the flow, three quarters of its points are trained
on and the others held out. Contenders differ in ``conditioning`` alone. They take turns of about a second in one
process, each with its own clock, so that the load of the machine is the same for all.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pyro_pcflow as pcf
from benchmarks.common.constants import CONDITIONINGS

CONTEXT_DIM = 32
CLOUDS_PER_BATCH = 16
POINTS_PER_CLOUD = 256
LEARNING_RATE = 5e-3


@dataclass
class Contender:
    """A flow, its embeddings and its clock."""

    conditioning: str
    seed: int
    clouds: Tensor
    held_out: Tensor
    seconds: float
    clock: float = 0.0
    steps: int = 0
    flow: pcf.PointCloudFlow = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.flow = pcf.PointCloudFlow(3, CONTEXT_DIM, hidden_dims=(64, 64), conditioning=self.conditioning)
        self.flow.normalize(self.clouds)
        self.embeddings = nn.Parameter(0.1 * torch.randn(len(self.clouds), CONTEXT_DIM))
        self.parameters = [*self.flow.parameters(), self.embeddings]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)
        self.generator = torch.Generator().manual_seed(self.seed)

    def turn(self, seconds: float) -> None:
        """Train for some seconds of the contender's own clock."""
        start, before = time.perf_counter(), self.clock
        while self.clock < min(before + seconds, self.seconds):
            self._step()
            self.clock = before + time.perf_counter() - start

    def _step(self) -> None:
        decay = 0.5 * (1 + math.cos(math.pi * self.clock / self.seconds))
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (self.steps + 1) / 100) * decay
        which = torch.randint(len(self.clouds), (CLOUDS_PER_BATCH,), generator=self.generator)
        points = torch.randint(self.clouds.shape[1], (POINTS_PER_CLOUD,), generator=self.generator)
        batch = self.clouds[which][:, points]
        loss = -self.flow.log_prob(batch, self.embeddings[which].unsqueeze(-2)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.steps += 1

    @torch.no_grad()
    def score(self) -> float:
        """Mean log-density of the held-out points, in nats."""
        scores = [
            self.flow.log_prob(clouds, embeddings.unsqueeze(-2))
            for clouds, embeddings in zip(self.held_out.split(64), self.embeddings.split(64), strict=True)
        ]
        return float(torch.cat(scores).mean())


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a category file with points and split")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shapes", type=int, default=200, help="number of clouds of the train split")
    arguments = parser.parse_args()
    with np.load(arguments.data) as file:
        points = torch.from_numpy(file["points"][file["split"] == "train"][: arguments.shapes])
    train, held_out = points.split([points.shape[1] * 3 // 4, points.shape[1] - points.shape[1] * 3 // 4], 1)

    finished: list[Contender] = []
    for seed in range(arguments.seeds):
        running = [Contender(name, seed, train, held_out, arguments.seconds) for name in CONDITIONINGS]
        while any(contender.clock < contender.seconds for contender in running):
            for contender in running:
                contender.turn(1.0)
        finished += running
        for contender in running:
            print(f"seed {seed} {contender.conditioning}: {contender.score():.3f}", file=sys.stderr, flush=True)

    print(
        "| conditioning | held-out nats per point | each seed | steps | parameters |\n| --- | --- | --- | --- | --- |"
    )
    for name in CONDITIONINGS:
        runs = [contender for contender in finished if contender.conditioning == name]
        scores = [run.score() for run in runs]
        steps = statistics.mean(run.steps for run in runs)
        parameters = sum(parameter.numel() for parameter in runs[0].flow.parameters())
        each = ", ".join(f"{score:.3f}" for score in scores)
        print(f"| `{name}` | {statistics.mean(scores):.3f} | {each} | {steps:.0f} | {parameters:,} |")


if __name__ == "__main__":
    main()

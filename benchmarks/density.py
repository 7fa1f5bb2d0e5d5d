"""Held-out nats per point on single meshes, at equal seconds of training: a Gaussian, Pyro's own couplings, ours.

    python -m benchmarks.density MESH_FOLDER                       # the table of docs/benchmarks.md
    python -m benchmarks.density MESH_FOLDER --seconds 2 --seeds 1 # a smoke run
    python -m benchmarks.density MESH_FOLDER --exact               # what the true density would score

Points are sampled by area and thickened by Gaussian noise of 0.01 of the half extent of the bounding box, so that the
density is well-posed; log-densities are in units of that half extent. Both flows have 12 couplings with two hidden
layers of 64, and the same loop, batch and schedule. Each takes the best of three learning rates by a validation set of
the first seed. Runs of the two alternate, so that the load of the machine is the same for both; both are scored on the
same points. A run that diverges is scored by the last averaged weights that were finite, and marked. The true density,
which nothing can beat, is the mean of Gaussians around points of the surface, of which millions are drawn.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn

import pyro_pcflow as pcf
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.meshes import Shape, load_shape, mesh_paths
from benchmarks.common.racing import race, reporter
from benchmarks.common.scores import nats_per_point
from benchmarks.rivals.gaussian import Gaussian
from benchmarks.rivals.pyro_stack import PyroStack

LEARNING_RATES = (2.5e-3, 5e-3, 1e-2)
CONTENDERS: dict[str, Callable[[], nn.Module]] = {
    "pyro": lambda: PyroStack(3, num_couplings=12, hidden_dims=(64, 64)),
    "ours": lambda: pcf.PointCloudFlow(3, num_couplings=12, hidden_dims=(64, 64)),
}


@dataclass(frozen=True)
class Run:
    """One training run and its scores in nats per point."""

    mesh: str
    contender: str
    seed: int
    lr: float
    steps: int
    seconds: float
    validation: float
    test: float
    diverged_at: int | None


def exact_log_prob(points: np.ndarray, surface: np.ndarray, noise: float) -> np.ndarray:
    """Log-density of points of a surface to which Gaussian noise is added, in nats.

    Args:
        points: shape `(N, D)`.
        surface: independent points of the surface, shape `(M, D)`: many for every square of the noise's width.
        noise: standard deviation.
    """
    tree, dim = cKDTree(surface), surface.shape[1]
    sums = []
    for piece in np.array_split(points, max(1, len(points) // 200)):
        near = cKDTree(piece).sparse_distance_matrix(tree, 6 * noise, output_type="ndarray")
        sums.append(np.bincount(near["i"], np.exp(-0.5 * (near["v"] / noise) ** 2), len(piece)))
    with np.errstate(divide="ignore"):  # a point far from the surface has a density of zero
        return np.log(np.concatenate(sums) / len(surface)) - dim / 2 * math.log(2 * math.pi * noise**2)


def exact_row(path: Path, shape: Shape, num_points: int = 3_000_000) -> str:
    """What the true density scores on a mesh, with a standard error, as a line of a Markdown table."""
    surface = (pcf.data.load_clouds(path, num_points, seed=1)[0] - shape.center) / shape.unit
    scores = exact_log_prob(shape.test.double().numpy(), surface.double().numpy(), NOISE_PER_HALF_EXTENT)
    return f"| {shape.name} | {scores.mean():.3f} | {scores.std() / math.sqrt(len(scores)):.3f} |"


def train(shape: Shape, contender: str, lr: float, seed: int, seconds: float) -> Run:
    """Train one contender with the loop that users have."""
    torch.manual_seed(seed)
    module = CONTENDERS[contender]()
    start, diverged_at = time.perf_counter(), None
    try:
        steps = pcf.fit(
            module,
            shape.train,
            max_seconds=seconds,
            lr=lr,
            seed=seed,
            noise=NOISE_PER_HALF_EXTENT,
            held_out=shape.validation,
            logging=pcf.training.Logging(progress=False),
        ).steps
    except pcf.training.TrainingDivergedError as error:
        steps = diverged_at = error.step
    spent = round(time.perf_counter() - start, 2)
    validation, test = (nats_per_point(module, points) for points in (shape.validation, shape.test))
    return Run(shape.name, contender, seed, lr, steps, spent, validation, test, diverged_at)


def describe(run: Run) -> str:
    """One run as a line of text."""
    return (
        f"{run.mesh} {run.contender} seed {run.seed} lr {run.lr:g}: {run.test:.3f} nats per point after "
        f"{run.steps} steps in {run.seconds:.1f} s{'' if run.diverged_at is None else ', diverged'}"
    )


def row(shape: Shape, runs: list[Run]) -> str:
    """One line of the Markdown table."""
    gaussian = nats_per_point(Gaussian(shape.train, NOISE_PER_HALF_EXTENT), shape.test)
    scores = {name: [run.test for run in runs if run.contender == name] for name in CONTENDERS}
    rates = {name: next(run.lr for run in runs if run.contender == name) for name in CONTENDERS}
    gains = [ours - pyro for ours, pyro in zip(scores["ours"], scores["pyro"], strict=True)]
    cells = [
        shape.name,
        f"{gaussian:.2f}",
        f"{statistics.mean(scores['pyro']):.3f} ({min(scores['pyro']):.3f} to {max(scores['pyro']):.3f})",
        f"{statistics.mean(scores['ours']):.3f} ({min(scores['ours']):.3f} to {max(scores['ours']):.3f})",
        f"{statistics.mean(gains):+.3f} (least {min(gains):+.3f})",
        f"{rates['pyro']:g}, {rates['ours']:g}",
        ", ".join(f"{statistics.mean(r.steps for r in runs if r.contender == name):.0f}" for name in CONTENDERS),
    ]
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| mesh | Gaussian | Pyro's own | ours | ours ahead | learning rates | steps |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, help="a folder of meshes, or one mesh")
    parser.add_argument("--seconds", type=float, default=20.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contender that enter the table")
    parser.add_argument("--exact", action="store_true", help="print what the true density scores, and train nothing")
    parser.add_argument("--log", type=Path, help="append every run to this file, a JSON object per line")
    arguments = parser.parse_args()
    report = reporter(describe, arguments.log)

    paths = mesh_paths(arguments.meshes, parser)
    if arguments.exact:
        print("| mesh | true density | standard error |\n| --- | --- | --- |")
        for path in paths:
            print(exact_row(path, load_shape(path)), flush=True)
        return
    rows = []
    for path in paths:
        shape = load_shape(path)
        run = partial(train, shape, seconds=arguments.seconds)
        rows.append(row(shape, race(run, CONTENDERS, LEARNING_RATES, arguments.seeds, report)))
        print(rows[-1], file=sys.stderr, flush=True)
    print(HEADER, *rows, sep="\n")


if __name__ == "__main__":
    main()

"""Whether a held-out score of a small scan can be believed: it, and its interval, beside the score of fresh points.

    python -m benchmarks.held_out MESH_FOLDER                                  # the table of docs/benchmarks.md
    python -m benchmarks.held_out spot.obj --points 100 --scans 2 --seconds 2  # a smoke run

A scan has some points of a mesh's surface with a sensor's noise of 0.01 half extents, each once. `pcf.fit` trains a
`PointCloudFlow` on it by all defaults and `noise="auto"`, and reports the score of the tenth that it held out, with a
standard error. Fresh are 20,000 other points of the surface with noise of their own, scored as `fit` scores what it
holds out: with the noise that it chose on top.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import pyro_pcflow as pcf
from benchmarks.common.meshes import load_shape, mesh_paths

# Of a normal distribution, so many standard errors to each side hold 95%.
TO_EACH_SIDE = 1.96


@dataclass(frozen=True)
class Trial:
    """What `fit` reported of a scan, and the score of fresh points, in nats per point."""

    reported: float
    error: float
    fresh: float

    @property
    def away(self) -> float:
        """How far the reported score is too high."""
        return self.reported - self.fresh

    @property
    def covered(self) -> bool:
        """Whether the interval of 95% holds the score of fresh points."""
        return abs(self.away) <= TO_EACH_SIDE * self.error


def run_trial(path: Path, num_points: int, seed: int, seconds: float) -> Trial:
    """Scan a mesh, fit a flow, and score it."""
    shape = load_shape(path)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(shape.train), generator=generator)[:num_points]
    scan = shape.train[rows]
    scan = scan + shape.noise * torch.randn(scan.shape, generator=generator)
    torch.manual_seed(seed)
    flow = pcf.PointCloudFlow(3)
    result = pcf.fit(flow, scan, max_seconds=seconds, noise="auto", seed=seed)
    assert result.nats_per_point is not None
    assert result.noise is not None
    fresh = shape.test + result.noise * torch.randn(shape.test.shape, generator=generator)
    with torch.no_grad():
        score = flow.log_prob(fresh).double().mean().item()
    return Trial(result.nats_per_point, result.scores["standard_error"], score)


def row(num_points: int, trials: Sequence[Trial]) -> str:
    """A line of the table."""
    away = [trial.away for trial in trials]
    root = (sum(value**2 for value in away) / len(away)) ** 0.5
    near = sum(abs(value) <= 0.1 for value in away) / len(away)
    covered = sum(trial.covered for trial in trials) / len(trials)
    return (
        f"| {num_points} | {len(trials)} | {statistics.mean(away):+.3f} | {root:.3f} | "
        f"{statistics.mean(trial.error for trial in trials):.3f} | {near:.0%} | {covered:.0%} |"
    )


def main() -> None:
    """Print a line for each number of points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, help="a mesh, or a folder of .obj files")
    parser.add_argument("--points", type=int, nargs="+", default=[100, 300, 1000, 5000], help="of a scan (%(default)s)")
    parser.add_argument("--scans", type=int, default=3, help="of each mesh (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each training, at most (%(default)s)")
    arguments = parser.parse_args()
    print("| points | scans | reported less fresh | root mean square | error said | within 0.1 | in the interval |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for num_points in arguments.points:
        trials = [
            run_trial(path, num_points, seed, arguments.seconds)
            for path in mesh_paths(arguments.meshes, parser)
            for seed in range(arguments.scans)
        ]
        print(row(num_points, trials), flush=True)


if __name__ == "__main__":
    main()
